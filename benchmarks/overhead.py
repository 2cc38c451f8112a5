"""What `session.run` costs over the engine's own best call: all ways in turns in one process, on the same buffers.

Engines run on one thread, and the processor's time is taken, not the clock's: on a machine that is shared the one is
disturbed by a tenth, the other by a hundred times what is measured.

Run it with `python -m edgekit.benchmarks.overhead [BUNDLE] [--size HEIGHT WIDTH]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.session import Session
from edgekit.tensors import Array
from edgekit.verify import feeds, golden_sizes

Call = Callable[[], Any]


@dataclass(frozen=True)
class Overhead:
    """Microseconds of the processor: the median of the engine's best call, and that of ours above it, from neighbouring blocks.

    `result` is whose memory the result lies in: "own" the caller's, "lent" the engine's, as with `borrow`.
    """

    result: str
    best: str
    engine_us: float
    overhead_us: float

    @property
    def percent(self) -> float:
        return 100 * self.overhead_us / self.engine_us


def measure_overhead(
    bundle: Bundle, runtime: str, sizes: Mapping[str, int] | None = None, seconds: float = 6.0
) -> list[Overhead]:
    """The overhead of `run` and of `borrow`; `sizes` brings the golden input to others than its own."""
    sizes = sizes or golden_sizes(bundle)
    with open_session(bundle, runtime, precision="int8", threads=1, sizes=sizes) as session:
        component, golden = bundle.component(), bundle.golden()
        arrays = [_of_sizes(golden[spec.name], spec.shape, sizes) for spec in component.inputs]
        inputs = feeds(session, arrays, component.inputs)
        own, lent = PLAIN[runtime](session, list(inputs.values()))
        found = []
        for result, plain, ours in (("own", own, lambda: session.run(inputs)), ("lent", lent, _lent(session, inputs))):
            found.append(_compared(result, plain, ours, seconds / 2))
    return found


def _compared(result: str, plain: Mapping[str, Call], ours: Call, seconds: float) -> Overhead:
    """Blocks alternate, so that a drifting clock hits all alike."""
    calls = {**plain, "": ours}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        _block(call, 3)
    count = max(1, int(0.02 / max(_block(ours, 3), 1e-6)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[""]) < 5:
        for name, call in calls.items():
            samples[name].append(_block(call, count))
    medians = {name: float(np.median(samples[name])) for name in plain}
    best = min(medians, key=lambda name: medians[name])
    above = np.median(np.array(samples[""]) - np.array(samples[best]))
    return Overhead(result, best, medians[best] * 1e6, float(above) * 1e6)


def _lent(session: Session, inputs: Mapping[str, Array]) -> Call:
    def call() -> None:
        with session.borrow(inputs):
            pass

    return call


def _onnxruntime(session: Any, arrays: list[Array]) -> tuple[dict[str, Call], dict[str, Call]]:
    engine, given = session._engine, dict(zip(session._input_names, arrays, strict=True))
    shapes = {name: r.shape for name, r in zip(session._output_names, engine.run(None, given), strict=True)}
    binding = engine.io_binding()
    buffers = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}

    def bound(outputs: Mapping[str, Array]) -> Any:
        for name, array in given.items():
            binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        engine.run_with_iobinding(binding)
        return outputs

    fresh = lambda: bound({name: np.empty(shape, np.float32) for name, shape in shapes.items()})  # noqa: E731
    return (
        {"run": lambda: engine.run(None, given), "run_with_iobinding": fresh},
        {"run_with_iobinding": lambda: bound(buffers)},
    )


def _openvino(session: Any, arrays: list[Array]) -> tuple[dict[str, Call], dict[str, Call]]:
    own, lent = (session._compiled.create_infer_request() for _ in range(2))
    return (
        {"infer(share_inputs)": lambda: own.infer(arrays, share_inputs=True)},
        {"infer(share_inputs, share_outputs)": lambda: lent.infer(arrays, share_inputs=True, share_outputs=True)},
    )


def _litert(session: Any, arrays: list[Array]) -> tuple[dict[str, Call], dict[str, Call]]:
    engine, inputs, outputs = session._engine, session._in, session._out

    def call() -> list[Array]:
        for detail, array, own in zip(inputs, arrays, session._found[0], strict=True):
            given = own.quantization.stored(array, own.dtype) if own.dtype != array.dtype else array
            engine.set_tensor(detail["index"], given)
        engine.invoke()
        return [engine.get_tensor(detail["index"]) for detail in outputs]

    return {"set_tensor, invoke, get_tensor": call}, {"set_tensor, invoke, get_tensor": call}


PLAIN = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}


def _of_sizes(array: Array, shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> Array:
    for axis, size in enumerate(shape):
        if isinstance(size, str):
            array = np.take(array, np.arange(sizes[size]), axis, mode="wrap")
    return np.ascontiguousarray(array)


def _block(call: Call, count: int) -> float:
    """The median of `count` calls, in seconds of the processor."""
    times = []
    for _ in range(count):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


@click.command()
@click.argument("bundle", default="sr-x2")
@click.option("--size", type=(int, int), help="height and width of the image, in the place of the golden one's")
@click.option("--seconds", default=6.0, help="of each engine")
def main(bundle: str, size: tuple[int, int] | None, seconds: float) -> None:
    """Print the overhead on BUNDLE's golden inputs for every installed engine."""
    opened, table = Bundle.open(bundle), Table("engine", "result", "its own best call", "µs", "ours above it, µs", "%")
    sizes = {"height": size[0], "width": size[1]} if size else None
    for name in registry.names("runtimes"):
        if name not in PLAIN or not find_runtime(name).installed():
            continue
        try:
            rows = measure_overhead(opened, name, sizes, seconds)
        except EdgekitError as error:
            table.add_row(name, "", str(error))
            continue
        for row in rows:
            told = f"{row.engine_us:.0f}", f"{row.overhead_us:.1f}", f"{row.percent:.1f}"
            table.add_row(name, row.result, row.best, *told)
    Console().print(table)


if __name__ == "__main__":
    main()
