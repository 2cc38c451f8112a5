"""The super-resolution family: collapsing is exact, training resumes where it stopped, the shipped bundles keep their bars."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle, shipped
from edgekit.errors import InputError
from edgekit.images import write_image
from edgekit.quantization.metrics.pictures import UpscalePsnr
from edgekit.zoo.super_resolution import Recipe, SuperResolution, TrainingNet, crops, nearest, photo_pairs, train

TINY = Recipe(scale=2, channels=16, blocks=1, wide=24, steps=6, batch=2, patch=16, float_tail=0.5)


@pytest.fixture
def photos_zip(tmp_path: Path, photo: np.ndarray) -> Path:
    with zipfile.ZipFile(tmp_path / "bsds_train.zip", "w") as archive:
        for i in range(3):
            write_image(tmp_path / f"{i}.png", np.ascontiguousarray(photo[i * 50 : i * 50 + 120, :100]))
            archive.write(tmp_path / f"{i}.png", f"train/{i}.png")
    return tmp_path


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_collapsed_equals_trained(scale: int) -> None:
    torch.manual_seed(0)
    net, image = TrainingNet(scale, 16, 2, 40).eval(), torch.rand(1, 3, 9, 13)
    with torch.no_grad():
        np.testing.assert_allclose(net.plain()(image), net(image).clamp(0, 1), atol=1e-5)


def test_the_anchor_is_the_nearest_neighbour_image() -> None:
    image = torch.rand(1, 3, 4, 5)
    enlarged = torch.nn.functional.pixel_shuffle(nearest(image, 3), 3)
    assert torch.equal(enlarged, image.repeat_interleave(3, 2).repeat_interleave(3, 3))


def test_halo_is_how_far_a_pixel_reaches() -> None:
    torch.manual_seed(0)
    net, image = SuperResolution(2, 16, 2).eval(), torch.full((1, 3, 31, 31), 0.5)
    touched = image.clone()
    touched[:, :, 15, 15] = 0.9
    with torch.no_grad():
        rows = (net(image) - net(touched)).abs().amax((0, 1, 3)).nonzero().flatten() // 2
    assert 15 - net.halo <= int(rows.min()) and int(rows.max()) <= 15 + net.halo


def test_crops_are_aligned_and_seeded(photos_zip: Path) -> None:
    pairs = photo_pairs(photos_zip / "bsds_train.zip", 2)
    assert len(pairs) == 9  # three photos in three sizes
    first = [low for _, (low, _) in crops(pairs, TINY)]
    again = [low for _, (low, _) in crops(pairs, TINY, start=2)]
    assert torch.equal(first[2], again[0]) and not torch.equal(first[0], first[1])
    _, (low, high) = next(crops(pairs, TINY))
    assert low.shape == (2, 3, 16, 16) and high.shape == (2, 3, 32, 32)
    shrunk = torch.nn.functional.avg_pool2d(high, 2)
    assert float((low - shrunk).abs().mean()) < 0.03  # the same place, the same way round


def test_an_interrupted_training_ends_as_an_unbroken_one(photos_zip: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = train(photos_zip, tmp_path / "whole", TINY)
        for steps in (3, 6):  # stopped after three steps, then started again
            _stopped_after(photos_zip, tmp_path / "parts", steps)
        parts = train(photos_zip, tmp_path / "parts", TINY)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def _stopped_after(data: Path, runs: Path, steps: int) -> None:
    """Train, but be interrupted when the checkpoint of `steps` has been written."""
    import edgekit.zoo.super_resolution as family

    class Killed(Exception):
        pass

    class Impatient(family.Checkpoint):
        def save(self, step: int, last: bool = False) -> bool:
            if step == steps:
                super().save(step, last=True)
                raise Killed
            return False

    original, family.Checkpoint = family.Checkpoint, Impatient  # type: ignore[misc]
    try:
        with pytest.raises(Killed):
            train(data, runs, TINY)
    finally:
        family.Checkpoint = original  # type: ignore[misc]


def test_a_checkpoint_of_another_recipe_is_refused(photos_zip: Path, tmp_path: Path) -> None:
    train(photos_zip, tmp_path / "runs", replace(TINY, steps=1))
    with pytest.raises(InputError, match="another recipe"):
        train(photos_zip, tmp_path / "runs", TINY)


@pytest.mark.parametrize("name, fp32_at_least", [("sr-x2", 37.0), ("sr-x4", 30.7)])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_the_shipped_bundles_keep_their_bars(data: Path, name: str, fp32_at_least: float, runtime: str) -> None:
    """PSNR on Set5 in every engine; int8 loses at most 0.15 dB, and the manifest tells the truth."""
    bundle = Bundle.open(name)
    assert bundle.manifest.task is not None
    metric = UpscalePsnr.of_photos(data / "set5.zip", bundle.manifest.task.settings["scale"])
    values = {precision: metric.value(bundle, runtime, precision) for precision in ("fp32", "int8")}
    assert values["fp32"] >= fp32_at_least
    assert values["fp32"] - values["int8"] <= 0.15
    format = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "tflite"}[runtime]
    for variant in bundle.component().variants:
        if variant.format == format:
            assert variant.quality is not None
            assert variant.quality.value == pytest.approx(values[variant.precision], abs=0.02)


def test_the_shipped_bundles_are_small() -> None:
    total = sum(p.stat().st_size for name in ("sr-x2", "sr-x4") for p in shipped()[name].rglob("*") if p.is_file())
    assert total <= 3_000_000
