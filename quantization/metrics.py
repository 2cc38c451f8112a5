"""Metrics: what a task's results are worth, with their direction, on data apart from the calibration's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, photos, psnr_y, resize_bicubic
from edgekit.tasks import load


class Metric(ABC):
    """`value` is in the metric's unit; `drop` is positive when a variant is worse than fp32."""

    name: str
    data: str
    higher_is_better: bool = True

    @abstractmethod
    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        """The metric of one variant, run on one engine."""

    def drop(self, value: float, fp32: float) -> float:
        return fp32 - value if self.higher_is_better else value - fp32


@dataclass
class UpscalePsnr(Metric):
    """PSNR in dB on the Y channel, `scale` pixels shaved: the protocol of super-resolution papers.

    Each photo is cropped to a multiple of the scale and shrunk with antialiased bicubic; the upscaled
    result is compared with the photo. On Set5 ×2 bicubic enlargement gives 33.66 dB.
    """

    pairs: Sequence[tuple[UInt8, UInt8]]
    scale: int
    data: str
    name: str = "psnr_y_db"

    @classmethod
    def of_photos(cls, source: str | Path, scale: int, name: str = "", limit: int | None = None) -> UpscalePsnr:
        """Pairs from a folder or .zip of photos."""
        pairs = [degrade(photo, scale) for _, photo in photos(source)][:limit]
        return cls(pairs, scale, f"{name or Path(source).stem} ×{scale}, {len(pairs)} images, Y, shave {scale}")

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as upscale:
            return float(np.mean([psnr_y(upscale(low), high, self.scale) for low, high in self.pairs]))

    def bicubic(self) -> float:
        """The same of plain bicubic enlargement: the check that a figure can be compared with others."""
        return float(
            np.mean([psnr_y(resize_bicubic(low, *high.shape[:2]), high, self.scale) for low, high in self.pairs])
        )


@dataclass
class TopOneAccuracy(Metric):
    """The share of images, in percent, whose likeliest label is the right one."""

    images: UInt8
    labels: npt.NDArray[np.int64]
    data: str
    name: str = "top1_percent"

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as classifier:
            right = [int(classifier.logits(i).argmax()) == t for i, t in zip(self.images, self.labels, strict=True)]
        return 100.0 * float(np.mean(right))


def degrade(photo: UInt8, scale: int) -> tuple[UInt8, UInt8]:
    """(low, high): the photo cropped to a multiple of the scale, and the same shrunk by it."""
    height, width = (n // scale * scale for n in photo.shape[:2])
    if min(height, width) < scale:
        raise InputError(f"got a photo of {photo.shape[1]} × {photo.shape[0]} pixels: too small to shrink by {scale}")
    high = np.ascontiguousarray(photo[:height, :width])
    return resize_bicubic(high, height // scale, width // scale), high
