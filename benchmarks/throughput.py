"""What `Session.map` makes a second beside the engines' own ways, in turns: `benchmark_app` of OpenVINO on the same file
with the same hint, its AsyncInferQueue, and loops over ONNX Runtime's `run` with its threads split between callers.

Beside the rate stands the processor's time for a result, which other work on a shared machine disturbs least; that of
`benchmark_app` is not told, as it is another process.

Run it with `python -m edgekit.benchmarks.throughput [BUNDLE] [--size HEIGHT WIDTH]`.
"""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from edgekit import machine
from edgekit.bundle import Bundle
from edgekit.errors import EngineError
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.session import Session
from edgekit.stated import readable
from edgekit.tensors import Array

FOUND = re.compile(r"Throughput:\s+([\d.]+) FPS")
HINTS = {"LATENCY": "latency", "THROUGHPUT": "throughput"}
Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Rate:
    """Results a second, and milliseconds of the processor for one."""

    a_second: float
    cpu_ms: float = math.nan


Way = Callable[[float], Rate]  # for so many seconds


def by_map(session: Session, inputs: Inputs) -> Way:
    """`map`, over inputs that are there already."""

    def stream(end: float) -> Iterator[Inputs]:
        while time.perf_counter() < end:
            yield inputs

    return _counted(lambda end: sum(1 for _ in session.map(stream(end))))


def by_queue(session: Any, inputs: Inputs) -> Way:
    """OpenVINO's own queue, which here gets its inputs once and copies no result, as in `benchmark_app`."""
    import openvino

    queue = openvino.AsyncInferQueue(session._compiled, session.streams)
    for request in queue:
        for place, array in enumerate(inputs.values()):
            request.set_input_tensor(place, openvino.Tensor(array))

    def count(end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            queue.start_async()
            done += 1
        queue.wait_all()
        return done

    return _counted(count)


def by_benchmark_app(model: Path, shapes: Mapping[str, tuple[int, ...]], hint: str) -> Way:
    """What OpenVINO's own tool says, which hands over its inputs once and copies no result.

    Raises:
        EngineError: it says nothing.
    """
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [str(tool), "-m", str(model), "-d", "CPU", "-hint", HINTS[hint], "-infer_precision", "f32"]
    command += ["-api", "async"]  # threads are the engine's own choice: the tool takes no number beside a hint
    command += ["-shape", ",".join(f"{name}{list(shape)}".replace(" ", "") for name, shape in shapes.items())]

    def way(seconds: float) -> Rate:
        told = subprocess.run(
            [*command, "-t", str(max(1, round(seconds)))], capture_output=True, text=True, check=False
        )
        found = FOUND.search(told.stdout)
        if found is None:
            raise EngineError(f"benchmark_app said no throughput of '{model.name}': {told.stdout[-300:]}")
        return Rate(float(found[1]))

    return way


def by_callers(session: Any, inputs: Inputs, callers: int) -> Way:
    """ONNX Runtime's `run`, called in a loop by so many threads."""
    engine, given = session._engine, dict(inputs)

    def count(end: float) -> int:
        counts = [0] * callers

        def loop(place: int) -> None:
            while time.perf_counter() < end:
                engine.run(None, given)
                counts[place] += 1

        threads = [threading.Thread(target=loop, args=(place,)) for place in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    return _counted(count)


def _counted(count: Callable[[float], int]) -> Way:
    """The rate of what counts its results until a moment of `time.perf_counter`."""

    def way(seconds: float) -> Rate:
        start, busy = time.perf_counter(), time.process_time()
        done = count(start + seconds)
        return Rate(done / (time.perf_counter() - start), (time.process_time() - busy) / max(1, done) * 1e3)

    return way


def in_turns(ways: Mapping[str, Way], rounds: int, seconds: float) -> dict[str, list[Rate]]:
    """The rate of each way in each round; the order of turns is reversed from round to round."""
    found: dict[str, list[Rate]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name](seconds))
    return found


def ratio(found: Mapping[str, list[Rate]], ours: str, theirs: str) -> tuple[float, float]:
    """The medians over the rounds of ours beside theirs in the same round: of rates, and of the processor's time."""
    pairs = list(zip(found[ours], found[theirs], strict=True))
    rates = np.median([own.a_second / other.a_second for own, other in pairs])
    return float(rates), float(np.median([own.cpu_ms / other.cpu_ms for own, other in pairs]))


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
    table = Table("engine", "ours", "theirs", "a second", "CPU ms", "rate ×", "CPU ×")
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
        ways = {"map": by_map(session, inputs), "benchmark_app": tool, "queue": by_queue(session, inputs)}
        found = in_turns(ways, *time)
        del ways
    for theirs in ("benchmark_app", "queue"):
        _row(table, hint.lower(), found, "map", theirs)


def _onnxruntime(table: Table, bundle: Bundle, precision: str, threads: int, sizes: Any, *time: Any) -> None:
    ways: dict[str, Way] = {}
    opened = []
    for streams in (1, threads):
        options = find_runtime("onnxruntime").options(streams=streams)
        session = open_session(bundle, "onnxruntime", precision=precision, threads=threads, options=options)
        opened.append(session)
        inputs = _inputs(session, sizes)
        ways[f"map ×{streams}"] = by_map(session, inputs)
        ways[f"run ×{streams}"] = by_callers(session, inputs, streams)
    found = in_turns(ways, *time)
    for session in opened:
        session.close()
    loops = [name for name in ways if name.startswith("run")]
    theirs = max(loops, key=lambda name: float(np.median([rate.a_second for rate in found[name]])))
    for ours in (name for name in ways if name.startswith("map")):
        _row(table, "onnx", found, ours, theirs)


def _row(table: Table, engine: str, found: Mapping[str, list[Rate]], ours: str, theirs: str) -> None:
    """One of ours beside one of theirs: "ours / theirs" of the rate and of the processor's time, then the ratios."""
    told = []
    for what in ("a_second", "cpu_ms"):
        pair = [np.median([getattr(rate, what) for rate in found[name]]) for name in (ours, theirs)]
        told.append(" / ".join("–" if np.isnan(value) else f"{value:.3g}" for value in pair))
    ratios = ("–" if np.isnan(value) else f"{value:.2f}" for value in ratio(found, ours, theirs))
    table.add_row(engine, ours, theirs, *told, *ratios)


def _inputs(session: Session, sizes: Mapping[str, int]) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {spec.name: spec.bound(sizes).shape for spec in session.inputs}
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    return {name: random.random([int(d) for d in shape]).astype(dtypes[name]) for name, shape in shapes.items()}


if __name__ == "__main__":
    main()
