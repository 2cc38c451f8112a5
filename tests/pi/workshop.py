"""The emulated boards with edgekit's wheel and one engine each, and what every shipped bundle answers there and here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pi import counting, packages
from pi.boards import BOARDS, Board, Emulator, finished
from pi.guest import COUNTED

PROGRAM = Path(__file__).with_name("guest.py")
HERE = "x86-64"


@dataclass(frozen=True)
class Answers:
    """What one engine answered on one machine: a row for each file, its outputs in `folder`, and counts by key."""

    folder: Path
    rows: tuple[dict[str, str], ...]
    counts: dict[str, counting.Count]

    def outputs(self, key: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{key}.npz") as arrays:
            return dict(arrays)


@dataclass(frozen=True)
class Workshop:
    """All that the emulated boards are made of; `uncounted` says why instructions cannot be counted."""

    guest: Path
    emulator: Path
    sites: dict[str, Path]
    ours: Path
    scratch: Path
    plugin: Path | None = None
    uncounted: str = ""

    def board(self, board: Board, engine: str) -> Emulator:
        packages_of_it = (self.sites[engine], self.ours)
        python = packages.python(self.guest)
        return Emulator(board, self.guest, self.emulator, python, packages_of_it, self.scratch, self.plugin)

    def facts(self) -> dict[str, str]:
        """Versions of what counts depend on."""
        found = {}
        for folder in (path for site in self.sites.values() for path in site.glob("*.dist-info")):
            name, _, version = folder.name.removesuffix(".dist-info").partition("-")
            found[name] = version
        engines = {name: found[name] for name in ("ai_edge_litert", "numpy", "onnxruntime")}
        board = self.board(BOARDS[0], next(iter(self.sites)))
        return {"emulator": board.version(), "python": board.run("--version").split()[1], **engines}

    def counting(self) -> Workshop:
        """The same with the plugin, where QEMU loads it: a static build does not, and later ones have another interface."""
        try:
            tried = replace(self, plugin=counting.plugin(self.scratch))
            tried.board(BOARDS[0], next(iter(self.sites))).run("-c", "pass", counts=self.scratch / "tried")
        except (packages.Unavailable, AssertionError) as error:
            return replace(self, uncounted=f"no counts of instructions: {error}")
        return tried


Everything = dict[tuple[str, str], Answers]  # by board, or `HERE`, and engine


def all_answers(workshop: Workshop) -> Everything:
    """What every bundle answers on every board and here; both boards run at once."""
    found = {}
    for engine in workshop.sites:
        running = {board.name: _started(workshop, board, engine) for board in BOARDS}
        running[HERE] = _started_here(workshop, engine)
        for name, process in running.items():
            rows = tuple(json.loads(line) for line in finished(process).splitlines() if line.startswith("{"))
            found[name, engine] = Answers(_folder(workshop, name, engine), rows, _counts(workshop, name, engine, rows))
    return found


def _started(workshop: Workshop, board: Board, engine: str) -> subprocess.Popen[str]:
    out = _folder(workshop, board.name, engine)
    return workshop.board(board, engine).start(PROGRAM, engine, out, counts=out / "counts")


def _started_here(workshop: Workshop, engine: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROGRAM), engine, str(_folder(workshop, HERE, engine))]
    environment = {**os.environ, "EDGEKIT_CACHE": str(workshop.scratch / "cache")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _folder(workshop: Workshop, name: str, engine: str) -> Path:
    folder = workshop.scratch / f"{name}-{engine}".replace(" ", "-")
    folder.mkdir(exist_ok=True)
    return folder


def _counts(workshop: Workshop, name: str, engine: str, rows: Sequence[dict[str, Any]]) -> dict[str, counting.Count]:
    path = _folder(workshop, name, engine) / "counts"
    if not path.exists():
        return {}
    runs = counting.between_marks(path)
    least = [min(runs[i : i + COUNTED], key=lambda count: count.instructions) for i in range(0, len(runs), COUNTED)]
    return {row["key"]: count for row, count in zip(rows, least, strict=True)}
