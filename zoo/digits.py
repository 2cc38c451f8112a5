"""MNIST as the digit recipes take it, 32 × 32 grey, and what they share."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekit.errors import InputError
from edgekit.images import UInt8, decode_image

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
