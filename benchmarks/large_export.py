"""Peak memory of an export: a decoder of random weights, exported in one process, its whole tree sampled.

Run it with `python -m edgekit.benchmarks.large_export --millions 1000 -o out/large.json`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgekit.machine import facts

PAGE_MB = 4096 / 2**20
VOCABULARY, TOKENS, HEAD = 32_000, 16, 64


def build(millions: int) -> Any:
    """A decoder-only transformer (RMS norms, rotary attention, gated MLP) of about so many million parameters.

    Weights are drawn block by block, seeded, scaled by 1/√width as initialisations are.
    """
    import torch

    from edgekit.zoo.large_decoder import Decoder

    width = max(1, round(32 * math.sqrt(millions / 1000))) * HEAD
    layers = max(2, round((millions * 1e6 - 2 * VOCABULARY * width) / (11 * width * width)))
    with torch.device("meta"):
        module = Decoder(VOCABULARY, width, layers, width // HEAD)
    module.to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, 1 / math.sqrt(width), generator=draw)
        else:
            parameter.data.fill_(1.0)
    return module.eval().requires_grad_(False)


def export_once(millions: int, out: Path, formats: list[str]) -> dict[str, Any]:
    """Export the decoder in this process; what came out. Each step is written to stdout with its time."""
    import edgekit
    from edgekit.exporters import ExportOptions

    def say(step: str) -> None:
        print(json.dumps({"at": time.time(), "step": step}), flush=True)

    say("build")
    module = build(millions)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, TOKENS))
    options = ExportOptions(formats=formats, names=["tokens"], progress=say)
    start = time.perf_counter()
    bundle = edgekit.export(module, out / "large-decoder", [tokens], dynamic={"tokens": {1: "length"}}, options=options)
    say("done")
    variants = bundle.component().variants
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "weights_mb": weights / 2**20,
        "export_s": time.perf_counter() - start,
        "files": {f.path: f.bytes for v in variants for f in v.files},
        "max_error": {str(v): v.parity.max_error for v in variants if v.parity},
        "open_s": _opened(bundle),
    }


def _opened(bundle: Any) -> dict[str, float]:
    """Seconds from open_session, hashes checked, to the first answer, by engine."""
    import edgekit

    took = {}
    for runtime in ("onnxruntime", "openvino"):
        start = time.perf_counter()
        with edgekit.open_session(bundle, runtime, precision="fp32") as session:
            opened = time.perf_counter()
            session.run({"tokens": np.zeros((1, TOKENS), np.int64)})
        took[runtime] = opened - start
    return took


class Watcher:
    """Samples the resident memory of a process and its children until it ends."""

    def __init__(self, pid: int, period_s: float = 0.05) -> None:
        self.pid, self.period_s = pid, period_s
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def peak_mb(self, start: float = 0.0, end: float = math.inf) -> float:
        return max((mb for at, mb in self.samples if start <= at < end), default=0.0)

    def _watch(self) -> None:
        while not self._done.wait(self.period_s):
            self.samples.append((time.time(), sum(_resident_mb(pid) for pid in _tree(self.pid))))


def _tree(pid: int) -> list[int]:
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
            try:
                pending += [int(child) for child in task.read_text().split()]
            except OSError:
                continue
    return found


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MB
    except (OSError, IndexError):
        return 0.0


def measure(millions: int, formats: list[str], folder: Path) -> dict[str, Any]:
    """Run the export in a process of its own and watch it; peaks in all and by step, in MiB."""
    command = [sys.executable, "-m", "edgekit.benchmarks.large_export", "--inside", "--millions", str(millions)]
    command += ["--folder", str(folder), *(f"--format={f}" for f in formats)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watcher = Watcher(process.pid)
    assert process.stdout is not None
    lines = [json.loads(line) for line in process.stdout if line.startswith("{")]
    watcher.stop()
    if process.wait() or not lines or "parameters" not in lines[-1]:
        raise click.ClickException(f"the export of {millions} M parameters failed with code {process.returncode}")
    steps, result = lines[:-1], lines[-1]
    ends = [*(s["at"] for s in steps[1:]), math.inf]
    peaks = {s["step"]: round(watcher.peak_mb(s["at"], end)) for s, end in zip(steps, ends, strict=True)}
    peak = watcher.peak_mb(end=steps[-1]["at"])
    return {
        **result,
        "peak_mb": round(peak),
        "peak_over_weights": round(peak / result["weights_mb"], 3),
        "peak_mb_by_step": peaks,
        "samples": [(round(at - steps[0]["at"], 2), round(mb)) for at, mb in watcher.samples],
        "machine": facts(),
    }


@click.command()
@click.option("--millions", default=250, help="Parameters, in millions.")
@click.option("--format", "formats", multiple=True, default=("onnx", "openvino"))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where the measurement goes, as JSON.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the bundle is written; a temporary folder.")
@click.option("--inside", is_flag=True, hidden=True)
def main(millions: int, formats: tuple[str, ...], out: Path | None, folder: Path | None, inside: bool) -> None:
    """Measure the memory that exporting a large model takes."""
    if inside:
        assert folder is not None
        print(json.dumps(export_once(millions, folder, list(formats))), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(millions, list(formats), folder or Path(scratch))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(measured, indent=1))
    for key in ("parameters", "weights_mb", "peak_mb", "peak_over_weights", "export_s", "peak_mb_by_step", "max_error"):
        click.echo(f"{key}: {measured[key]}")
    click.echo(f"open_s: {measured['open_s']}")


if __name__ == "__main__":
    main()
