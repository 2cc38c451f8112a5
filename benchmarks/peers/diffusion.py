"""Drawing with edgekit beside diffusers, optimum-intel and openvino-genai: seconds an image and a step.

Run it with `python -m edgekit.benchmarks.peers.diffusion --work DIR`: DIR keeps the peers' environments and converted
models. It writes DATE-diffusion.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgekit.benchmarks.peers import diffusion_model
from edgekit.benchmarks.peers.makers import Measured, Peer, opened, report, say, taken

PEERS_FILE = Path(__file__).with_name("diffusion_peers.py")
BASE = "diffusers, eager"
GUIDANCE = 5.0


def peers(kind: str, threads: int) -> list[tuple[str, Peer]]:
    """Each with what it reads; openvino's others draw from prompts alone."""

    def peer(name: str, precision: str, of: str, reads: str, environment: str = "", **more: Any) -> tuple[str, Peer]:
        settings = {"precision": precision, "threads": threads, "prompted": kind == "prompt", **more}
        return reads, Peer(name, precision, of, settings, environment)

    rows = [
        peer(BASE, "fp32", "Diffusers", ""),
        peer("diffusers, compiled", "fp32", "Diffusers", "", compiled=True),
        peer("diffusers, eager", "bf16", "Diffusers", ""),
        peer("edgekit, openvino", "fp32", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, onnxruntime", "fp32", "Edgekit", "edgekit", runtime="onnxruntime"),
        peer("edgekit, openvino", "bf16", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, openvino", "int8", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, onnxruntime", "int8", "Edgekit", "edgekit", runtime="onnxruntime"),
    ]
    others = [
        peer("optimum-intel", "fp32", "Optimum", "openvino-fp32", "optimum"),
        peer("openvino-genai", "fp32", "GenAi", "openvino-fp32", "optimum"),
        peer("openvino-genai", "bf16", "GenAi", "openvino-fp32", "optimum"),
        peer("openvino-genai", "int8 weights", "GenAi", "openvino-int8", "optimum"),
    ]
    return rows + (others if kind == "prompt" else [])


def row_of(kind: str, row: Measured, base: Measured) -> dict[str, Any]:
    """Medians of a peer's rounds, and of their ratios to the base peer's of the same round."""
    told: dict[str, Any] = {"network": kind, "peer": row.peer.name, "precision": row.peer.precision}
    if not row.runs or not base.runs:
        return {**told, "error": row.error or "the base peer failed"}
    for key in ("image", "step", "processor"):
        own, other = (np.array([run[f"{key}_s"] for run in r.runs]) for r in (row, base))
        common = min(len(own), len(other))
        told[f"{key}_s"] = float(np.median(own))
        told[f"{key}_ratio"] = float(np.median(other[:common] / own[:common]))
    return told


def table(rows: Sequence[dict[str, Any]], steps: int) -> str:
    """Markdown."""
    lines = [
        f"| network | peer | precision | s an image of {steps} steps | × {BASE} fp32 | ms a step | × {BASE} fp32 | × in processor time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        head = f"| {row['network']} | {row['peer']} | {row['precision']} |"
        if "error" in row:
            lines.append(f"{head} {row['error'].splitlines()[0][:80]} | | | | |")
            continue
        lines.append(
            f"{head} {row['image_s']:.2f} | {row['image_ratio']:.2f} | {row['step_s'] * 1e3:.0f} | {row['step_ratio']:.2f} | "
            f"{row['processor_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keeps environments and models.")
@click.option("--network", type=click.Choice(["prompt", "pixels"]), multiple=True, default=["prompt", "pixels"])
@click.option("--steps", default=10, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--only", multiple=True, help="Words of a peer's name or its precision; all where left out.")
@click.option("--prepare", is_flag=True, help="Make environments and models, and measure nothing.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(
    work: Path,
    network: Sequence[str],
    steps: int,
    rounds: int,
    threads: int,
    only: Sequence[str],
    prepare: bool,
    out: Path,
) -> None:
    summary: list[dict[str, Any]] = []
    raw: list[Measured] = []
    for kind in network:
        model = diffusion_model.made(work.resolve(), kind)
        chosen = [
            p for p in peers(kind, threads) if not only or any(word in _name(p[1]) for word in (f"{BASE} fp32", *only))
        ]
        ready, failed = opened(chosen, model, work.resolve(), diffusion_model.converted)
        if prepare:
            continue
        command = {"number": 0, "steps": steps, "guidance": GUIDANCE}
        rows = [*taken(PEERS_FILE, ready, rounds, command), *failed]
        base = next(row for row in rows if _name(row.peer) == f"{BASE} fp32")
        summary += [row_of(kind, row, base) for row in rows]
        raw += rows
    if summary:
        stated = {"steps": steps, "guidance": GUIDANCE, "threads": threads}
        report(out, "diffusion", stated, summary, raw, lambda rows: table(rows, steps))
        say(f"written to {out}")


def _name(peer: Peer) -> str:
    return f"{peer.name} {peer.precision}"


if __name__ == "__main__":
    main()
