"""The style family: folding is exact, training resumes where it stopped, losses know the painting, bundles keep their bars."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle, shipped
from edgekit.errors import InputError
from edgekit.images import UInt8, write_image
from edgekit.runtimes.torch_ import load_module
from edgekit.tasks import load
from edgekit.zoo import style_losses, style_transfer
from edgekit.zoo.style_content import BORDER, MOVE, PAINTINGS, load_painting, looks, unsteadiness
from edgekit.zoo.style_figures import Content, flicker, gram_ratio, stacked
from edgekit.zoo.style_losses import Patches, palette_map, recoloured, to_batch
from edgekit.zoo.style_network import StyleNet, TrainingNet
from edgekit.zoo.style_transfer import Finish, Recipe, batches, net_source, train

FINISH = Finish(steps=2, batch=1, crop=72)
TINY = Recipe(
    style="wave", side=96, channels=8, thin=8, blocks=1, steps=6, batch=2, crop=64, fixed=0.5, finish=(FINISH,)
)
STYLES = tuple(PAINTINGS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order in every run; and small networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_data(tmp_path: Path, photo: UInt8) -> Path:
    """Archives as in the data folder, with little in them."""
    for name, parts in (("bsds_train.zip", 3), ("styles.zip", 1)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for i in range(parts):
                write_image(tmp_path / f"{i}.png", np.ascontiguousarray(photo[i * 50 : i * 50 + 130, :150]))
                archive.write(tmp_path / f"{i}.png", f"train/{i}.png" if parts > 1 else "wave.jpg")
    return tmp_path


# The network


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_folded_equals_trained(norm: str) -> None:
    torch.manual_seed(0)
    net = TrainingNet(16, 8, 2, norm)
    with torch.no_grad():
        for _ in range(3):
            net(torch.rand(2, 3, 32, 40))
        net.eval()
        image = torch.rand(1, 3, 24, 36)
        np.testing.assert_allclose(net.plain()(image), net(image).clamp(0, 1), atol=2e-5)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (64, 36)])
def test_any_multiple_of_four_comes_back(size: tuple[int, int]) -> None:
    with torch.no_grad():
        assert StyleNet(16, 8, 1).eval()(torch.rand(1, 3, *size)).shape == (1, 3, *size)


def test_halo_is_how_far_a_pixel_reaches() -> None:
    torch.manual_seed(0)
    net = StyleNet(8, 8, 2).eval()
    for layer in net.layers:
        torch.nn.init.uniform_(layer.weight, 0.001, 0.01)
    for pixel in range(60, 64):
        image = torch.full((1, 3, 8, 128), 0.1)
        touched = image.clone()
        touched[..., pixel] += 0.5
        with torch.no_grad():
            columns = (net(image) - net(touched)).abs().amax((0, 1, 2)).nonzero().flatten()
        assert pixel - net.halo <= int(columns.min()) and int(columns.max()) <= pixel + net.halo


def test_the_family_rebuilds_from_plain_numbers() -> None:
    source = net_source(StyleNet(24, 8, 3).eval(), [np.zeros((1, 3, 16, 16), np.float32)])
    assert source.settings == {"channels": 24, "thin": 8, "blocks": 3}
    StyleNet(**source.settings).load_state_dict(source.module.state_dict())


# The losses


def test_the_painting_itself_has_no_loss() -> None:
    painting = to_batch([np.random.default_rng(0).integers(0, 256, (96, 120, 3), np.uint8)])
    net = style_losses.cifar_network()
    with torch.no_grad():
        grams = style_losses.grams(style_losses.features(net, painting))
        other = style_losses.grams(style_losses.features(net, painting * 0.5))
        assert float(style_losses.gram_loss(grams, grams)) == 0.0
        assert float(style_losses.gram_loss(other, grams)) > 0.05
        both = [torch.cat([a, b]) for a, b in zip(grams, other, strict=True)]
        assert float(style_losses.gram_loss(both, grams)) < float(style_losses.gram_loss(other, grams)) / 2
        patches, random = Patches(painting, bank=64), torch.Generator().manual_seed(0)
        near, far = patches.distance(painting, random), patches.distance(painting * 0.5, random)
    assert float(near) < 0.02 < 0.1 < float(far)


def test_the_palette_is_carried_over(photo: UInt8) -> None:
    random = np.random.default_rng(0)
    painting = (random.normal(0, 12, (80, 80, 3)) + np.array([200, 120, 60])).clip(0, 255).astype(np.uint8)
    table = palette_map([photo], painting)
    result = recoloured(photo, table)
    assert (result.shape, result.dtype) == (photo.shape, np.uint8)
    np.testing.assert_allclose(result.mean((0, 1)), painting.mean((0, 1)), atol=6)
    np.testing.assert_allclose(result.std((0, 1)), painting.std((0, 1)), atol=6)
    np.testing.assert_array_equal(table, palette_map([photo], painting))


def test_two_looks_show_the_same_place(small_data: Path) -> None:
    seen = [np.random.default_rng(0).integers(0, 256, (130, 150, 3), np.uint8)]
    for _, batch in batches(seen, np.zeros((2**15, 3), np.uint8), TINY):
        still = looks(batch, 0.01, torch.Generator().manual_seed(0))
        assert still[0].shape == (2, 3, 64 + 2 * BORDER, 64 + 2 * BORDER) and still[1].shape[1:] == still[0].shape[1:]
        assert float(unsteadiness(still[0][:1], still[1], batch.moved)) < 2 * 0.01**2
        assert float(unsteadiness(still[0][:1], still[1], (batch.moved[0] - 1, batch.moved[1]))) > 0.01
        assert max(abs(n) for n in batch.moved) <= MOVE


# Training


def test_photos_are_evened_as_the_task_does_it(small_data: Path, photo: UInt8) -> None:
    dim = (photo // 4 + 90).astype(np.uint8)
    plain, even = (
        next(batches([dim], np.zeros((2**15, 3), np.uint8), replace(TINY, contrast=c)))[1].photos for c in (1.0, 8.0)
    )
    assert float(even.std()) > 2 * float(plain.std())


def test_calibration_is_what_the_task_hands_to_the_network(small_data: Path) -> None:
    plain, even = (style_transfer.calibration_crops(small_data, contrast) for contrast in (1.0, 8.0))
    assert len(plain) == len(even) == 3
    for (one,), (other,) in zip(plain, even, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype) == ((1, 3, 130, 150), np.float32)
    assert any(np.abs(one - other).mean() > 0.01 for (one,), (other,) in zip(plain, even, strict=True))


def test_batches_are_seeded(small_data: Path, photo: UInt8) -> None:
    table = np.zeros((2**15, 3), np.uint8)
    first = [b.photos for _, b in batches([photo], table, TINY)]
    again = [b.photos for _, b in batches([photo], table, TINY, start=2)]
    assert torch.equal(first[2], again[0]) and not torch.equal(first[0], first[1])


def test_an_interrupted_training_ends_as_an_unbroken_one(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    class Impatient(style_transfer.Checkpoint):
        def save(self, step: int, last: bool = False) -> bool:
            if step == 4:  # past the step that fixes the norms
                super().save(step, last=True)
                raise Killed
            return super().save(step, last)

    whole = train(small_data, tmp_path / "whole", TINY)
    with monkeypatch.context() as patched:
        patched.setattr(style_transfer, "Checkpoint", Impatient)
        with pytest.raises(Killed):
            train(small_data, tmp_path / "parts", TINY)
    parts = train(small_data, tmp_path / "parts", TINY)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_further_stage_begins_where_the_one_before_ends(small_data: Path, tmp_path: Path) -> None:
    """With a rate of nothing it changes nothing: the weights and the norms' statistics are those of the first stage."""
    still = replace(TINY, finish=(replace(FINISH, learning_rate=0.0),) * 2)
    first, both = (train(small_data, tmp_path / "runs", recipe) for recipe in (replace(TINY, finish=()), still))
    for a, b in zip(first.parameters(), both.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert found == ["style-wave-finish.pt", "style-wave-finish2.pt", "style-wave.pt"]


def test_a_checkpoint_of_another_recipe_is_refused(small_data: Path, tmp_path: Path) -> None:
    train(small_data, tmp_path / "runs", replace(TINY, steps=1))
    with pytest.raises(InputError, match="another recipe"):
        train(small_data, tmp_path / "runs", TINY)


def test_an_unknown_style_is_named(small_data: Path) -> None:
    with pytest.raises(InputError, match="wave, scream, shipwreck, udnie"):
        load_painting(small_data, "sunflowers", 96)
    with pytest.raises(InputError, match=r"has no the_scream\.jpg"):
        load_painting(small_data, "scream", 96)


# Figures


def test_flicker_of_a_moving_picture_is_small_and_of_noise_is_large(photo: UInt8) -> None:
    frames = [np.ascontiguousarray(photo[100:260, 100 + 3 * i : 300 + 3 * i]) for i in range(4)]
    random = np.random.default_rng(0)
    noisy = [np.clip(frame + random.normal(0, 20, frame.shape), 0, 255).astype(np.uint8) for frame in frames]
    steady = flicker(frames, frames)
    assert steady < 3 and flicker(noisy, frames) > 10 + steady


def test_a_sheet_has_rows_of_their_own_heights() -> None:
    one, other = np.zeros((10, 20, 3), np.uint8), np.zeros((6, 5, 3), np.uint8)
    assert stacked([[one, one], [other]], gap=2).shape == (18, 42, 3)


# What ships


@pytest.mark.parametrize("style", STYLES)
def test_the_shipped_bundles_keep_their_bars(data: Path, style: str) -> None:
    """int8 looks as fp32 does, in every engine; the picture is nearer to the painting; the manifest tells the truth."""
    from edgekit.quantization.metrics.pictures import StyleSsim

    bundle = Bundle.open(f"style-{style}")
    content = Content.load(data / "content.zip")
    metric = StyleSsim([content.photos[0][:200, :320]], "")
    for runtime in ("onnxruntime", "openvino", "litert"):
        assert metric.value(bundle, runtime, "int8") >= 0.95
    for runtime in ("onnxruntime", "openvino"):
        assert metric.value(bundle, runtime, "fp32") >= 0.999
    for variant in bundle.component().variants:
        if variant.format != "torch":
            assert variant.quality is not None and variant.quality.value >= 0.95
    with load(bundle, "onnxruntime", precision="int8") as stylize:
        painted = [stylize(photo) for photo in content.photos]
    side = bundle.manifest.provenance["settings"]["side"]
    ratio = gram_ratio(painted, content.photos, load_painting(data, style, side))
    figures = bundle.manifest.provenance["figures"]
    assert ratio == pytest.approx(figures["gram_ratio_int8"], abs=0.02)
    assert ratio <= 0.25 and figures["gram_ratio_fp32"] <= 0.25


@pytest.mark.parametrize("style", STYLES)
def test_the_shipped_networks_are_small_and_rebuild(style: str) -> None:
    bundle = Bundle.open(f"style-{style}")
    component = bundle.component()
    weights = next(v for v in component.variants if v.format == "torch")
    net = load_module(str(component.family), dict(component.settings), bundle.model_path(weights))
    assert sum(p.numel() for p in net.parameters()) <= 170_000
    assert sum(p.stat().st_size for p in shipped()[f"style-{style}"].rglob("*") if p.is_file()) <= 4_000_000
