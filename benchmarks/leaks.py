"""What sessions leave in memory: resident size over thousands of runs and hundreds of open/close cycles of every engine.

Run it with `python -m edgekit.benchmarks.leaks`; each case has a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from edgekit import machine, registry
from edgekit.bundle import Bundle
from edgekit.isolation.process import module
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.session import Session
from edgekit.verify import feeds, golden_sizes

SAMPLES = 100  # of the resident size, over a case
WARM = 0.2  # the part of a case that comes before they count: pools, caches and arenas fill
NOISE_KIB = 1024  # less than this over a whole case is what allocators do
T_95 = 1.99  # of Student's distribution, two-sided, for some 80 degrees of freedom
COUNTS = {"run": 10_000, "map": 10_000, "close": 200, "collect": 200, "isolate": 50}


class Slope(msgspec.Struct, frozen=True):
    """How resident memory went: KiB for each run or cycle, ± half of the 95 % interval, and from first to last."""

    engine: str
    kind: str
    count: int
    first_mib: float
    last_mib: float
    kib_each: float
    plus_minus: float

    @property
    def grows(self) -> bool:
        """Whether it grows for certain, and by more than allocators do."""
        counted = self.count * (1 - WARM)
        return (self.kib_each - self.plus_minus) * counted > NOISE_KIB


def measure_leaks(engine: str, kind: str, bundle: str = "digits-cnn", count: int | None = None) -> Slope:
    """The slope of one case, measured in this process, which had better be fresh.

    Args:
        kind: "run" (`session.run`), "map" (`session.map`), "close" (open, run, submit, close), "collect" (the same, left to
            the garbage collector) or "isolate" (open with isolate=True, run, close: memory of the owner).
    """
    count = count or COUNTS[kind]
    step = {"run": _runs, "map": _maps}.get(kind, _cycles)
    block = max(1, count // SAMPLES)
    call = step(engine, bundle, kind)
    sizes = []
    for _ in range(count // block):
        call(block)
        sizes.append(resident_kib())
    counted = np.array(sizes[int(len(sizes) * WARM) :])
    slope, error = _line(np.arange(len(counted)) * block, counted)
    first, last = float(counted[0]), float(counted[-1])
    return Slope(engine, kind, count, first / 1024, last / 1024, slope, T_95 * error)


def resident_kib() -> float:
    """This process's resident memory in KiB.

    Raises:
        OSError: there is no /proc.
    """
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def _line(x: Any, y: Any) -> tuple[float, float]:
    """Slope of the least-squares line, and its standard error with neighbours that are alike counted as fewer."""
    x, y = x - x.mean(), y - y.mean()
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    alike = float(rest[1:] @ rest[:-1] / max(rest @ rest, 1e-9))
    independent = max(3.0, len(x) * (1 - alike) / (1 + alike)) if alike > 0 else float(len(x))
    return slope, math.sqrt(float(rest @ rest) / max(independent - 2, 1.0) / float(x @ x) * len(x) / independent)


def _runs(engine: str, bundle: str, kind: str) -> Callable[[int], None]:
    session, inputs = _opened(engine, bundle)

    def call(times: int) -> None:
        for _ in range(times):
            session.run(inputs)

    return call


def _maps(engine: str, bundle: str, kind: str) -> Callable[[int], None]:
    session, inputs = _opened(engine, bundle)

    def call(times: int) -> None:
        for _ in session.map(inputs for _ in range(times)):
            pass

    return call


def _cycles(engine: str, bundle: str, kind: str) -> Callable[[int], None]:
    def call(times: int) -> None:
        for _ in range(times):
            session, inputs = _opened(engine, bundle, isolate=kind == "isolate")
            session.run(inputs)
            session.submit(inputs).result()
            if kind != "collect":
                session.close()

    return call


def _opened(engine: str, name: str, isolate: bool = False) -> tuple[Session, dict[str, Any]]:
    bundle = Bundle.open(name)
    component, golden = bundle.component(), bundle.golden()
    session = open_session(
        bundle, engine, precision="fp32", threads=2, sizes=golden_sizes(bundle) or None, isolate=isolate
    )
    return session, feeds(session, [golden[spec.name] for spec in component.inputs], component.inputs)


@click.command()
@click.option("--bundle", default="digits-cnn", show_default=True)
@click.option("--engine", "engines", multiple=True, help="Only these.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(COUNTS)), help="Only these.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there too.")
@click.option("--here", is_flag=True, hidden=True, help="Measure the one case in this process.")
def main(bundle: str, engines: tuple[str, ...], kinds: tuple[str, ...], path: Path | None, here: bool) -> None:
    """Print how resident memory goes over 10,000 runs and 200 open/close cycles of every installed engine."""
    if here:
        print(msgspec.json.encode(measure_leaks(engines[0], kinds[0], bundle)).decode())
        return
    names = engines or [n for n in registry.names("runtimes") if n != "reference" and find_runtime(n).installed()]
    rows = [_apart(name, kind, bundle) for name in names for kind in kinds or COUNTS]
    Console().print(_table(rows))
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": machine.facts(), "rows": rows}), indent=1))


def _apart(engine: str, kind: str, bundle: str) -> Slope:
    command = [*module("edgekit.benchmarks.leaks"), "--here", "--bundle", bundle, "--engine", engine, "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return msgspec.convert(json.loads(done.stdout.splitlines()[-1]), Slope)


def _table(rows: list[Slope]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("engine", "what", "count", "MiB first", "last", "KiB each", ""):
        table.add_column(name, justify="left" if name in ("engine", "what", "") else "right")
    for row in rows:
        each = f"{row.kib_each:+.3f} ± {row.plus_minus:.3f}"
        sizes = f"{row.first_mib:.1f}", f"{row.last_mib:.1f}"
        table.add_row(row.engine, row.kind, f"{row.count:,}", *sizes, each, "grows" if row.grows else "level")
    return table


if __name__ == "__main__":
    main()
