"""The ways of one network from picture to picture, and the table that shows what they took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.benchmarks.peers.turns import Taken, Way
from edgekit.bundle import Bundle

WAYS = str(Path(__file__).with_name("picture_ways.py"))


def ways(bundle: str, threads: int) -> Iterator[Way]:
    """A bundle's network in PyTorch, in the engines as their documentation has it, and by edgekit."""
    for name, compiled in (("PyTorch eager", False), ("PyTorch compiled", True)):
        yield Way(name, f"{WAYS}:pytorch", {**network(bundle), "threads": threads, "compiled": compiled})
    for precision in ("fp32", "int8"):
        settings = {"path": str(weights(bundle, "onnx", precision)), "threads": threads}
        yield Way(f"ONNX Runtime + NumPy, {precision}", f"{WAYS}:onnxruntime_", settings)
        yield Way(f"OpenVINO + NumPy, {precision} file", f"{WAYS}:openvino_", settings)
    for runtime in ("openvino", "onnxruntime", "litert"):
        for precision in ("fp32", "int8"):
            asked = {"bundle": bundle, "runtime": runtime, "precision": precision, "threads": threads}
            yield Way(f"edgekit {runtime} {precision}", f"{WAYS}:edgekit_", asked)


def table(rows: Sequence[Taken], worth: str, quality: Callable[[Taken], str]) -> str:
    """The ways as Markdown, the fastest first, each beside the fastest of edgekit's; `worth` heads the quality."""
    whole = [row for row in rows if not row.error]
    best = min((r for r in whole if r.name.startswith("edgekit")), key=lambda r: r.median_ms, default=whole[0])
    lines = [
        f"| way | {worth} | ms | speed beside edgekit's best | processor ms | first picture ms | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(whole, key=lambda r: r.median_ms):
        cells = [row.name, quality(row), f"{row.median_ms:.1f}", f"{row.gain(best):.2f}×"]
        cells += [f"{np.median(row.processor_ms):.1f}", f"{row.open_ms + row.first_ms:.0f}", f"{row.peak_mb:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {row.name} | – | failed: {row.error[:160]} | | | | |" for row in rows if row.error]
    return "\n".join(lines) + "\n"


def network(bundle: str) -> dict[str, Any]:
    """What `load_module` needs of the nn.Module that a bundle carries."""
    component = Bundle.open(bundle).component()
    return {
        "family": component.family,
        "settings": dict(component.settings),
        "path": str(weights(bundle, "torch", "fp32")),
    }


def weights(bundle: str, format: str, precision: str) -> Path:
    """The path of a bundle's file."""
    opened = Bundle.open(bundle)
    found = (v for v in opened.component().variants if (v.format, v.precision) == (format, precision))
    return opened.model_path(next(found))
