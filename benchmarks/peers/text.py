"""Writing text with edgekit beside transformers, optimum-intel, openvino-genai and llama.cpp, prompt and writing apart.

Run it with `python -m edgekit.benchmarks.peers.text --work DIR`: DIR keeps the peers' environments and converted models.
It writes DATE-text.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from edgekit.benchmarks.peers import text_model
from edgekit.benchmarks.peers.makers import Measured, Peer, opened, report, taken

PEERS_FILE = Path(__file__).with_name("text_peers.py")
BASE = "transformers"


def peers(threads: int) -> list[tuple[str, Peer]]:
    """Each with what it reads."""

    def peer(name: str, precision: str, kind: str, reads: str, environment: str = "", **more: Any) -> tuple[str, Peer]:
        settings = {"precision": precision, "threads": threads, **more}
        return reads, Peer(name, precision, kind, settings, environment)

    return [
        peer(BASE, "fp32", "Transformers", ""),
        peer("transformers", "bf16", "Transformers", ""),
        peer("edgekit, openvino", "fp32", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, onnxruntime", "fp32", "Edgekit", "edgekit", runtime="onnxruntime"),
        peer("edgekit, openvino", "bf16", "Edgekit", "edgekit", runtime="openvino", bf16=True),
        peer("edgekit, openvino, 8 texts", "fp32", "Several", "edgekit", runtime="openvino"),
        peer("optimum-intel", "fp32", "Optimum", "openvino-fp32", "optimum"),
        peer("openvino-genai", "fp32", "GenAi", "openvino-fp32", "optimum"),
        peer("openvino-genai", "bf16", "GenAi", "openvino-fp32", "optimum"),
        peer("llama.cpp", "fp32", "LlamaCpp", "gguf-fp32", "llama"),
        peer("edgekit, openvino", "int8-dynamic", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, openvino", "int8-dynamic, else bf16", "Edgekit", "edgekit", runtime="openvino", bf16=True),
        peer("edgekit, onnxruntime", "int8-dynamic", "Edgekit", "edgekit", runtime="onnxruntime"),
        peer("edgekit, openvino, 8 texts", "int8-dynamic", "Several", "edgekit", runtime="openvino"),
        peer("optimum-intel", "int8", "Optimum", "openvino-int8", "optimum"),
        peer("openvino-genai", "int8", "GenAi", "openvino-int8", "optimum"),
        peer("llama.cpp", "int8", "LlamaCpp", "gguf-int8", "llama"),
        peer("llama.cpp, not repacked", "int8", "LlamaCpp", "gguf-int8", "llama", repacked=False),
        peer("edgekit, openvino", "int4-weights", "Edgekit", "edgekit", runtime="openvino"),
        peer("edgekit, onnxruntime", "int4-weights", "Edgekit", "edgekit", runtime="onnxruntime"),
        peer("openvino-genai", "int4", "GenAi", "openvino-int4", "optimum"),
        peer("llama.cpp", "int4", "LlamaCpp", "gguf-int4", "llama"),
        peer("llama.cpp, not repacked", "int4", "LlamaCpp", "gguf-int4", "llama", repacked=False),
    ]


def prompted(model: Path, count: int) -> tuple[str, list[int]]:
    """A text of about `count` tokens, and its tokens."""
    from edgekit.tokenizer import Tokenizer

    reader = Tokenizer.load(model / "tokenizer.json")
    drawn = np.random.default_rng(0).integers(1000, text_model.TOKENS, count)
    text = reader.decode(drawn.tolist())
    return text, reader.encode(text)


def row_of(row: Measured, base: Measured, count: int, prompt: int) -> dict[str, Any]:
    """Medians of a peer's rounds, and of their ratios to the base peer's of the same round."""
    if not row.runs:
        return {"peer": row.peer.name, "precision": row.peer.precision, "error": row.error}
    read, write = (np.array([run[key] for run in row.runs]) for key in ("read_s", "write_s"))
    texts = row.runs[0].get("texts", 1)  # written at once
    told: dict[str, Any] = {
        "peer": row.peer.name,
        "precision": row.peer.precision,
        "prompt_tokens_s": texts * prompt / float(np.median(read)),
        "written_tokens_s": texts * (count - 1) / float(np.median(write)),
        "spread": float((write.max() - write.min()) / np.median(write)),
    }
    spent = np.array([run["processor_s"] for run in row.runs])
    for key, own in (("read", read), ("write", write), ("processor", spent)):
        other = np.array([run[f"{key}_s"] for run in base.runs])
        common = min(len(own), len(other))
        told[f"{key}_ratio"] = texts * float(np.median(other[:common] / own[:common])) if common else None
    return told


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"| peer | precision | prompt, tokens/s | × {BASE} fp32 | written, tokens/s | × {BASE} fp32 | × in processor time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['peer']} | {row['precision']} | {row['error'].splitlines()[0][:80]} | | | | |")
            continue
        ratios = [row.get(f"{key}_ratio") for key in ("read", "write", "processor")]
        read, write, spent = ("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"| {row['peer']} | {row['precision']} | {row['prompt_tokens_s']:.0f} | {read} | "
            f"{row['written_tokens_s']:.1f} | {write} | {spent} |"
        )
    return "\n".join(lines) + "\n"


def agreement(rows: Sequence[Measured], model: Path) -> dict[str, int]:
    """How many characters of its text each peer has in common with the base's, from the beginning."""
    from edgekit.tokenizer import Tokenizer

    reader = Tokenizer.load(model / "tokenizer.json")
    texts = {}
    for row in rows:
        if row.runs and ("text" in row.runs[-1] or "tokens" in row.runs[-1]):
            last = row.runs[-1]
            texts[_name(row.peer)] = last.get("text") or reader.decode(last["tokens"])
    truth = texts.get(f"{BASE} fp32", "")
    return {
        n: next((i for i, (a, b) in enumerate(zip(t, truth, strict=False)) if a != b), min(len(t), len(truth)))
        for n, t in texts.items()
    }


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Keeps environments and models.")
@click.option("--prompt", default=128, show_default=True, help="Tokens that are read.")
@click.option("--tokens", default=64, show_default=True, help="Tokens that are written.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--only", multiple=True, help="Words of a peer's name or its precision; all where left out.")
@click.option("--prepare", is_flag=True, help="Make environments and models, and measure nothing.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(
    work: Path, prompt: int, tokens: int, rounds: int, threads: int, only: Sequence[str], prepare: bool, out: Path
) -> None:
    model = text_model.made(work.resolve())
    chosen = [p for p in peers(threads) if not only or any(word in _name(p[1]) for word in (f"{BASE} fp32", *only))]
    ready, failed = opened(chosen, model, work.resolve(), text_model.converted)
    if prepare:
        return
    text, read = prompted(model, prompt)
    rows = [*taken(PEERS_FILE, ready, rounds, {"text": text, "tokens": read, "count": tokens}), *failed]
    base = next(row for row in rows if _name(row.peer) == f"{BASE} fp32")
    summary = [row_of(row, base, tokens, len(read)) for row in rows]
    stated = {
        "model": "GPT-2 small's shape, random weights",
        "prompt": len(read),
        "written": tokens,
        "threads": threads,
        "characters_as_transformers_fp32": agreement(rows, model),
    }
    for run in (run for row in rows for run in row.runs):
        run.pop("tokens", None)
        run.pop("text", None)
    report(out, "text", stated, summary, rows, table)


def _name(peer: Peer) -> str:
    return f"{peer.name} {peer.precision}"


if __name__ == "__main__":
    main()
