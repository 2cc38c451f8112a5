"""One way in a process of its own: opened, asked for answers, timed when told; JSON lines in and out.

A plain script, so that a Python without edgekit can run it: it imports NumPy, and the way's own file.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def main() -> None:
    """Answer commands from stdin on the original stdout; what others print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    turn: Turn | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "open":
                turn = Turn(command)
                answer: dict[str, Any] = dict(turn.opened)
            else:
                assert turn is not None
                answer = turn.answers(command) if command["do"] == "answer" else turn.round(command["seconds"])
        except Exception as error:  # a way that fails is a row of the report
            answer = {"error": f"{type(error).__name__}: {last_line(error)}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Turn:
    """A way, opened, and the sample that it is timed on."""

    def __init__(self, command: dict[str, Any]) -> None:
        self.sample = np.load(command["sample"])
        began = time.perf_counter()
        self.call: Callable[[Any], Any] = found(command["place"])(**command["settings"])
        opened = time.perf_counter()
        self.call(self.sample)
        first = time.perf_counter()
        self.opened = {
            "open_ms": (opened - began) * 1e3,
            "first_ms": (first - opened) * 1e3,
            "start_ms": (time.time() - command["started_at"]) * 1e3,
            "start_processor_ms": time.process_time() * 1e3,
            "start_peak_mb": peak_mb(),
        }
        self.call(self.sample)

    def answers(self, command: dict[str, Any]) -> dict[str, Any]:
        """The way's answers to arrays in a file, into another."""
        with np.load(command["inputs"]) as inputs:
            np.savez(command["to"], **{name: self.call(inputs[name]) for name in inputs.files})
        return {}

    def round(self, seconds: float) -> dict[str, Any]:
        """Milliseconds of call after call for about so long, at least two; and of the processor, each call's part."""
        samples: list[float] = []
        spent, end = time.process_time(), time.perf_counter() + seconds
        while len(samples) < 2 or time.perf_counter() < end:
            start = time.perf_counter()
            self.call(self.sample)
            samples.append((time.perf_counter() - start) * 1e3)
        each = (time.process_time() - spent) * 1e3 / len(samples)
        return {"ms": samples, "processor_ms": each, "peak_mb": peak_mb()}


def found(place: str) -> Any:
    """ "package.module:function", or "/a/file.py:function"."""
    module, _, name = place.rpartition(":")
    return getattr(_of_file(Path(module)) if module.endswith(".py") else importlib.import_module(module), name)


def _of_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def last_line(error: Exception) -> str:
    """What an error says in the end, where engines name the cause."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [""])[-1][:300]


def peak_mb() -> float:
    """The largest resident memory this process has had, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    main()
