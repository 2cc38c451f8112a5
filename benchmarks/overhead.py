"""What `session.run` costs over the engine's own call: both interleaved in one process, on the same buffers.

Run it with `python -m edgekit.benchmarks.overhead`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
from rich.console import Console

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.session import Session, open_session
from edgekit.session import runtime as find_runtime
from edgekit.tensors import Array
from edgekit.verify import feeds, golden_sizes


def measure_overhead(bundle: Bundle, runtime: str, runs: int = 1500, block: int = 25) -> dict[str, float]:
    """Microseconds: the medians of the engine's call and of `session.run`, and the median of their differences.

    Blocks of calls alternate, so that a drifting clock hits both alike.
    """
    with open_session(bundle, runtime, precision="int8", threads=1, sizes=golden_sizes(bundle)) as session:
        component, golden = bundle.component(), bundle.golden()
        inputs = feeds(session, [golden[spec.name] for spec in component.inputs], component.inputs)
        calls = {"engine": plain_call(runtime, session, list(inputs.values())), "session": lambda: session.run(inputs)}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            _block(call, block)
        for _ in range(max(2, runs // block)):
            for name, call in calls.items():
                samples[name].append(_block(call, block))
    engine, ours = (np.array(samples[name]) * 1e6 for name in ("engine", "session"))
    return {
        "engine_us": float(np.median(engine)),
        "session_us": float(np.median(ours)),
        "overhead_us": float(np.median(ours - engine)),
    }


def plain_call(runtime: str, session: Session, arrays: list[Array]) -> Callable[[], Any]:
    """The engine's own call, as its documentation shows it, with results that the caller owns."""
    engine: Any = session
    return {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}[runtime](engine, arrays)


def _onnxruntime(session: Any, arrays: list[Array]) -> Callable[[], Any]:
    engine, feeds = session._engine, dict(zip(session._input_names, arrays, strict=True))
    return lambda: engine.run(None, feeds)


def _openvino(session: Any, arrays: list[Array]) -> Callable[[], Any]:
    request = session._compiled.create_infer_request()
    return lambda: request.infer(arrays, share_inputs=True)


def _litert(session: Any, arrays: list[Array]) -> Callable[[], Any]:
    engine, inputs, outputs = session._engine, session._in, session._out

    def call() -> list[Array]:
        for detail, array in zip(inputs, arrays, strict=True):
            engine.set_tensor(detail["index"], array)
        engine.invoke()
        return [engine.get_tensor(detail["index"]) for detail in outputs]

    return call


def _block(call: Callable[[], Any], count: int) -> float:
    """The median of `count` calls, in seconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


@click.command()
@click.argument("bundle", default="sr-x2")
def main(bundle: str) -> None:
    """Print the overhead on BUNDLE's golden inputs for every installed engine."""
    console, opened = Console(), Bundle.open(bundle)
    for name in registry.names("runtimes"):
        if name in ("onnxruntime", "openvino", "litert") and find_runtime(name).installed():
            found = measure_overhead(opened, name)
            console.print(
                f"{name:12} engine {found['engine_us']:7.0f} µs, session.run {found['session_us']:7.0f} µs, "
                f"overhead {found['overhead_us']:5.1f} µs"
            )


if __name__ == "__main__":
    main()
