"""The classifier family: folding is exact, batches are seeded, training resumes, averaged norms are settled."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo.digit_doubles import broken_off, write_digits

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import write_image
from edgekit.quantization.metrics.labels import TopOneAccuracy
from edgekit.zoo import classification
from edgekit.zoo.classification import (
    LABELS,
    SETS,
    PlainNet,
    Recipe,
    TrainingNet,
    batches,
    load_split,
    parsed,
    settle_norms,
    to_batch,
    train,
    turned,
)

TINY = Recipe(widths="8 8 16/2", epochs=2, batch=10)


@pytest.fixture
def cifar_zip(tmp_path: Path, photo: np.ndarray) -> Path:
    """Four images a class, cut from the photo, in the layout of cifar10.zip."""
    with zipfile.ZipFile(tmp_path / "cifar10.zip", "w") as archive:
        for index, label in enumerate(LABELS):
            for n in range(4):
                crop = np.ascontiguousarray(photo[index * 40 : index * 40 + 32, n * 100 : n * 100 + 32])
                write_image(tmp_path / "image.jpg", crop)
                archive.write(tmp_path / "image.jpg", f"train/{label}/{n:04d}.jpg")
    return tmp_path


def test_folded_equals_trained() -> None:
    torch.manual_seed(0)
    net = TrainingNet("8 8 16/2 16")
    for _ in range(3):
        net(torch.rand(8, 3, 32, 32))  # gives the norms statistics of their own
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.eval().plain()(image), net(image), atol=1e-4, rtol=1e-4)


def test_widths_are_read() -> None:
    assert list(parsed("32 64/2 64")) == [(32, 1), (64, 2), (64, 1)]


def test_splits_are_read_with_their_labels(cifar_zip: Path) -> None:
    images, labels = load_split(cifar_zip, "train")
    assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [4] * 10
    with pytest.raises(InputError, match="no images under test/"):
        load_split(cifar_zip, "test")


def test_batches_are_seeded(cifar_zip: Path) -> None:
    images, labels = load_split(cifar_zip, "train")
    first = [(step, batch) for step, (batch, _) in batches(images, labels, TINY)]
    again = [(step, batch) for step, (batch, _) in batches(images, labels, TINY, start=5)]
    assert [s for s, _ in first] == list(range(8)) and [s for s, _ in again] == [5, 6, 7]
    assert torch.equal(first[5][1], again[0][1]) and not torch.equal(first[0][1], first[4][1])


def test_norms_of_the_average_are_measured_anew(cifar_zip: Path) -> None:
    images, _ = load_split(cifar_zip, "train")
    net = TrainingNet(TINY.widths)
    settle_norms(net, images, count=40)
    block = net.blocks[0]
    seen = block.wide(to_batch(images))  # type: ignore[union-attr,operator]
    torch.testing.assert_close(block.wide_norm.running_mean, seen.mean((0, 2, 3)), atol=1e-3, rtol=1e-2)  # type: ignore[union-attr]
    assert not net.training


def test_trains_and_resumes(cifar_zip: Path, tmp_path: Path) -> None:
    net = train(cifar_zip, tmp_path / "runs", TINY)
    again = train(cifar_zip, tmp_path / "runs", TINY)  # finished: only loads
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="another recipe"):
        train(cifar_zip, tmp_path / "runs", replace(TINY, seed=1))


def test_digits_are_turned_and_not_flipped(tmp_path: Path) -> None:
    images, labels = SETS["mnist"].load(write_digits(tmp_path), "train")
    recipe = replace(TINY, images="mnist", shift=0, flips=False, turn=0.0)
    steps = list(batches(images, labels, recipe))
    assert steps[0][1][0].shape == (10, 3, 32, 32)
    seen = {image.tobytes() for image in images}
    grey = (steps[0][1][0][:, 0].numpy() * 255 + 0.5).astype(np.uint8)
    assert all(image.tobytes() in seen for image in grey)
    turned_ones = list(batches(images, labels, replace(recipe, turn=20.0)))
    assert torch.equal(turned_ones[0][1][1], steps[0][1][1])
    assert not torch.equal(turned_ones[0][1][0], steps[0][1][0])


def test_turning() -> None:
    bar = torch.zeros(3, 3, 32, 32)
    bar[:, :, 15:17, 4:28] = 1
    level, quarter, half = turned(bar, np.array([0.0, 90.0, 180.0]))
    torch.testing.assert_close(level, bar[0])
    torch.testing.assert_close(quarter, bar[0].transpose(1, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(half, bar[0], atol=1e-4, rtol=0)


def test_features_are_what_the_head_decides_on() -> None:
    net = PlainNet("8 16/2", 5).eval()
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = net.features(image)
        assert features.shape == (2, 16)
        torch.testing.assert_close(net.head(features), net(image))


def test_digits_train_and_resume_as_they_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_digits(tmp_path)
    recipe = replace(TINY, name="digits", images="mnist", shift=2, flips=False, turn=10.0, epochs=1)
    whole = train(data, tmp_path / "whole", recipe)
    broken_off(monkeypatch, classification, lambda: train(data, tmp_path / "runs", recipe), step=3)
    resumed = train(data, tmp_path / "runs", recipe)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_the_shipped_judge_of_digits_keeps_its_bars(data: Path, runtime: str) -> None:
    """99 % of MNIST test digits in fp32, at most half a point less in int8, in every engine: here a fifth of them."""
    images, labels = SETS["mnist"].load(data, "test")
    metric = TopOneAccuracy(images[::5], labels[::5], data="test")
    fp32, int8 = (metric.value(Bundle.open("digits-cnn"), runtime, precision) for precision in ("fp32", "int8"))
    assert fp32 >= 99.0 and fp32 - int8 <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_the_shipped_bundle_keeps_its_bars(data: Path, runtime: str) -> None:
    """88 % of the CIFAR-10 test images in fp32, at most half a point less in int8, in every engine."""
    metric = TopOneAccuracy(*load_split(data, "test"), data="test")
    bundle, exact = Bundle.open("cifar-cnn"), "onnxruntime" if runtime == "litert" else runtime
    fp32, int8 = metric.value(bundle, exact, "fp32"), metric.value(bundle, runtime, "int8")  # no fp32 .tflite ships
    assert fp32 >= 88.0 and fp32 - int8 <= 0.5
