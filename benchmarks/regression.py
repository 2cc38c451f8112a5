"""Ratios that a change must not worsen: int8 beside fp32, `session.run` beside the engine's own call, within one run.

Milliseconds of a shared machine say nothing of a change; a ratio of two things that were measured in turns does. Run it
with `python -m edgekit.benchmarks.regression -o ratios.json`, and with `--against OLD.json` hold it against an older run
of the same processor. It takes less than a minute.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec
import numpy as np
from rich.console import Console

from edgekit import machine, registry
from edgekit.benchmarks.measurement import measure
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.overhead import PLAIN, measure_overhead
from edgekit.benchmarks.records import Row
from edgekit.benchmarks.statistics import noise_of
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, InputError
from edgekit.opening import runtime as find_runtime

BUNDLES = ("sr-x2", "cifar-cnn", "shakespeare-gpt")
OVERHEAD = "sr-x2"
SLACK = 0.15  # by so much may a ratio differ between two runs of one machine, beyond both runs' noise


class Ratio(msgspec.Struct, frozen=True):
    """What was divided, of which bundle and engine, and by what part the ratio is uncertain. More is slower."""

    what: str
    bundle: str
    runtime: str
    ratio: float
    noise: float

    @property
    def key(self) -> tuple[str, str, str]:
        return self.what, self.bundle, self.runtime

    def __str__(self) -> str:
        return f"{self.bundle} {self.runtime}: {self.what} {self.ratio:.3f} ± {self.noise:.0%}"


class Ratios(msgspec.Struct, frozen=True):
    """What a run of the suite keeps."""

    measured_at: str
    processor: str
    packages: dict[str, str]
    ratios: list[Ratio]
    failed: list[str] = []
    schema: int = 1


def suite(bundles: Sequence[str] = BUNDLES, rounds: int = 10, seconds: float = 0.1) -> Ratios:
    """Measure every ratio; what an engine cannot do is in `failed`, and the rest goes on."""
    ratios: list[Ratio] = []
    failed: list[str] = []
    options = MeasureOptions(size=(128, 128), rounds=rounds, seconds=seconds)
    for name in bundles:
        rows = measure(name, precisions=("fp32", "int8"), options=options).rows
        failed += [f"{name} {row.label}: {row.error}" for row in rows if row.error]
        ratios += _of_precisions(name, [row for row in rows if not row.error])
    for runtime in registry.device_runtimes():
        if runtime in PLAIN and find_runtime(runtime).installed():
            try:
                ratios.append(_of_wrapper(runtime, seconds * 20))
            except EdgekitError as error:
                failed.append(f"{OVERHEAD} {runtime}: {error}")
    facts = machine.facts()
    return Ratios(time.strftime("%Y-%m-%dT%H:%M:%S%z"), facts["processor"], facts["packages"], ratios, failed)


def worse(new: Ratios, old: Ratios) -> list[str]:
    """The ratios that grew by more than both runs' noise and SLACK, in words.

    Raises:
        InputError: the runs are of two processors.
    """
    if new.processor != old.processor:
        raise InputError(
            f"these ratios are of '{old.processor}', this machine is '{new.processor}': they are not comparable"
        )
    before = {ratio.key: ratio for ratio in old.ratios}
    return [
        f"{ratio}, was {before[ratio.key].ratio:.3f} ± {before[ratio.key].noise:.0%}"
        for ratio in new.ratios
        if ratio.key in before
        and ratio.ratio > before[ratio.key].ratio * (1 + SLACK + ratio.noise + before[ratio.key].noise)
    ]


def read(path: Path) -> Ratios:
    """What an older run kept.

    Raises:
        InputError: it is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ratios)
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"cannot read '{path}' as ratios of this suite: {error}") from error


def _of_precisions(bundle: str, rows: Sequence[Row]) -> Iterator[Ratio]:
    """int8 beside fp32 by engine: the median of the rounds' own ratios, of the whole task."""
    for small in rows:
        other = next((r for r in rows if (r.case.runtime, r.case.precision) == (small.case.runtime, "fp32")), None)
        if small.case.precision == "int8" and other is not None:
            pairs = small.task_round_ms, other.task_round_ms
            found = float(np.median([s / f for s, f in zip(*pairs, strict=False)]))
            yield Ratio("int8/fp32", bundle, small.case.runtime, round(found, 4), round(noise_of(*pairs), 4))


def _of_wrapper(runtime: str, seconds: float) -> Ratio:
    """`session.run` beside the engine's own call, in processor time, with results that are the caller's."""
    own = next(o for o in measure_overhead(Bundle.open(OVERHEAD), runtime, seconds=seconds) if o.result == "own")
    return Ratio("session.run/engine", OVERHEAD, runtime, round(1 + own.percent / 100, 4), 0.02)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Keep the ratios in this JSON file.")
@click.option("--against", type=click.Path(path_type=Path), help="Exit with 1 where a ratio is worse than here.")
def main(out: Path | None, against: Path | None) -> None:
    """Measure the ratios, and say which became worse."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        old = read(against) if against else None
        if out is not None and not out.absolute().parent.is_dir():
            raise InputError(f"cannot write '{out}': there is no folder '{out.parent}'")
        found = suite()
        bad = worse(found, old) if old else []
    except EdgekitError as error:
        console.print(f"error: {error}", style="red")
        sys.exit(2)
    for line in (*found.ratios, *(f"failed: {line}" for line in found.failed)):
        console.print(str(line))
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    for line in bad:
        console.print(f"worse: {line}", style="red")
    sys.exit(1 if bad or found.failed else 0)


if __name__ == "__main__":
    main()
