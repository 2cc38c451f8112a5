"""Executed instructions by QEMU's plugin interface, and the record of them that the documents show."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi.packages import PROJECT, Unavailable

SOURCE = Path(__file__).with_name("count.c")
RECORD = PROJECT / "docs" / "raspberry-pi.json"
PAGE = PROJECT / "docs" / "raspberry-pi.md"
BEGIN, END = "<!-- from raspberry-pi.json -->", "<!-- end -->"
COLUMNS = (
    ("onnxruntime", "fp32", "ONNX fp32"),
    ("onnxruntime", "int8", "int8"),
    ("litert", "fp32", "LiteRT fp32"),
    ("litert", "int8", "int8"),
)
WHAT = (
    "Instructions that an emulated processor executed for one run of each file on one thread (the least of three), Python's "
    "part included, and the dot products (sdot, udot) among them. They are no latency of any board."
)


@dataclass(frozen=True)
class Count:
    """Guest instructions between two marks, and those of them that are Arm dot products."""

    instructions: int
    dot_products: int


def plugin(scratch: Path) -> Path:
    """The plugin, compiled.

    Raises:
        Unavailable: no compiler, or it fails.
    """
    if not shutil.which("gcc"):
        raise Unavailable("instructions are counted by a plugin for QEMU, which needs gcc")
    made = scratch / "libcount.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(made), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"gcc cannot compile the plugin that counts: {done.stderr[-500:]}")
    return made


def between_marks(path: Path) -> list[Count]:
    """The counts between the first and the second mark, the third and the fourth, and so on."""
    marks = [[int(number) for number in line.split()] for line in path.read_text().splitlines()]
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return [Count(after[0] - before[0], after[1] - before[1]) for before, after in pairs]


def written(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write the record, and the page's table from it."""
    text = json.dumps({"what": WHAT, **facts, "rows": rows}, indent=1, ensure_ascii=False)
    RECORD.write_text(text + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(recorded()['rows'])}\n{END}{after}", encoding="utf-8")


def recorded() -> dict[str, Any]:
    """The committed record."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each graph, in millions of instructions."""
    boards = list(rows[0]["boards"])
    found = {(row["bundle"], row["component"], row["engine"], row["precision"]): row["boards"] for row in rows}
    titles = [f"{board}: {title}" if n == 0 else title for board in boards for n, (*_, title) in enumerate(COLUMNS)]
    lines = [f"| graph | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for bundle, component in dict.fromkeys((row["bundle"], row["component"]) for row in rows):
        cells = [_millions(found.get((bundle, component, *kind[:2])), board) for board in boards for kind in COLUMNS]
        graph = bundle if component == "model" else f"{bundle}, {component}"
        lines.append(f"| {graph} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _millions(boards: Mapping[str, Any] | None, board: str) -> str:
    if boards is None:
        return "–"
    millions = boards[board]["instructions"] / 1e6
    return f"{millions:.{0 if millions >= 100 else 1 if millions >= 10 else 2}f}"
