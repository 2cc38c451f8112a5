"""One measured process: opens one engine × precision, runs rounds when told, answers in JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
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
                _answer(answers, worker.round(command["seconds"]))
        except Exception as error:  # every failure of an engine is a row of the report
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})


class Worker:
    """A session, and the task around it where the bundle has one, with an input each."""

    def __init__(self, case: dict[str, Any], image: str | None) -> None:
        start = time.perf_counter()
        import numpy as np

        import edgekit
        from edgekit import images
        from edgekit.bundle import Bundle
        from edgekit.verify import feeds, golden_sizes

        bundle = Bundle.open(case["bundle"])
        request = {"device": case["device"], "precision": case["precision"], "threads": case["threads"]}
        self.task: Callable[[], Any] | None = None
        name = bundle.main
        if bundle.manifest.task is not None:
            task = edgekit.load(bundle, case["runtime"], **request)
            loaded = time.perf_counter()
            picture = images.read_image(image)[:, :, :3] if image is not None else np.empty((0, 0, 3), np.uint8)
            session, inputs = task.example(picture)
            self.task = lambda: task.once(picture)
        else:
            sizes = golden_sizes(bundle, name)
            session = edgekit.open_session(bundle, case["runtime"], component=name, sizes=sizes, **request)
            loaded = time.perf_counter()
            component, golden = bundle.component(name), bundle.golden(name)
            inputs = feeds(session, [golden[spec.name] for spec in component.inputs], component.inputs)
        self.model: Callable[[], Any] = lambda: session.run(inputs)
        first = time.perf_counter()
        self.model()
        placement = session.placement()
        self.opened = {
            "load_ms": (loaded - start) * 1e3,
            "first_ms": (time.perf_counter() - first) * 1e3,
            "placement": {
                "device": placement.device,
                "precision": placement.precision,
                "threads": placement.threads,
                "version": placement.version,
                "operators": placement.operators,
            },
        }
        self.model()

    def round(self, seconds: float) -> dict[str, Any]:
        """Time the model alone for half the time, the whole task for the other; at least twice each."""
        half = seconds / 2 if self.task else seconds
        return {
            "model_ms": timed(self.model, half),
            "task_ms": timed(self.task, half) if self.task else [],
            "peak_mb": peak_mb(),
        }


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
