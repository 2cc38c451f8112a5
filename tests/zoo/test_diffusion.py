"""The diffusion family: folding is exact, batches are seeded, training and distillation resume, the bars are met."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.quantization.metrics.denoising import DenoisingError
from edgekit.quantization.metrics.generated import Recognised
from edgekit.zoo import distillation
from edgekit.zoo.diffusion import CIFAR, DIGITS, Recipe, batches, noised, train
from edgekit.zoo.diffusion_bundle import FEW, calibrating
from edgekit.zoo.distillation import SCHEDULE, ddim, distil, landing, trajectories
from edgekit.zoo.training import Checkpoint
from edgekit.zoo.unet import Block, UNet

TINY = Recipe(
    name="tiny",
    widths="8 16",
    blocks=1,
    embedding=8,
    steps=6,
    batch=8,
    distil_trajectories=10,
    distil_steps=4,
    distil_batch=2,
)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), np.uint8)
LABELS = np.arange(20) % 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only lose by threads, most of all beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_folded_equals_trained() -> None:
    torch.manual_seed(0)
    net = TINY.net(norms=True)
    inputs = torch.randn(4, 1, 32, 32), torch.rand(4), torch.eye(10)[:4]
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net.train()
    for _ in range(3):
        net(*inputs)
    net.eval()
    folded = net.folded()
    with torch.no_grad():
        torch.testing.assert_close(folded(*inputs), net(*inputs), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    rebuilt = UNet(**TINY.sizes())  # type: ignore[arg-type]  # as a bundle's settings rebuild it
    rebuilt.load_state_dict(folded.state_dict())


def test_sizes_that_ship() -> None:
    """What the size of the wheel allows."""
    counts = [sum(p.numel() for p in recipe.recipe.net(norms=False).parameters()) for recipe in (DIGITS, CIFAR)]
    assert counts[0] <= 450_000 and counts[1] <= 1_300_000


def test_noised_is_the_forward_process() -> None:
    """The sample and its velocity give back the image; labels are dropped as often as asked."""
    sample, time, label, velocity = noised(IMAGES, LABELS, np.random.default_rng(0), drop_label=0.5)
    alpha, sigma = (f(time * np.pi / 2)[:, None, None, None] for f in (torch.cos, torch.sin))
    clean = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(alpha * sample - sigma * velocity, clean, atol=1e-5, rtol=0)
    assert 0 < int(label.sum()) < 20
    assert sorted((time * 20).int().tolist()) == list(range(20))  # one time in each twentieth


def test_batches_are_the_same_in_every_run() -> None:
    first, again = (list(batches(IMAGES, LABELS, TINY)) for _ in range(2))
    for (_, a), (_, b) in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    resumed = next(batches(IMAGES, LABELS, TINY, start=3))
    assert resumed[0] == 3 and torch.equal(resumed[1][0], first[3][1][0])


def test_training_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run cut in two gives the weights of one that was not; a checkpoint of another recipe is refused."""
    whole = train(IMAGES, LABELS, tmp_path / "whole", TINY)
    save = Checkpoint.save

    def dying(self: Checkpoint, step: int, last: bool = False) -> bool:
        save(self, step, last=True)
        if step == 3:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoint, "save", dying)
        train(IMAGES, LABELS, tmp_path / "cut", TINY)
    resumed = train(IMAGES, LABELS, tmp_path / "cut", TINY)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(InputError, match="another recipe"):
        train(IMAGES, LABELS, tmp_path / "cut", replace(TINY, learning_rate=1e-4))


def test_landing_inverts_ddim() -> None:
    sample, target = torch.randn(2, 1, 1, 4, 4)
    torch.testing.assert_close(ddim(sample, landing(sample, target, 0.7, 0.4), 0.7, 0.4), target)


def test_distillation_learns_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps of the student end nearer to where the guided teacher ended; what is done is not done again."""
    monkeypatch.setattr(distillation, "CHUNK", 100)
    torch.manual_seed(0)
    teacher = TINY.net(norms=False).eval()
    for layer in (
        teacher.tail,
        teacher.embed_label,
        *(m.modulation for m in teacher.modules() if isinstance(m, Block)),
    ):
        torch.nn.init.normal_(layer.weight, std=0.3)
    recipe = replace(TINY, distil_steps=60, distil_batch=8, distil_rate=3e-3, ema=0.9, guidance=6.0)
    states, labels = trajectories(teacher, tmp_path, recipe)
    assert states.shape == (5, 100, 1, 32, 32) and labels.shape == (100, 10)
    student = distil(teacher, tmp_path, recipe)
    assert _distance(student, states, labels) < 0.7 * _distance(teacher, states, labels)
    again = distil(teacher, tmp_path, recipe)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))


@torch.no_grad()
def _distance(net: UNet, states: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance of where four DDIM steps end from where the teacher ended."""
    sample, times = torch.from_numpy(states[0].astype(np.float32)), SCHEDULE.times(4)
    for now, then in itertools.pairwise(times):
        velocity = net(sample, torch.full((len(sample),), now), torch.from_numpy(labels))
        sample = ddim(sample, velocity, now, then)
    return float((sample - torch.from_numpy(states[-1].astype(np.float32))).square().mean())


def test_calibration_covers_sampling() -> None:
    torch.manual_seed(0)
    inputs = calibrating(TINY.net(norms=False).eval(), TINY, distilled=False)
    times = {round(float(time[0]), 3) for _, time, _ in inputs}
    labelled = [bool(label.any()) for _, _, label in inputs]
    assert len(inputs) == 200 and len(times) == 10 and sum(labelled) == 100
    assert all(a.dtype == np.float32 for arrays in inputs for a in arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "bar"), [({}, 97.0), (FEW, 95.0)], ids=["dpm++2m in 10 steps", "distilled, in 4 steps"]
)
def test_digits_are_recognised(options: dict[str, str], bar: float) -> None:
    """On 120 samples of another seed than the recorded figures': a share that is right to a point or two."""
    bundle = Bundle.open("digits-diffusion")
    metric = Recognised(120, seed=7, options=options)
    fp32 = metric.value(bundle, "onnxruntime", "fp32")
    assert fp32 >= bar - 2.0
    assert metric.value(bundle, "litert", "int8") >= fp32 - 2.5


def test_recorded_quality_meets_the_bars() -> None:
    """What the recipe measured, on 500 samples, for every engine and precision."""
    manifest = Bundle.open("digits-diffusion").manifest
    qualities = [v.quality for v in manifest.components["model"].variants if v.quality is not None]
    assert len(qualities) >= 3
    for quality in qualities:
        assert quality.value >= 96.0 and quality.drop <= 1.0
    best = max(q.value for q in qualities)
    assert best >= 97.0
    figures = manifest.provenance["figures"]
    for kind, bar in (("dpm++2m, 10 steps", 97.0), ("few-steps, 4 steps", 95.0)):
        recognised = figures[kind]["recognised_percent"]
        fp32 = recognised.pop("onnxruntime fp32")
        assert fp32 >= bar and all(value >= fp32 - 1.0 for value in recognised.values())


def test_denoising_error_sees_the_noise(data: Path) -> None:
    """The network tells digits from noise; noise that is called digits, it does not."""
    images, labels = DIGITS.recipe.images().load(data, "test")
    digits = DenoisingError(images[::500], labels[::500], "MNIST")
    strange = DenoisingError(np.random.default_rng(0).integers(0, 256, (20, 32, 32, 1), np.uint8), LABELS, "noise")
    bundle = Bundle.open("digits-diffusion")
    error = digits.value(bundle, "onnxruntime", "fp32")
    assert error < 0.15
    assert 2 * error < strange.value(bundle, "onnxruntime", "fp32")
    assert digits.drop(error + 0.1, error) == pytest.approx(0.1)
    with pytest.raises(InputError, match="cifar-cnn does not state"):
        digits.value(Bundle.open("cifar-cnn"), "onnxruntime", "fp32")


def test_colour_bundle_is_honest(data: Path) -> None:
    """cifar-diffusion states its distance beside the floor of real images, and int8 denoises as fp32 does."""
    from edgekit.zoo.diffusion_bundle import held_out

    bundle = Bundle.open("cifar-diffusion")
    figures = bundle.manifest.provenance["figures"]
    assert 0 < figures["frechet_floor"]["train"] < figures["dpm++2m, 10 steps"]["frechet_fp32"]
    metric = held_out(data, CIFAR.recipe, count=40)
    assert isinstance(metric, DenoisingError)
    fp32, int8 = (metric.value(bundle, "onnxruntime", precision) for precision in ("fp32", "int8"))
    assert fp32 < 0.3 and metric.drop(int8, fp32) < 0.01
