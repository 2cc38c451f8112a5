"""Made-up reports: rows with samples of three rounds, a failed one, a simulator's, and words that are hostile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.benchmarks import Case, Report, Row
from edgekit.benchmarks.conditions import State
from edgekit.benchmarks.records import Detail, Load, Projection

HOSTILE = '<script>alert(1)</script><img src=http://example.invalid/x onerror=alert(2)> & "quoted" | `x`'
MACHINE = {"processor": "a processor", "architecture": "x86_64", "cores": 2, "packages": {"openvino": "1"}}


def row(runtime: str, precision: str, ms: float, **changes: Any) -> Row:
    """Three rounds of 40 samples around `ms`, the same for the same name."""
    rng = np.random.default_rng([ord(c) for c in runtime + precision])
    rounds = [(ms * (1 + 0.01 * n) * np.exp(0.05 * rng.standard_normal(40))).tolist() for n in range(3)]
    stated: dict[str, Any] = {
        "bytes": 150_000,
        "quality": {"metric": "psnr_y_db", "value": 37.3, "drop": 0.0 if precision == "fp32" else 0.03, "data": "Set5"},
        "load_ms": 40.0,
        "first_ms": 9.0,
        "loads": [Load(40.0, 9.0, 0.0), Load(44.0, 9.5, 0.0)],
        "model_ms": [s for r in rounds for s in r],
        "task_ms": [s + 1 for r in rounds for s in r],
        "model_counts": [40] * 3,
        "task_counts": [40] * 3,
        "round_ms": [float(np.median(r)) for r in rounds],
        "task_round_ms": [float(np.median(r)) + 1 for r in rounds],
        "details": [detail(ms, n) for n in range(3)],
        "per_second": [1000 / ms] * 3,
        "peak_mb": 120.0,
        "placement": {"version": "1.2", "kind": "hardware", "operators": {"CPU Conv": 6}},
    }
    return Row(Case("sr-x2", runtime, "cpu", precision), **{**stated, **changes})


def detail(ms: float, number: int) -> Detail:
    return Detail(
        model_cpu_ms=2 * ms,
        task_cpu_ms=2 * ms + 1,
        stages_ms=[(0.5, ms, 0.5)] * 5,
        paced_ms=[ms * 1.2] * 10,
        rss_mb=[(t, 100.0 + t / 30) for t in (30.0 * number + n for n in range(0, 30, 10))],
        elsewhere=0.0,
    )


def report(rows: Sequence[Row], **changes: Any) -> Report:
    stated: dict[str, Any] = {
        "bundle": "sr-x2",
        "bundle_hash": "h",
        "machine": MACHINE,
        "input": "a photo of 640×360",
        "rows": list(rows),
        "measured_at": "2026-11-29T12:00:00+0000",
        "asked": {"rounds": 3, "seconds": 1.0},
        "states": [State(0.0), State(9.0)],
    }
    return Report(**{**stated, **changes})


def usual(name: str = "sr-x2") -> Report:
    """Two engines in fp32 and int8, one that failed, one on a simulator, and cycles of a device that is not here."""
    simulated = {"version": "2", "kind": "simulator", "operators": {"HTP Conv": 6}}
    return report(
        [
            row("openvino", "fp32", 20.0),
            row("openvino", "int8", 10.0),
            row("onnxruntime", "fp32", 30.0),
            row("onnxruntime", "int8", 34.0),
            Row(Case("sr-x2", "litert", "cpu", "int8"), error=f"it died: {HOSTILE}"),
            row("onnxruntime", "int8-weights", 777.0, placement=simulated),
        ],
        bundle=name,
        projections=[Projection("litert", "int8", "ethos-u55-128, M cycles", 12.3, "Vela")],
    )
