"""One measured process: opens one engine × precision, runs rounds when told, answers in JSON lines."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from edgekit.benchmarks.energy import Meter
from edgekit.benchmarks.sampling import Elsewhere, cpu_ms, overheard, paced, peak_mb, per_second, rss_mb, staged, timed
from edgekit.compiled import nothing_kept  # load_ms is that of a cold load


@nothing_kept()
def main() -> None:
    """Read commands from stdin and answer on the original stdout; what engines print goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who measures: what was measured is to be kept
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of the terminal: who measures ends this process
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "open":
                worker = Worker(command["case"], command["image"])
                _answer(answers, worker.opened)
            elif command["do"] == "round" and worker is not None:
                _answer(answers, worker.round(command["seconds"], command.get("alone", True), command.get("detail")))
            elif command["do"] == "rate" and worker is not None:
                _answer(answers, {"per_second": per_second(worker.stream(), command["seconds"])})
        except Exception as error:  # every failure of an engine is a row of the report
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})


class Worker:
    """A session, and the task around it where the whole is measured, with an input each."""

    def __init__(self, case: dict[str, Any], image: str | None) -> None:
        start = time.perf_counter()
        from edgekit.bundle import Bundle

        bundle = Bundle.open(case["bundle"])
        request = {"device": case["device"], "precision": case["precision"], "threads": case["threads"]}
        self.whole: Any = None
        self.task: Callable[[], Any] | None = None
        if bundle.manifest.task is not None and case["component"] is None:
            from edgekit import registry

            task = registry.find("tasks", bundle.manifest.task.name)
            self.whole = whole = task(bundle, case["runtime"], tile=case.get("tile"), check=False, **request)
            loaded = time.perf_counter()
            picture = _picture(image)
            session, inputs = whole.example(picture)
            self.task = lambda: whole.once(picture)
        else:
            session, inputs, loaded = _component(bundle, case, request)
        self.model: Callable[[], Any] = lambda: session.run(inputs)
        self.stream: Callable[[], Any] = lambda: session.map(itertools.repeat(inputs))
        first = time.perf_counter()
        self.model()
        first_ms = (time.perf_counter() - first) * 1e3
        several = self.task is not None and len(self.whole.components) > 1
        self.opened = {
            "load_ms": (loaded - start) * 1e3,
            "first_ms": first_ms,
            "runs": runs_of(self.whole, self.task) if several and self.task else {},
            "placement": dataclasses.asdict(session.placement()),
        }
        self._began = time.perf_counter()

    def round(self, seconds: float, alone: bool = True, detail: dict[str, Any] | None = None) -> dict[str, Any]:
        """Time the model alone for half the time, the whole task for the other; at least twice each.

        `alone=False` leaves the model alone out where there is a task; `detail` asks for what a round tells beside
        latency, for as long again, and at the frame rate "paced" if that is given.
        """
        if detail is not None:
            return self._detailed(seconds, detail.get("paced"))
        both = alone and self.task is not None
        half = seconds / 2 if both else seconds
        return {
            "model_ms": timed(self.model, half) if alone or not self.task else [],
            "task_ms": timed(self.task, half) if self.task else [],
            "peak_mb": peak_mb(),
        }

    def _detailed(self, seconds: float, fps: float | None) -> dict[str, Any]:
        """As `round`, with the processor's time, stages, throughput, energy, memory, and what others did meanwhile."""
        memory: list[tuple[float, float]] = []
        meter, elsewhere = Meter(), Elsewhere()

        def look() -> None:
            meter.look()
            if (resident := rss_mb()) is not None:
                memory.append((round(time.perf_counter() - self._began, 3), round(resident, 3)))

        def block(call: Callable[[], Any]) -> tuple[list[float], float, float | None]:
            meter.start()
            samples, processor_ms = cpu_ms(lambda: timed(call, seconds / 2 if self.task else seconds, look))
            spent = meter.joules()
            return samples, processor_ms, spent / len(samples) if spent is not None else None

        look()
        model_ms, model_cpu_ms, joules = block(self.model)
        task_ms, task_cpu_ms, joules = block(self.task) if self.task else ([], None, joules)
        told: dict[str, Any] = {
            "model_cpu_ms": model_cpu_ms,
            "task_cpu_ms": task_cpu_ms,
            "stages_ms": staged(self.whole, self.task, seconds / 4) if self.task else [],
            "joules": joules,
            "energy": meter.source,
        }
        if fps:
            told["paced_ms"], told["late"] = paced(self.task or self.model, seconds, fps)
        look()
        told |= {"rss_mb": memory, "elsewhere": elsewhere.cores()}
        return {"model_ms": model_ms, "task_ms": task_ms, "peak_mb": peak_mb(), "detail": told}


def runs_of(task: Any, once: Callable[[], Any]) -> dict[str, int]:
    """How often one use of a task runs each of its components."""
    once()  # which opens what it needs
    counts: Counter[str] = Counter()
    with overheard(task, lambda component, began, ended: counts.update([component])):
        once()
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
    session = edgekit.open_session(bundle, case["runtime"], component=name, sizes=sizes, check=False, **request)
    loaded = time.perf_counter()
    return session, feeds(session, golden_inputs(bundle, name, sizes), bundle.component(name).inputs), loaded


def _picture(image: str | None) -> Any:
    """The image that a task is given; an empty one where it takes none."""
    import numpy as np

    from edgekit import images

    return images.read_image(image)[:, :, :3] if image is not None else np.empty((0, 0, 3), np.uint8)


def _answer(stream: TextIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
