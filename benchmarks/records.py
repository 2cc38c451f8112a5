"""What a measurement writes down: cases, rows of raw samples, and the report that is kept as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

SCHEMA = 1


class Case(msgspec.Struct, frozen=True):
    """What is measured: one bundle on one engine, device, precision and thread count.

    `component` is one graph alone, at `sizes` of its free dimensions; None is the whole task.
    """

    bundle: str
    runtime: str
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    component: str | None = None
    sizes: dict[str, int] = {}


class Row(msgspec.Struct):
    """One case's raw samples in milliseconds, in the order taken; `error` says why there are none.

    `model_ms` is `session.run`; `task_ms` the whole task, decoded image in, finished image out; `round_ms` and
    `task_round_ms` are their medians of each round. `runs` says how often one use of the task runs each component.
    """

    case: Case
    bytes: int = 0
    quality: dict[str, Any] | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    model_ms: list[float] = []
    task_ms: list[float] = []
    round_ms: list[float] = []
    task_round_ms: list[float] = []
    runs: dict[str, int] = {}
    peak_mb: float | None = None
    placement: dict[str, Any] = {}
    error: str = ""

    def percentile(self, q: float, what: str = "task_ms") -> float:
        """A percentile of the samples of the task, or of the model where there is no task."""
        samples = getattr(self, what) or self.model_ms
        return float(np.percentile(samples, q)) if samples else float("nan")


class Report(msgspec.Struct):
    """Every row, and the machine they were measured on."""

    bundle: str
    bundle_hash: str
    machine: dict[str, Any]
    input: str
    rows: list[Row]
    schema: int = SCHEMA

    def save(self, path: str | Path) -> None:
        """Write the report with its raw samples as JSON."""
        partial = Path(f"{path}.partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        partial.replace(path)
