"""Accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.bundle import Bundle
from edgekit.images import UInt8
from edgekit.quantization.metrics.metric import Metric
from edgekit.tasks import load


@dataclass
class TopOneAccuracy(Metric):
    """The share of images, in percent, whose likeliest label is the right one."""

    images: Sequence[UInt8] | UInt8
    labels: npt.NDArray[np.int64]
    data: str
    name: str = "top1_percent"

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as classifier:
            right = [int(classifier.logits(i).argmax()) == t for i, t in zip(self.images, self.labels, strict=True)]
        return 100.0 * float(np.mean(right))
