"""Calibration: real inputs that show the range of every activation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.errors import QuantizationError
from edgekit.images import photos, to_tensor
from edgekit.tensors import Array, TensorSpec


def from_photos(
    folder: str | Path, inputs: Sequence[TensorSpec], count: int = 64, side: int = 128
) -> list[tuple[Array, ...]]:
    """Crops of photos for a network with one image input, spread evenly over the folder or .zip.

    Raises:
        QuantizationError: the network takes something else than one image. ImageError: no photos.
    """
    if len(inputs) != 1 or inputs[0].layout is None:
        given = ", ".join(f"{s.name}: {s}" for s in inputs)
        raise QuantizationError(f"photos calibrate a network with one image input: this one takes {given}; pass arrays")
    spec = inputs[0]
    found = [image for _, image in photos(folder)]
    picked = [found[i] for i in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    random = np.random.default_rng(0)
    return [(to_tensor(_crop(image, spec, side, random), spec),) for image in picked]


def _crop(image: Array, spec: TensorSpec, side: int, random: np.random.Generator) -> Array:
    """A crop of the input's fixed sizes, or of `side` pixels where they are free."""
    assert spec.layout is not None
    wanted = [spec.shape[spec.layout.index(letter)] for letter in "HW"]
    height, width = (n if isinstance(n, int) else min(side, have) for n, have in zip(wanted, image.shape, strict=False))
    if image.shape[0] < height or image.shape[1] < width:
        image = np.pad(
            image, ((0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)), "reflect"
        )
    y, x = random.integers(image.shape[0] - height + 1), random.integers(image.shape[1] - width + 1)
    return np.ascontiguousarray(image[y : y + height, x : x + width])
