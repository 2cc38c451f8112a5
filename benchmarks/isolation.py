"""What `isolate=True` costs each call: a session here and one in a process of its own, interleaved, on the same images.

Run it with `python -m edgekit.benchmarks.isolation`. The engine is the NumPy double with an identity, so that next to
nothing but the way there and back is measured: checks, a copy into shared memory, a line over a pipe, a copy out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console

from edgekit.bundle import Bundle, file_entry, staged, write
from edgekit.manifest import Component, Manifest, Variant
from edgekit.opening import open_session
from edgekit.tensors import TensorSpec

SIZES = ((64, 64), (360, 640))  # height, width, of three float32 channels in and out
BLOCK = 20
IDENTITY = "model.json"


class Cost(msgspec.Struct, frozen=True):
    """Medians in microseconds; `added_us` is that of the differences between neighbouring blocks."""

    height: int
    width: int
    here_us: float
    isolated_us: float
    added_us: float
    added_without_copy_us: float


def measure_isolation(size: tuple[int, int], runs: int = 2000) -> Cost:
    """What isolation adds to a run of images of a size; blocks of calls alternate, so that a drifting clock hits all."""
    image = {"image": np.random.default_rng(0).random((1, 3, *size), np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        bundle = _identity(Path(folder) / "identity")
        with (
            open_session(bundle, "reference", check=False) as here,
            open_session(bundle, "reference", check=False, isolate=True) as apart,
        ):
            calls: dict[str, Callable[[], Any]] = {
                "here": lambda: here.run(image),
                "isolated": lambda: apart.run(image),
                "uncopied": lambda: apart.run(image, copy=False),
            }
            samples: dict[str, list[float]] = {name: [] for name in calls}
            for number in range(runs // BLOCK + 1):
                for name, call in calls.items():
                    took = _block(call)
                    if number:  # the first block warms up
                        samples[name].append(took)
    here_us, isolated_us, uncopied_us = (np.array(samples[name]) * 1e6 for name in calls)
    medians = (float(np.median(a)) for a in (here_us, isolated_us, isolated_us - here_us, uncopied_us - here_us))
    return Cost(*size, *medians)


def _block(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(BLOCK):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _identity(folder: Path) -> Bundle:
    """A bundle of the NumPy double that gives what it gets."""
    spec = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0))
    inputs, outputs = (spec,), (msgspec.structs.replace(spec, name="same"),)
    with staged(folder) as stage:
        (stage / IDENTITY).write_bytes(msgspec.json.encode({"inputs": inputs, "outputs": outputs}))
        variant = Variant("reference", "fp32", (file_entry(stage, IDENTITY),))
        write(stage, Manifest(name="identity", components={"model": Component(inputs, outputs, (variant,))}))
    return Bundle.open(folder)


@click.command()
@click.option("--runs", default=2000, show_default=True, help="Calls of each kind.")
def main(runs: int) -> None:
    """Print what a process of its own adds to each call, at 64 × 64 and 640 × 360."""
    for size in SIZES:
        cost = measure_isolation(size, runs)
        Console().print(
            f"{cost.width:4} × {cost.height:3}  here {cost.here_us:6.0f} µs, isolated {cost.isolated_us:6.0f} µs: "
            f"adds {cost.added_us:.0f} µs ({cost.added_without_copy_us:.0f} with copy=False)",
            highlight=False,
        )


if __name__ == "__main__":
    main()
