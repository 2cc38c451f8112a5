"""One measured process: opens one engine × precision, runs rounds when told, answers in JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO


def main() -> None:
    """Read commands from stdin and answer on the original stdout; what engines print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "open":
                worker = Worker(command["case"], command["image"])
                _answer(answers, worker.opened)
            elif command["do"] == "round" and worker is not None:
                _answer(answers, worker.round(command["seconds"], command.get("alone", True)))
        except Exception as error:  # every failure of an engine is a row of the report
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})


class Worker:
    """A session, and the task around it where the whole is measured, with an input each."""

    def __init__(self, case: dict[str, Any], image: str | None) -> None:
        start = time.perf_counter()
        from edgekit.bundle import Bundle

        bundle = Bundle.open(case["bundle"])
        request = {"device": case["device"], "precision": case["precision"], "threads": case["threads"]}
        self.task: Callable[[], Any] | None = None
        runs: dict[str, int] = {}
        if bundle.manifest.task is not None and case["component"] is None:
            import edgekit

            task = edgekit.load(bundle, case["runtime"], **request)
            loaded = time.perf_counter()
            picture = _picture(image)
            session, inputs = task.example(picture)
            self.task = lambda: task.once(picture)
            if len(task.components) > 1:
                runs = runs_of(task, self.task)
        else:
            session, inputs, loaded = _component(bundle, case, request)
        self.model: Callable[[], Any] = lambda: session.run(inputs)
        first = time.perf_counter()
        self.model()
        placement = session.placement()
        self.opened = {
            "load_ms": (loaded - start) * 1e3,
            "first_ms": (time.perf_counter() - first) * 1e3,
            "runs": runs,
            "placement": {
                "device": placement.device,
                "precision": placement.precision,
                "threads": placement.threads,
                "version": placement.version,
                "operators": placement.operators,
            },
        }
        self.model()

    def round(self, seconds: float, alone: bool = True) -> dict[str, Any]:
        """Time the model alone for half the time, the whole task for the other; at least twice each.

        `alone=False` leaves the model alone out where there is a task.
        """
        both = alone and self.task is not None
        half = seconds / 2 if both else seconds
        return {
            "model_ms": timed(self.model, half) if alone or not self.task else [],
            "task_ms": timed(self.task, half) if self.task else [],
            "peak_mb": peak_mb(),
        }


def runs_of(task: Any, once: Callable[[], Any]) -> dict[str, int]:
    """How often one use of a task runs each of its components."""
    once()  # which opens what it needs
    counts: Counter[str] = Counter()

    def counted(component: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            counts[component] += 1
            return call(*arguments, **options)

        return counting

    sessions = [(component, session) for (component, _), session in task._sessions.items()]
    for component, session in sessions:
        session.run, session.borrow = counted(component, session.run), counted(component, session.borrow)
    once()
    for _, session in sessions:
        del session.run, session.borrow
    return dict(counts)


def golden_inputs(bundle: Any, component: str, sizes: Mapping[str, int]) -> list[Any]:
    """A component's golden inputs, wrapped around to these sizes; seeded numbers where it has none."""
    import numpy as np

    golden, random = bundle.golden(component), np.random.default_rng(0)
    arrays = []
    for spec in bundle.component(component).inputs:
        shape = [sizes.get(d, 1) if isinstance(d, str) else d for d in spec.shape]
        low, high = spec.range or (0.0, 1.0)
        array = golden[spec.name] if spec.name in golden else low + (high - low) * random.random(shape)
        for axis, size in enumerate(shape):
            array = np.take(array, np.arange(size), axis, mode="wrap")
        arrays.append(array.astype(spec.dtype))
    return arrays


def _component(bundle: Any, case: dict[str, Any], request: dict[str, Any]) -> tuple[Any, Any, float]:
    """A component's session, its inputs, and when it was loaded."""
    import edgekit
    from edgekit.verify import feeds, golden_sizes

    name = case["component"] or bundle.main
    sizes = case["sizes"] or golden_sizes(bundle, name)
    session = edgekit.open_session(bundle, case["runtime"], component=name, sizes=sizes, **request)
    loaded = time.perf_counter()
    return session, feeds(session, golden_inputs(bundle, name, sizes), bundle.component(name).inputs), loaded


def _picture(image: str | None) -> Any:
    """The image that a task is given; an empty one where it takes none."""
    import numpy as np

    from edgekit import images

    return images.read_image(image)[:, :, :3] if image is not None else np.empty((0, 0, 3), np.uint8)


def timed(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of call after call for about so long, at least two."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def peak_mb() -> float:
    """The largest resident memory this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would carry over what the parent had before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _answer(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
