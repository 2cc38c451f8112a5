"""One way to do a thing, as `served.py` opens it: asked for answers, timed when told.

A Python without edgekit can run it: it imports NumPy, and the way's own file.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


class Turn:
    """A way, opened, and the sample that it is timed on. `place` and `settings` are those of `turns.Way`."""

    packages: tuple[str, ...] = ()

    def __init__(self, place: str, settings: dict[str, Any], sample: str, started_at: float) -> None:
        self.sample = np.load(sample)
        began = time.perf_counter()
        self.call: Callable[[Any], Any] = found(place)(**settings)
        opened = time.perf_counter()
        self.call(self.sample)
        first = time.perf_counter()
        self.opened = {
            "open_ms": (opened - began) * 1e3,
            "first_ms": (first - opened) * 1e3,
            "start_ms": (time.time() - started_at) * 1e3,
            "start_processor_ms": time.process_time() * 1e3,
            "start_peak_mb": peak_mb(),
        }
        self.call(self.sample)

    def answer(self, inputs: str, to: str) -> dict[str, Any]:
        """The way's answers to arrays in a file, into another."""
        with np.load(inputs) as arrays:
            np.savez(to, **{name: self.call(arrays[name]) for name in arrays.files})
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


def peak_mb() -> float:
    """The largest resident memory this process has had, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
