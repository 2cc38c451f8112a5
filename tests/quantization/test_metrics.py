"""Metrics: their direction, their data, and photos that are too small."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.metrics.pictures import UpscalePsnr, degrade


class Loss(Metric):
    name, data, higher_is_better = "nats", "none", False

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return 0.0


def test_a_drop_is_positive_when_worse() -> None:
    assert Loss().drop(1.7, fp32=1.5) == pytest.approx(0.2)
    assert UpscalePsnr([], 2, "none").drop(36.9, fp32=37.0) == pytest.approx(0.1)


def test_degrading_cuts_to_a_multiple(photo: np.ndarray) -> None:
    low, high = degrade(photo[:101, :203], 4)
    assert low.shape == (25, 50, 3) and high.shape == (100, 200, 3)
    with pytest.raises(InputError, match="3 × 2 pixels"):
        degrade(photo[:2, :3], 4)


def test_our_upscaler_beats_bicubic(photo: np.ndarray) -> None:
    metric = UpscalePsnr([degrade(photo, 2)], 2, "the sample photo")
    assert metric.value(Bundle.open("sr-x2"), "onnxruntime", "int8") > metric.bicubic() + 2.0
