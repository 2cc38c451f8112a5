"""Metric: what a task's results are worth, with its direction, on data apart from the calibration's."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edgekit.bundle import Bundle


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
