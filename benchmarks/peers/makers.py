"""Makers: peers that write or draw, each a process in an environment of its own, run one after the other in rounds."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from edgekit.benchmarks.peers.turns import SERVED, save
from edgekit.errors import EngineError
from edgekit.isolation.process import Process

TIMEOUT_S = 300.0
ENVIRONMENTS = {  # what pip installs, and with a "-" what it removes again
    "optimum": (
        "optimum-intel[openvino]==2.2.0",
        "openvino-genai==2026.4.1.0",
        "openvino==2026.4.1",
        "diffusers==0.38.0",
        "torch==2.13.0",
        "-torchvision",  # that of another build of PyTorch stops transformers
    ),
    "llama": ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors==0.8.0"),
}
Converting = Callable[[str, Path, Path, Path, Callable[[str], None]], Path]


@dataclass(frozen=True, eq=False)
class Peer:
    """A class of a peers' file with what it is opened with; `environment` "" is the one that this runs in."""

    name: str
    precision: str
    kind: str
    settings: Mapping[str, Any]
    environment: str = ""


@dataclass
class Measured:
    """What came of a peer: what opening it told, and each run, oldest first; or the `error` that ended it."""

    peer: Peer
    opened: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


def say(step: str) -> None:
    """Progress, on stderr."""
    click.echo(f"{step} …", err=True)


def python_of(name: str, place: Path) -> Path:
    """The interpreter of an environment, made when it is first asked for.

    Raises:
        EngineError: the packages cannot be installed; says pip's last line.
    """
    if not name:
        return Path(sys.executable)
    python, ready = place / name / "bin" / "python", place / name / "ready"
    if not ready.exists():
        wanted = [package for package in ENVIRONMENTS[name] if not package.startswith("-")]
        say(f"{name}: installing {' '.join(wanted)}")
        subprocess.run([sys.executable, "-m", "venv", str(place / name)], check=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise EngineError(f"{name} cannot be installed: {lines[-1][:300]}")
        for package in set(ENVIRONMENTS[name]) - set(wanted):
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", package[1:]], check=True)
        ready.touch()
    return python


def opened(
    chosen: Sequence[tuple[str, Peer]], model: Path, work: Path, converting: Converting
) -> tuple[dict[Peer, tuple[Path, Path]], list[Measured]]:
    """The interpreter of each peer and the folder that it reads, and those that could not be had."""
    ready: dict[Peer, tuple[Path, Path]] = {}
    failed: list[Measured] = []
    for reads, peer in chosen:
        try:
            python = python_of(peer.environment, work / "venv")
            ready[peer] = python, converting(reads, model, work, python, say) if reads else model
        except (EngineError, subprocess.CalledProcessError) as error:
            failed.append(Measured(peer, error=str(error)))
    return ready, failed


def taken(
    file: Path, peers: Mapping[Peer, tuple[Path, Path]], rounds: int, command: Mapping[str, Any]
) -> list[Measured]:
    """Open every peer with its interpreter and folder, warm it up by one run, then run all in turns; half of the rounds after
    all were opened anew the other way round.

    Of two processes that read as much memory, the one that was opened later was 10 % faster whichever it was.
    """
    rows = [Measured(peer) for peer in peers]
    for order, count in ((rows, -(-rounds // 2)), (rows[::-1], rounds // 2)):
        sound = {row.peer: (row, *peers[row.peer]) for row in order if not row.error}
        if sound and count:
            _pass(file, sound, count, command)
    return rows


def _pass(
    file: Path, rows: Mapping[Peer, tuple[Measured, Path, Path]], rounds: int, command: Mapping[str, Any]
) -> None:
    """Open every peer in this order, and add so many runs to what was measured of each."""
    processes: dict[Peer, Process] = {}
    try:
        for peer, (row, python, folder) in rows.items():
            say(f"opening {peer.name} {peer.precision}")
            words = [str(python), str(SERVED), str(file), peer.kind]
            processes[peer] = Process(tuple(words), title="the peer's process")
            told = _asked(row, processes[peer], {"do": "open", "folder": str(folder), **peer.settings})
            row.opened = row.opened or told  # of the first time
            _asked(row, processes[peer], {"do": "run", **command})
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            order = list(rows.items())
            for peer, (row, *_) in order[::-1] if number % 2 else order:
                if answer := _asked(row, processes[peer], {"do": "run", **command}):
                    row.runs.append(answer)
    finally:
        for process in processes.values():
            process.stop()


def _asked(row: Measured, process: Process, command: dict[str, Any]) -> dict[str, Any]:
    """The answer; empty where the peer has failed, now or before."""
    if row.error:
        return {}
    try:
        answer = process.ask(command, TIMEOUT_S)
    except EngineError as error:
        answer = {"error": str(error)}
    row.error = answer.get("error", "")
    return {} if row.error else answer


def report(
    out: Path,
    name: str,
    stated: Mapping[str, Any],
    rows: Sequence[dict[str, Any]],
    raw: Sequence[Measured],
    table: Callable[[Sequence[dict[str, Any]]], str],
) -> None:
    """Write DATE-NAME.json, with machine, versions and every run, and the table of the rows, which is printed too.

    What was measured of other peers on the same day stays: those that are named with --only are added to it.
    """
    file = out / f"{datetime.date.today():%Y-%m-%d}-{name}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], "raw": []}
    keys = [key for key in ("network", "peer", "precision") if rows and key in rows[0]]
    ours = [[row[key] for key in keys] for row in rows]
    all_rows = [row for row in known["rows"] if [row[key] for key in keys] not in ours] + list(rows)
    kept = known["raw"] + [asdict(row) for row in raw]
    save(name, out, {**stated, "rows": all_rows, "raw": kept}, table(all_rows))
    click.echo(table(all_rows))
