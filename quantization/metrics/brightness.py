"""Brightness: do pictures get darker in int8?"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgekit.bundle import Bundle
from edgekit.images import UInt8
from edgekit.quantization.metrics.made import Request, truth
from edgekit.quantization.metrics.metric import Metric

WEIGHTS = np.array([0.299, 0.587, 0.114])  # BT.601 luma of RGB


@dataclass
class BrightnessShift(Metric):
    """How much brighter a variant's pictures are than those of fp32 on average, in levels of 255; below 0: darker.

    Near 0 is best: `drop` is the shift without its sign. A constant shift is what PSNR hardly and SSIM does not see,
    and the eye does.
    """

    request: Request
    data: str
    name: str = "brightness_levels"
    higher_is_better: bool = False
    _truth: list[float] = field(default_factory=list, repr=False)

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        if not self._truth:
            self._truth = [brightness(p) for p in self.request.pictures(bundle, *truth(bundle))]
        found = [brightness(p) for p in self.request.pictures(bundle, runtime, precision)]
        return float(np.mean(np.subtract(found, self._truth)))

    def drop(self, value: float, fp32: float) -> float:
        """What the shift grew by, whichever way it goes."""
        return abs(value) - abs(fp32)


def brightness(image: UInt8) -> float:
    """Mean luma of an RGB or grey image, 0…255."""
    rgb = np.broadcast_to(image[:, :, :3], (*image.shape[:2], 3)).astype(np.float64)
    return float((rgb @ WEIGHTS).mean())
