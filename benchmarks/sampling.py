"""How a call is timed: call after call, paced, split into stages, as a stream; and what the process takes for it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOOK_S = 0.25  # between two readings of memory and power
CLOCK_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def timed(call: Callable[[], Any], seconds: float, look: Callable[[], None] = lambda: None) -> list[float]:
    """Milliseconds of call after call for about so long, at least two; `look` is called between some of them."""
    samples: list[float] = []
    now = time.perf_counter()
    end, next_look = now + seconds, now + LOOK_S
    while len(samples) < 2 or now < end:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        samples.append((now - start) * 1e3)
        if now >= next_look:
            look()
            next_look = now + LOOK_S
    return samples


def paced(call: Callable[[], Any], seconds: float, fps: float) -> tuple[list[float], int]:
    """Milliseconds of calls begun at a frame rate, at least two, and how many were not done when the next was due.

    A call that takes longer than a frame costs the frames that it covers, as a live video drops them.
    """
    samples: list[float] = []
    late, begun = 0, time.perf_counter()
    due = begun
    while len(samples) < 2 or due < begun + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        samples.append((now - start) * 1e3)
        frames = max(1, int((now - due) * fps) + 1)
        late += frames > 1
        due += frames / fps
    return samples, late


def staged(task: Any, once: Callable[[], Any], seconds: float) -> list[tuple[float, float, float]]:
    """Milliseconds before the network's first run, in its runs, and after and between them, of one use after another.

    Empty where no session of the task could be listened to.
    """
    found: list[tuple[float, float, float]] = []
    spans: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    with overheard(task, lambda component, began, ended: spans.append((began, ended))):
        while len(found) < 2 or time.perf_counter() < end:
            spans.clear()
            start = time.perf_counter()
            once()
            done = time.perf_counter()
            if not spans:
                return []
            pre, model = spans[0][0] - start, sum(e - b for b, e in spans)
            found.append((pre * 1e3, model * 1e3, max(0.0, done - start - pre - model) * 1e3))
    return found


@contextmanager
def overheard(task: Any, heard: Callable[[str, float, float], None]) -> Iterator[None]:
    """Tell of every run of a task's sessions that are open: its component, when it began and when it ended."""

    def running(component: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = call(*arguments, **options)
            heard(component, began, time.perf_counter())
            return result

        return run

    def borrowing(component: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def borrow(*arguments: Any, **options: Any) -> Iterator[Any]:
            began = time.perf_counter()
            with call(*arguments, **options) as outputs:
                heard(component, began, time.perf_counter())
                yield outputs

        return borrow

    def reading(component: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def begin(*arguments: Any) -> Any:
            begun = call(*arguments)
            if begun is not None:
                begun.read_all = running(component, begun.read_all)
            return begun

        return begin

    sessions = [(component, session) for (component, *_), session in task._sessions.items()]
    for component, session in sessions:
        session.run, session.borrow = running(component, session.run), borrowing(component, session.borrow)
        session.reading = reading(component, session.reading)
    try:
        yield
    finally:
        for _, session in sessions:
            del session.run, session.borrow, session.reading


def per_second(results: Iterator[Any], seconds: float) -> float:
    """Results a second of a stream without end, once the first is there."""
    next(results)
    done, start = 0, time.perf_counter()
    now = start
    while done < 2 or now < start + seconds:
        next(results)
        done += 1
        now = time.perf_counter()
    return done / (now - start)


def cpu_ms(call: Callable[[], list[float]]) -> tuple[list[float], float]:
    """What `call` timed, and the processor time of one of its calls, all threads of this process together."""
    before = time.process_time()
    samples = call()
    return samples, (time.process_time() - before) * 1e3 / len(samples)


class Elsewhere:
    """Cores that other programs (and other guests of the same host) used since this was made, by /proc/stat."""

    def __init__(self) -> None:
        self._busy, self._own, self._began = _busy_s(), time.process_time(), time.perf_counter()

    def cores(self) -> float | None:
        busy = _busy_s()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (time.process_time() - self._own)
        return max(0.0, others / (time.perf_counter() - self._began))


def rss_mb() -> float | None:
    """Resident memory of this process, in MiB; None where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if statm.exists() else None


def peak_mb() -> float:
    """The largest resident memory this process has had, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would carry over what the parent had before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _busy_s() -> float | None:
    """Seconds that all cores have been busy or stolen since the start of the system."""
    try:
        fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, stolen = [*fields, *[0] * 8][:8]
    return (user + nice + system + irq + softirq + stolen) / CLOCK_TICKS
