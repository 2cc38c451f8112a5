"""MNIST as the digit recipes take it, 32 × 32 grey, and what they share."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, decode_image, sheet
from edgekit.runtimes.torch_ import load_module
from edgekit.tasks import load

LABELS = tuple("0123456789")
SIDE = 32
DATA = "MNIST (LeCun et al. 1998), 28 × 28 grey, padded to 32 × 32: 60,000 to train, 10,000 to test"


@lru_cache(maxsize=4)
def load_digits(data: Path, split: str) -> tuple[UInt8, npt.NDArray[np.int64]]:
    """Images, count × 32 × 32 × 1, and labels of "train" or "test" from mnist.zip; read once, not to be written to.

    Raises:
        InputError: the archive is missing, or has no such split.
    """
    source = data / "mnist.zip"
    if not source.is_file():
        raise InputError(f"no file '{source}': expected MNIST as PNG, {split}/DIGIT/NAME.png")
    with zipfile.ZipFile(source) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(f"{split}/") and n.endswith(".png"))
        if not names:
            raise InputError(f"'{source}' has no images under {split}/")
        digits = np.stack([decode_image(archive.read(name), name)[:, :, :1] for name in names])
    margin = [(SIDE - size) // 2 for size in digits.shape[1:3]]
    images = np.pad(digits, ((0, 0), (margin[0],) * 2, (margin[1],) * 2, (0, 0)))
    labels = np.array([LABELS.index(name.split("/")[-2]) for name in names], np.int64)
    for array in (images, labels):
        array.flags.writeable = False
    return images, labels


def batches(data: Path, size: int, steps: range, seed: int) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Random training batches, size × 1 × 32 × 32 in 0…1 with their labels; step n is the same in every run."""
    images, labels = load_digits(data, "train") if steps else (np.empty(0, np.uint8), np.empty(0, np.int64))
    for step in steps:
        picked = np.random.default_rng((seed, step)).integers(0, len(images), size)
        yield step, (to_grey(images[picked]), torch.from_numpy(labels[picked]))


def to_grey(images: UInt8) -> Tensor:
    """count × 32 × 32 × 1 in 0…255 → count × 1 × 32 × 32 in 0…1."""
    return torch.tensor(images).permute(0, 3, 1, 2).float().div_(255.0)


def fidelity(bundle: Bundle, data: Path, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Figures of a bundle's samples in fp32: recognised by class, and the Fréchet distance to real digits.

    One sample for each of every second test image, of its class, is compared with these images in the
    features of digits-cnn; the floor is the distance between the two halves of the test images.
    `options` are further arguments of `.sample`.
    """
    from edgekit.quantization.metrics.generated import Recognised, frechet

    images, labels = load_digits(data, "test")
    with load(bundle, "onnxruntime", precision="fp32") as maker:
        made = np.stack(maker.sample(len(labels[::2]), labels=[LABELS[i] for i in labels[::2]], seed=0, **options))
    real, other, samples = (judged(p) for p in (images[::2], images[1::2], made[:, :, :, :1]))
    judge = Recognised(1000, seed=1, options=options)
    return {
        "recognised_percent_by_class": judge.by_class(bundle, "onnxruntime", "fp32"),
        "frechet_distance": round(frechet(samples, real), 4),
        "frechet_floor": round(frechet(other, real), 4),
        "frechet_protocol": f"features of digits-cnn, {len(made):,} samples against as many MNIST test images",
    }


def samples(bundle: Bundle) -> UInt8:
    """Ten samples of each class in a row, in fp32, enlarged twice: uint8 RGB."""
    with load(bundle, "onnxruntime", precision="fp32") as maker:
        return sheet(maker.sample(100, labels=[label for label in LABELS for _ in range(10)], seed=0))


@torch.no_grad()
def judged(images: UInt8) -> npt.NDArray[np.float32]:
    """The features that digits-cnn sees in grey images, count × 32 × 32 × 1: count × size."""
    judge = Bundle.open("digits-cnn")
    component = judge.component()
    [weights] = [v for v in component.variants if v.format == "torch"]
    net = load_module(str(component.family), component.settings, judge.model_path(weights))
    parts = [net.features(to_grey(p).expand(-1, 3, -1, -1)) for p in np.array_split(images, max(1, len(images) // 500))]
    return torch.cat(parts).numpy()
