"""Turns: ways to do one thing, each in a process of its own, timed in rounds that all take in turn."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit import machine
from edgekit.bundle import cache_folder
from edgekit.errors import EngineError
from edgekit.isolation.process import Process
from edgekit.tensors import Array

SERVED, TURN = (Path(__file__).with_name(name) for name in ("served.py", "turn.py"))
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Way:
    """One way: `place` ("package.module:function", or "/a/file.py:function") names a function that takes `settings` by
    name and returns a call, an array in and an array out. `python` runs it, where it needs a Python of its own.
    """

    name: str
    place: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable


class Taken(msgspec.Struct):
    """What a way took: milliseconds by round, in the order taken, and of the processor; `error` says why there are none.

    `start_…` is all that it took from the start of the process to the first answer, imports included. `figures` are what
    the caller measured of its answers.
    """

    name: str
    open_ms: float = math.nan
    first_ms: float = math.nan
    start_ms: float = math.nan
    start_processor_ms: float = math.nan
    start_peak_mb: float = math.nan
    rounds_ms: list[list[float]] = []
    processor_ms: list[float] = []
    peak_mb: float = math.nan
    figures: dict[str, float] = {}
    error: str = ""

    @property
    def median_ms(self) -> float:
        return float(np.median(np.concatenate(self.rounds_ms))) if self.rounds_ms else math.nan

    def gain(self, other: Taken) -> float:
        """How many times as fast as another way: the median of the rounds' own ratios, so that drift does not count."""
        pairs = zip(self.rounds_ms, other.rounds_ms, strict=False)
        ratios = [np.median(theirs) / np.median(ours) for ours, theirs in pairs]
        return float(np.median(ratios)) if ratios else math.nan


Asked = Callable[[Mapping[str, Array]], dict[str, Array]]


def in_turns(
    ways: Sequence[Way],
    sample: Array,
    *,
    rounds: int = 7,
    seconds: float = 1.0,
    judge: Callable[[Asked], dict[str, float]] = lambda asked: {},
    say: Callable[[str], None] = lambda line: None,
) -> list[Taken]:
    """Every way on one sample. `judge` may ask each for answers to further arrays by name, and says what they are worth.

    A way that fails, crashes or hangs is a row with the error; the others go on.
    """
    taken = [Taken(way.name) for way in ways]
    processes: list[Process] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-turns-") as folder:
        scratch = Path(folder)
        try:
            for way, row in zip(ways, taken, strict=True):
                say(f"open {way.name}")
                with _noted(row):
                    processes.append(_opened(way, row, sample, scratch))
                    row.figures = {} if row.error else judge(partial(_answers, processes[-1], scratch))
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                for row, process in zip(taken, processes, strict=True):
                    if not row.error:
                        with _noted(row):
                            _add_round(row, _told(process, {"do": "round", "seconds": seconds}))
        finally:
            for process in processes:
                process.stop()
    return taken


def started(way: Way, sample: Array) -> Taken:
    """A way in a process that is started for it, up to its first answer."""
    row = Taken(way.name)
    with tempfile.TemporaryDirectory(prefix="edgekit-turns-") as folder, _noted(row):
        _opened(way, row, sample, Path(folder)).stop()
    return row


def python_with(name: str, *requirements: str) -> str:
    """A Python of its own in the user's cache with these packages alone, without what they ask for themselves.

    Raises:
        EngineError: they cannot be installed.
    """
    folder = cache_folder() / "peers" / name
    done, python = folder / "requirements.txt", folder / "bin" / "python"
    if not done.is_file() or done.read_text(encoding="utf-8").split() != list(requirements):
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *requirements]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise EngineError(f"cannot install {', '.join(requirements)} into {folder}")
        done.write_text("\n".join(requirements), encoding="utf-8")
    return str(python)


def save(what: str, out: Path, report: Mapping[str, Any], table: str) -> Path:
    """Write DATE-WHAT.json, with the machine, and .md into `out`; returns the first."""
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{datetime.date.today():%Y-%m-%d}-{what}"
    data = msgspec.json.encode({"machine": machine.facts(), **report})
    Path(f"{stem}.json").write_bytes(msgspec.json.format(data, indent=1))
    Path(f"{stem}.md").write_text(table, encoding="utf-8")
    return Path(f"{stem}.json")


def _opened(way: Way, row: Taken, sample: Array, scratch: Path) -> Process:
    """The way's process, opened or failed, as the row then says."""
    np.save(scratch / "sample.npy", sample)
    command = {"do": "open", "place": way.place, "settings": dict(way.settings), "started_at": time.time()}
    process = Process((way.python, str(SERVED), str(TURN), "Turn"), title="the measured process")
    with _noted(row):
        opened = _told(process, {**command, "sample": str(scratch / "sample.npy")})
        for name in ("open_ms", "first_ms", "start_ms", "start_processor_ms", "start_peak_mb"):
            setattr(row, name, opened[name])
    return process


def _add_round(row: Taken, answer: Mapping[str, Any]) -> None:
    row.rounds_ms.append(answer["ms"])
    row.processor_ms.append(answer["processor_ms"])
    row.peak_mb = answer["peak_mb"]


def _answers(process: Process, scratch: Path, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """What a way answers to arrays by name."""
    np.savez(scratch / "asked.npz", **dict(arrays))  # type: ignore[arg-type]  # arrays by name
    _told(process, {"do": "answer", "inputs": str(scratch / "asked.npz"), "to": str(scratch / "answers.npz")})
    with np.load(scratch / "answers.npz") as found:
        return {name: found[name] for name in found.files}


def _told(process: Process, command: Mapping[str, Any]) -> dict[str, Any]:
    answer = process.ask(dict(command), TIMEOUT_S)
    if "error" in answer:
        raise EngineError(answer["error"])
    return answer


@contextmanager
def _noted(row: Taken) -> Iterator[None]:
    """An engine's failure becomes the row's error."""
    try:
        yield
    except EngineError as error:
        row.error = str(error)
