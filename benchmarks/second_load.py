"""What a kept network saves: `open_session` without a cache and with a warm one, in turns, in one process.

Run it with `python -m edgekit.benchmarks.second_load [BUNDLE …]`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, NotInstalled
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.session import Session

KEEPING = ("openvino", "onnxruntime", "litert")


def measure_loads(bundle: Bundle, runtime: str, precision: str, rounds: int = 7) -> tuple[float, float]:
    """Milliseconds, medians: a load that compiles, and one that takes what was kept."""
    options: Any = find_runtime(runtime).options()
    with tempfile.TemporaryDirectory() as folder:
        shelves = {"without": False, "warm": folder}

        def opening(cache: bool | str) -> Session:
            own = replace(options, cache=cache)
            return open_session(bundle, runtime, precision=precision, component=bundle.main, options=own)

        samples: dict[str, list[float]] = {name: [] for name in shelves}
        opening(folder).close()
        for _ in range(rounds):
            for name, cache in shelves.items():
                samples[name].append(_seconds(lambda cache=cache: opening(cache)))  # type: ignore[misc]
    return float(np.median(samples["without"])) * 1e3, float(np.median(samples["warm"])) * 1e3


def _seconds(opening: Callable[[], Session]) -> float:
    start = time.perf_counter()
    session = opening()
    taken = time.perf_counter() - start
    session.close()
    return taken


@click.command()
@click.argument("bundles", nargs=-1)
def main(bundles: Sequence[str]) -> None:
    """Print loads of BUNDLES with and without a cache, for every engine that keeps compiled networks."""
    table = Table("bundle", "engine", "precision", "load ms", "second ms", "ratio")
    for name in bundles or ("sr-x2", "cifar-cnn", "style-wave"):
        bundle = Bundle.open(name)
        for engine in KEEPING:
            for precision in ("fp32", "int8"):
                try:
                    plain, warm = measure_loads(bundle, engine, precision)
                except (NotInstalled, DeviceUnavailable):  # no such file for it
                    continue
                table.add_row(name, engine, precision, f"{plain:.1f}", f"{warm:.1f}", f"{plain / warm:.1f}×")
    Console().print(table)


if __name__ == "__main__":
    main()
