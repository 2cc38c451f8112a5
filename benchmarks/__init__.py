"""Honest latency: real inputs, isolated processes, interleaved rounds, quality beside every figure."""

from __future__ import annotations

from edgekit.benchmarks.measurement import Case, MeasureOptions, Report, Row, measure
from edgekit.benchmarks.tuning import tune

__all__ = ["Case", "MeasureOptions", "Report", "Row", "measure", "tune"]
