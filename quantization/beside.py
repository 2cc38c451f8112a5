"""A small precision beside fp32: every file measured in turns with fp32 on every engine here, and what that says."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgekit import bundle as bundles
from edgekit import machine, registry
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, EdgekitError
from edgekit.manifest import Component, Precision, Speed, Variant
from edgekit.opening import runtime as find_runtime
from edgekit.stated import SHORT_MS, largest, readable

if TYPE_CHECKING:
    from edgekit.benchmarks import Row
    from edgekit.exporters.sources import Source

ROUNDS = 5  # at least: fewer say nothing of their spread
SETTLED = 0.03  # a noise that no further rounds need to lower
BUSY = 0.25  # a noise beyond which a file is not called slower: something else had the processor
BUILT = "built to compare"
MOST_BYTES = 2**27  # of a bundle's files: a larger network is not converted anew for a comparison

File = tuple[str | None, str, tuple[tuple[str, int], ...], str]


@dataclass(frozen=True)
class GuardOptions:
    """`keep_slower`: keep the files that are slower on every engine here, marked as such.

    `sources` are the PyTorch networks by component: where an engine has no fp32 file to compare with, one is
    converted in scratch. Every file gets up to `rounds` × `seconds`, fewer where the first say enough; a process that
    does not answer for `timeout_s` is ended, and is a row. `progress` is told each step.
    """

    keep_slower: bool = False
    sources: Mapping[str, Source | None] = field(default_factory=dict)
    threads: int | None = None
    rounds: int = 15
    seconds: float = 0.1
    timeout_s: float = 300.0
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Beside:
    """One file of a component on one engine: its speed beside fp32, or why it has none."""

    component: str
    runtime: str
    variant: Variant
    speed: Speed | None
    error: str = ""


def measured(bundle: Bundle, precision: Precision, options: GuardOptions) -> list[Beside]:
    """Every file of a precision on every engine here that reads it, interleaved with fp32 at the same sizes.

    Where an engine has no fp32 file and none can be made, the fastest fp32 of the others stands in its place. Small
    networks run on all cores and on one, and what is faster counts, of either precision.
    """
    from edgekit.benchmarks import MeasureOptions, measure

    told = MeasureOptions(
        components=tuple(bundle.manifest.components),
        rounds=options.rounds,
        seconds=options.seconds,
        threads=(options.threads,),
        timeout_s=options.timeout_s,
        enough=_enough,
        progress=lambda done, total, what: options.progress(f"speed: {what} …"),
    )
    with _comparable(bundle, precision, options) as (compared, built):
        try:
            rows = measure(compared, precisions=("fp32", precision), options=told).rows
            if (
                options.threads is None
                and machine.cores() > 1
                and _small([row for row in rows if row.case.precision == precision])
            ):
                told = replace(told, threads=(machine.cores(), 1))
                rows = _fastest(measure(compared, precisions=("fp32", precision), options=told).rows)
        except DeviceUnavailable:  # no engine that reads these files is installed
            return []
        runs = _runs(compared, rows, options)
    return [
        _beside(bundle, row, rows, (runs.get(row.case.component or "", 1), built))
        for row in rows
        if row.case.precision == precision
    ]


def _small(rows: Sequence[Row]) -> bool:
    """Whether every run was so short that threads may cost more than they gain."""
    runs = [float(np.median(row.round_ms)) for row in rows if row.round_ms and not row.error]
    return bool(runs) and max(runs) < SHORT_MS


def _file(row: Row) -> File:
    """What tells the file that a row ran, and its engine, from others."""
    return row.case.component, row.case.runtime, tuple(sorted(row.case.sizes.items())), row.case.precision


def _fastest(rows: Sequence[Row]) -> list[Row]:
    """Of rows that differ in their threads alone, the fastest one; of those that failed, the first."""
    found: dict[File, Row] = {}
    for row in rows:
        other = found.setdefault(_file(row), row)
        if row.round_ms and not row.error and (other.error or np.median(row.round_ms) < np.median(other.round_ms)):
            found[_file(row)] = row
    return list(found.values())


def _enough(rows: Sequence[Row]) -> bool:
    """Whether every small file of a group is told apart from its engine's fp32, or as good as equal to it."""
    return all(_settled(row, other) for row in rows for other in [_fp32_of(row, rows)] if other is not None)


def _settled(row: Row, fp32: Row) -> bool:
    if row.error or fp32.error:
        return True
    if len(row.round_ms) < ROUNDS:
        return False
    from edgekit.benchmarks.statistics import noise_of

    noise = noise_of(row.round_ms, fp32.round_ms)
    away = abs(np.median(row.round_ms) / np.median(fp32.round_ms) - 1)
    return noise <= SETTLED or bool(away > 2 * noise)


def _fp32_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the same engine's fp32 at the same sizes."""
    if row.case.precision == "fp32":
        return None
    same = (*_file(row)[:-1], "fp32")
    found = [r for r in rows if _file(r) == same]
    return min(found, key=lambda r: r.case.threads != row.case.threads, default=None)  # of as many threads, if it ran


def _beside(bundle: Bundle, row: Row, rows: Sequence[Row], facts: tuple[int, Sequence[str]]) -> Beside:
    """A row of a small file with the fp32 that it is compared with; `facts`: how often it runs, formats built."""
    from edgekit.benchmarks.statistics import noise_of

    case, (runs, built) = row.case, facts
    component = case.component or bundle.main
    found = readable(case.runtime, case.precision, bundle.component(component).variants)
    variant = next((v for v in found if v.sizes == case.sizes), found[0])
    own = _fp32_of(row, rows)
    sized = [r for r in rows if (r.case.component, r.case.sizes, r.case.precision) == (component, case.sizes, "fp32")]
    able = [r for r in sized if r.round_ms and not r.error]
    other = own or min(able, key=lambda r: float(np.median(r.round_ms)), default=None)
    if row.error or other is None or other.error:
        why = row.error or (f"fp32: {other.error}" if other else "there is no fp32 file of these sizes to compare with")
        return Beside(component, case.runtime, variant, None, why)
    speed = Speed(
        runtime=case.runtime,
        ms=_rounded(row.round_ms),
        fp32_ms=_rounded(other.round_ms),
        threads=row.placement.get("threads") or case.threads or machine.cores(),
        processor=machine.processor(),
        architecture=machine.architecture(),
        noise=round(noise_of(row.round_ms, other.round_ms), 3),
        runs=max(1, runs),
        beside=other.case.runtime if own is None else BUILT if variant.format in built else "",
        int8_units=machine.told_int8_units(),
    )
    if speed.noise > BUSY and speed.ms > speed.fp32_ms:
        why = f"this machine is too busy to tell, rounds differ by {speed.noise:.0%}: measure again when it is idle"
        return Beside(component, case.runtime, variant, None, why)
    return Beside(component, case.runtime, variant, speed)


def _rounded(round_ms: Sequence[float]) -> float:
    """Their median, with four digits."""
    return float(f"{np.median(round_ms):.4g}")


def _runs(bundle: Bundle, rows: Sequence[Row], options: GuardOptions) -> dict[str, int]:
    """How often one use of the task runs each component, counted on an engine that ran them all."""
    if bundle.manifest.task is None or len(bundle.manifest.components) == 1:
        return {}
    from edgekit.benchmarks import MeasureOptions, measure

    alive = next((row for row in rows if row.round_ms and not row.error), None)
    if alive is None:
        return {}
    counted = MeasureOptions(rounds=0, timeout_s=options.timeout_s)
    return measure(bundle, [alive.case.runtime], [alive.case.precision], options=counted).rows[0].runs


@contextmanager
def _comparable(bundle: Bundle, precision: str, options: GuardOptions) -> Iterator[tuple[Bundle, Sequence[str]]]:
    """The bundle, with fp32 files in scratch for engines that have none, and the formats that these are of."""
    missing = _without_fp32(bundle, precision)
    with tempfile.TemporaryDirectory(prefix="edgekit-fp32-") as folder:
        made = _with_fp32(bundle, missing, Path(folder) / bundle.name, options) if missing else None
        yield (made, missing) if made else (bundle, ())


def _without_fp32(bundle: Bundle, precision: str) -> list[str]:
    """The formats of small files that an engine here reads, which has no fp32 file."""
    missing = [
        readable(engine, precision, component.variants)[0].format
        for engine in registry.device_runtimes()
        if find_runtime(engine).installed()
        for component in bundle.manifest.components.values()
        if readable(engine, precision, component.variants) and not readable(engine, "fp32", component.variants)
    ]
    return list(dict.fromkeys(missing))


def _with_fp32(bundle: Bundle, formats: Sequence[str], place: Path, options: GuardOptions) -> Bundle | None:
    """A copy of the bundle with fp32 files of these formats, at the largest sizes; None where none can be made."""
    from edgekit.exporters.graphs import Graph
    from edgekit.exporters.writing import ExportOptions, convert

    sources = {name: options.sources.get(name) for name in bundle.manifest.components}
    if sum(entry.bytes for entry in bundle.manifest.file_entries()) > MOST_BYTES:
        return None
    place.mkdir()
    bundle.copy_files(place)
    components: dict[str, Component] = {}
    try:
        for name, component in bundle.manifest.components.items():
            source, variants = sources[name], list(component.variants)
            if source is None:
                return None
            for format in formats:
                found = largest([v for v in component.variants if v.format == format])
                sized = ExportOptions(buckets=[found.sizes] if found.sizes else (), progress=options.progress)
                variants += convert(Graph(source.module, source, component=name), format, place, sized)
            components[name] = msgspec.structs.replace(component, variants=tuple(variants))
    except EdgekitError as error:
        options.progress(f"no fp32 {' or '.join(formats)} to compare with: {error}")
        return None
    bundles.write(place, msgspec.structs.replace(bundle.manifest, components=components))
    return Bundle.open(place)
