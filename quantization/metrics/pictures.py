"""Quality of pictures: PSNR of enlarged photos, structural similarity of stylised ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import ImageError, InputError
from edgekit.images import UInt8, opencv, photos, psnr_y, resize_bicubic
from edgekit.quantization.metrics.made import truth
from edgekit.quantization.metrics.metric import Metric
from edgekit.tasks import load


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
        pairs = [degrade(photo, scale) for _, photo in photos(source, limit)]
        return cls(pairs, scale, f"{name or Path(source).stem} ×{scale}, {len(pairs)} images, Y, shave {scale}")

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as upscale:
            return float(np.mean([psnr_y(upscale(low), high, self.scale) for low, high in self.pairs]))

    def bicubic(self) -> float:
        """The same of plain bicubic enlargement: the check that a figure can be compared with others."""
        return float(
            np.mean([psnr_y(resize_bicubic(low, *high.shape[:2]), high, self.scale) for low, high in self.pairs])
        )


def degrade(photo: UInt8, scale: int) -> tuple[UInt8, UInt8]:
    """(low, high): the photo cropped to a multiple of the scale, and the same shrunk by it."""
    height, width = (n // scale * scale for n in photo.shape[:2])
    if min(height, width) < scale:
        raise InputError(f"got a photo of {photo.shape[1]} × {photo.shape[0]} pixels: too small to shrink by {scale}")
    high = np.ascontiguousarray(photo[:height, :width])
    return resize_bicubic(high, height // scale, width // scale), high


@dataclass
class StyleSsim(Metric):
    """Structural similarity (0…1) of a task's pictures to what fp32 makes of them: `ssim`, mean over photos.

    The truth is PyTorch's, where the bundle carries the network's weights, else that of a float file.
    """

    photos: Sequence[UInt8]
    data: str
    name: str = "ssim"

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        engine, exact = truth(bundle)
        with load(bundle, engine, precision=exact) as expected, load(bundle, runtime, precision=precision) as stylize:
            return float(np.mean([ssim(stylize(photo), expected(photo)) for photo in self.photos]))


def ssim(image: UInt8, truth: UInt8) -> float:
    """Structural similarity of two RGB images on their luma (0.299, 0.587, 0.114), −1…1, 1 for equal ones.

    Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity": Gaussian
    windows of 11 × 11, σ = 1.5, K = 0.01 and 0.03, mean over the windows that lie inside.

    Raises:
        ImageError: unequal shapes, or a side below 11 pixels.
    """
    if image.shape != truth.shape or min(image.shape[:2]) < 11:
        raise ImageError(f"got images of {image.shape} and {truth.shape}: SSIM needs equal shapes, 11 pixels a side")
    x, y = (i[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114]) for i in (image, truth))
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x**2, _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(likeness * (2 * covariance + c2) / (variance_x + variance_y + c2)))


def _windowed(values: np.ndarray) -> np.ndarray:
    """Gaussian means over 11 × 11 windows, where they lie inside."""
    means: np.ndarray = opencv().GaussianBlur(values, (11, 11), 1.5)[5:-5, 5:-5]
    return means
