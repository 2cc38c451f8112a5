"""What `Session.map` makes a second beside the engines' own ways, in turns: `benchmark_app` of OpenVINO on the same file
with the same hint, and loops over ONNX Runtime's `run` with its threads split between callers.

Run it with `python -m edgekit.benchmarks.throughput [BUNDLE] [--size HEIGHT WIDTH]`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from edgekit import machine
from edgekit.bundle import Bundle
from edgekit.choice import readable
from edgekit.errors import EngineError
from edgekit.session import Session, open_session
from edgekit.session import runtime as find_runtime
from edgekit.tensors import Array

FOUND = re.compile(r"Throughput:\s+([\d.]+) FPS")
HINTS = {"LATENCY": "latency", "THROUGHPUT": "throughput"}
Inputs = Mapping[str, Array]
Way = Callable[[float], float]  # seconds → results a second


def by_map(session: Session, inputs: Inputs) -> Way:
    """Results a second of `map`."""

    def stream(end: float) -> Iterator[Inputs]:
        while time.perf_counter() < end:
            yield inputs

    def way(seconds: float) -> float:
        start = time.perf_counter()
        count = sum(1 for _ in session.map(stream(start + seconds)))
        return count / (time.perf_counter() - start)

    return way


def by_benchmark_app(model: Path, shapes: Mapping[str, tuple[int, ...]], hint: str) -> Way:
    """Results a second as OpenVINO's own tool says, which hands over its inputs once and copies no result.

    Raises:
        EngineError: it says nothing.
    """
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(model), "-d", "CPU", "-hint", HINTS[hint], "-infer_precision", "f32"]
    command += ["-api", "async"]  # threads are the engine's own choice: the tool takes no number beside a hint
    command += ["-shape", ",".join(f"{name}{list(shape)}".replace(" ", "") for name, shape in shapes.items())]

    def way(seconds: float) -> float:
        told = subprocess.run(
            [*command, "-t", str(max(1, round(seconds)))], capture_output=True, text=True, check=False
        )
        found = FOUND.search(told.stdout)
        if found is None:
            raise EngineError(f"benchmark_app said no throughput of '{model.name}': {told.stdout[-300:]}")
        return float(found[1])

    return way


def by_callers(session: Any, inputs: Inputs, callers: int) -> Way:
    """Results a second of ONNX Runtime's `run`, called in a loop by so many threads."""
    engine, given = session._engine, dict(inputs)

    def way(seconds: float) -> float:
        start, counts = time.perf_counter(), [0] * callers

        def loop(place: int) -> None:
            while time.perf_counter() < start + seconds:
                engine.run(None, given)
                counts[place] += 1

        threads = [threading.Thread(target=loop, args=(place,)) for place in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    return way


def in_turns(ways: Mapping[str, Way], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Results a second of each way in each round; the order of turns is reversed from round to round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name](seconds))
    return found


def ratio(found: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """The median over the rounds of ours beside theirs in the same round."""
    return float(np.median(np.array(found[ours]) / np.array(found[theirs])))


@click.command()
@click.argument("bundle", default="sr-x2")
@click.option("--size", type=(int, int), default=(360, 640), help="height and width of the image")
@click.option("--precision", default="int8")
@click.option("--rounds", default=5)
@click.option("--seconds", default=4.0, help="of each way in each round")
def main(bundle: str, size: tuple[int, int], precision: str, rounds: int, seconds: float) -> None:
    """Print the throughput of BUNDLE's model on OpenVINO and ONNX Runtime."""
    opened, threads = Bundle.open(bundle), machine.cores()
    sizes = {"height": size[0], "width": size[1]}
    table = Table("engine", "way", "a second", "beside", "ratio")
    for hint in HINTS:
        _openvino(table, opened, precision, hint, sizes, rounds, seconds)
    _onnxruntime(table, opened, precision, threads, sizes, rounds, seconds)
    Console().print(table)


def _openvino(table: Table, bundle: Bundle, precision: str, hint: str, sizes: Any, *time: Any) -> None:
    variant = readable("openvino", precision, bundle.component().variants)[0]
    options = find_runtime("openvino").options(performance_hint=hint)
    with open_session(bundle, "openvino", precision=precision, options=options) as session:
        inputs = _inputs(session, sizes)
        shapes = {name: array.shape for name, array in inputs.items()}
        tool = by_benchmark_app(bundle.model_path(variant), shapes, hint)
        found = in_turns({"map": by_map(session, inputs), "benchmark_app": tool}, *time)
    _row(table, f"openvino {hint}", found, "map", "benchmark_app")


def _onnxruntime(table: Table, bundle: Bundle, precision: str, threads: int, sizes: Any, *time: Any) -> None:
    ways: dict[str, Way] = {}
    opened = []
    for streams in (1, threads):
        options = find_runtime("onnxruntime").options(streams=streams)
        session = open_session(bundle, "onnxruntime", precision=precision, threads=threads, options=options)
        opened.append(session)
        inputs = _inputs(session, sizes)
        ways[f"map, {streams} streams"] = by_map(session, inputs)
        ways[f"{streams} × run, {threads // streams} threads"] = by_callers(session, inputs, streams)
    found = in_turns(ways, *time)
    for session in opened:
        session.close()
    theirs = max((name for name in ways if "run" in name), key=lambda name: np.median(found[name]))
    for ours in (name for name in ways if "map" in name):
        _row(table, "onnxruntime", found, ours, theirs)


def _row(table: Table, engine: str, found: Mapping[str, list[float]], ours: str, theirs: str) -> None:
    rates = (f"{float(np.median(found[name])):.1f}" for name in (ours, theirs))
    table.add_row(engine, ours, next(rates), f"{theirs} {next(rates)}", f"{ratio(found, ours, theirs):.2f}")


def _inputs(session: Session, sizes: Mapping[str, int]) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {spec.name: spec.bound(sizes).shape for spec in session.inputs}
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    return {name: random.random([int(d) for d in shape]).astype(dtypes[name]) for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
