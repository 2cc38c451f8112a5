"""Honest latency: real inputs, isolated processes, interleaved rounds, quality beside every figure."""

from __future__ import annotations

from edgekit.benchmarks.candidates import TuneOptions
from edgekit.benchmarks.measurement import measure
from edgekit.benchmarks.options import MeasureOptions, Thorough
from edgekit.benchmarks.records import Case, Report, Row
from edgekit.benchmarks.tuning import Tuned, tune

__all__ = ["Case", "MeasureOptions", "Report", "Row", "Thorough", "TuneOptions", "Tuned", "measure", "tune"]
