"""Tune: race a bundle's combinations on this machine, and keep the result, so that `runtime="auto"` chooses by it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit import choice, profile, selection
from edgekit.benchmarks.candidates import NOT_A_DEVICE, TuneOptions, cases_of, check, thread_counts, tile_sizes
from edgekit.benchmarks.cases import row_of
from edgekit.benchmarks.conditions import Watch, warnings
from edgekit.benchmarks.halving import MOST_ROUNDS, TOLD_APART, Halving
from edgekit.benchmarks.measurement import prepared
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import Case, Report
from edgekit.benchmarks.records import Row as Samples
from edgekit.benchmarks.statistics import noise_of
from edgekit.bundle import Bundle
from edgekit.choice import Choice
from edgekit.errors import EngineError
from edgekit.machine import cores
from edgekit.manifest import Quality
from edgekit.selection import Limits, Row

Sizes = Mapping[tuple[str, str], Sequence[int]]
ANSWER_S = 20.0  # a process is given so long to answer at least, half the budget at most


@dataclass(frozen=True)
class Tuned:
    """What was measured, the fastest first, and what `auto` takes now.

    `met`: whether the choice keeps within the limits; `front`: what no other row beats in quality, latency, files and
    memory; `stopped`: Ctrl-C ended it early; `path`: the profile; `notes`: what is to be known beside.
    """

    choice: Choice
    rows: tuple[Row, ...]
    front: tuple[Row, ...]
    met: bool
    stopped: bool
    seconds: float
    input: str
    path: Path
    notes: tuple[str, ...] = ()


def tune(bundle: str | Path | Bundle, *, options: TuneOptions = TuneOptions()) -> Tuned:  # noqa: B008  (frozen)
    """Measure runtime × device × precision × threads by successive halving, and remember it for this machine.

    Every combination runs the whole task in a process of its own, in interleaved rounds; the slower half drops out
    until the rest is told apart or the budget is spent. Ctrl-C keeps what was measured.

    Raises:
        BundleError. InputError: limits or options that nothing can meet. DeviceUnavailable: nothing can be measured.
        EngineError: no combination could be measured; says why.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    watch = Watch()
    opened.check_files()
    check(options)
    cases, failed = cases_of(opened, options)
    measuring = MeasureOptions(size=options.size, image=options.image)
    with tempfile.TemporaryDirectory() as folder:
        image, what = prepared(opened, measuring, Path(folder))
        rows, stopped = _raced(opened, cases, image, options)
    rows = sorted([*rows, *failed], key=lambda row: row.ms)
    size = options.size if image is not None else None
    watch.look()
    notes = (*(_hurried(rows, options.budget_s) if not stopped else ()), *_disturbed(watch))
    return _kept(opened, rows, profile.measurement(rows, what, size, options.limits, not stopped), watch, notes)


def remember(bundle: Bundle, report: Report, size: tuple[int, int] | None = None) -> Choice:
    """Keep a report's medians of the whole task as this machine's profile of the bundle; returns what `auto` takes now.

    `size` is the (height, width) of the image that was given.
    """
    measured = [row for row in report.rows if row.round_ms or row.task_round_ms or row.model_ms]
    fastest = min(measured, key=lambda row: row.percentile(50), default=None)
    rows = []
    for row in measured:
        rounds = [(r.task_round_ms or r.round_ms) for r in (row, fastest or row)]
        rows.append(row_from(row, row.percentile(50), noise_of(*rounds) if all(rounds) else 0.0))
    profile.save(bundle, profile.measurement(rows, report.input, size))
    return choice.pick(bundle, bundle.main, "auto", "cpu", "auto", {})


def row_from(samples: Samples, ms: float | None, noise: float) -> Row:
    """A profile's row from raw samples."""
    case, quality = samples.case, samples.quality
    rounds = len(samples.task_round_ms or samples.round_ms)
    return Row(
        case.runtime,
        case.device,
        case.precision,
        case.threads,
        None if ms is None or samples.error else round(ms, 4),
        round(noise, 4),
        rounds,
        round(samples.peak_mb, 1) if samples.peak_mb else None,
        samples.bytes,
        msgspec.convert(quality, Quality) if quality else None,
        samples.placement.get("threads"),
        case.tile,
        samples.error,
    )


def _raced(bundle: Bundle, cases: Sequence[Case], image: str | None, options: TuneOptions) -> tuple[list[Row], bool]:
    """The rows of all combinations that were raced, and whether it was stopped.

    The ends go first: every engine, device and precision with its own tile and the smallest one, where the task cuts
    images, else with its own number of threads, with one and with all. What is left after a round is raced with what lies between.
    """
    sizes = tile_sizes(bundle, options.size if image is not None else None)
    first = [case for end in _ends(options, sizes) for case in end(cases)]
    timeout_s = max(ANSWER_S, options.budget_s / 2)
    with Race(image, timeout_s) as race:
        halving = Halving(race, options.budget_s, options.seconds, options.progress)
        keeps = _keeper(halving) if options.front or options.limits != Limits() else (lambda row: False)
        try:
            halving.open([row_of(bundle, case) for case in _once(first)])
            _drop_twins(halving)
            halving.run(1, keeps)
            halving.open([row_of(bundle, case) for case in _between(halving, options, sizes)])
            _drop_twins(halving)
            halving.run(MOST_ROUNDS, keeps)
        except KeyboardInterrupt:
            if not any(row.task_round_ms or row.round_ms for row in halving.rows):
                raise
            return _rows(halving), True
    return _rows(halving), False


def _ends(options: TuneOptions, sizes: Sizes) -> list[Callable[[Sequence[Case]], list[Case]]]:
    """What becomes of the cases in the first round."""

    def counted(count: int | None) -> Callable[[Sequence[Case]], list[Case]]:
        return lambda cases: [_threaded(case, count) for case in cases]

    def tiled(cases: Sequence[Case]) -> list[Case]:
        smallest = [(case, sizes.get((case.runtime, case.precision), [])[:1]) for case in cases]
        threads = options.threads[0] if options.threads else None
        return [msgspec.structs.replace(_threaded(c, threads), tile=tile) for c, tiles in smallest for tile in tiles]

    counts = list(options.threads) or ([None] if any(sizes.values()) else [None, 1, cores()])
    return [*map(counted, counts), tiled]


def _once(cases: Sequence[Case]) -> list[Case]:
    return [case for index, case in enumerate(cases) if case not in cases[:index]]


def _threaded(case: Case, count: int | None) -> Case:
    return msgspec.structs.replace(case, threads=count if case.device == "cpu" else None)


def _between(halving: Halving, options: TuneOptions, sizes: Sizes) -> list[Case]:
    """Of each engine, device and precision that is still in, the fastest with what it has not been raced with: other
    numbers of threads, and other tiles.
    """
    first: dict[tuple[str, str, str], Case] = {}
    for row in halving.ranked():
        first.setdefault((row.case.runtime, row.case.device, row.case.precision), row.case)
    counts = () if options.threads else thread_counts(cores())
    wanted = [_threaded(case, count) for case in first.values() for count in counts]
    for case in first.values():
        tiles = (None, *sizes.get((case.runtime, case.precision), ()))
        wanted += [msgspec.structs.replace(case, tile=tile) for tile in tiles]
    ran = [r.case for r in halving.rows]
    ran += [_threaded(r.case, r.placement.get("threads")) for r in halving.rows]
    return [case for case in _once(wanted) if case not in ran]


def _drop_twins(halving: Halving) -> None:
    """End the second of two that run with the same number of threads, as the engine tells it."""
    seen: set[tuple[str, str, str, int | None, int]] = set()
    for row in halving.race.rows:
        told = row.placement.get("threads")
        if told is None or row.case.device != "cpu":
            continue
        key = (row.case.runtime, row.case.device, row.case.precision, row.case.tile, told)
        if key in seen:
            halving.race.drop(row)
            halving.rows.remove(row)
        seen.add(key)


def _keeper(halving: Halving) -> Callable[[Samples], bool]:
    """Keeps what is on the front of all that was measured so far."""

    def keeps(row: Samples) -> bool:
        pairs = [(r, row_from(r, halving.ms(r), 0.0)) for r in halving.rows]
        fronted = {id(r) for r in selection.front([converted for _, converted in pairs])}
        return any(r is row and id(converted) in fronted for r, converted in pairs)

    return keeps


def _rows(halving: Halving) -> list[Row]:
    """What a profile keeps of the samples."""
    medians = {id(row): halving.ms(row) for row in halving.rows}
    measured = [row for row in halving.rows if medians[id(row)] is not None and not row.error]
    fastest = min(measured, key=lambda row: medians[id(row)] or math.inf, default=None)
    noise = {id(row): halving.noise(row, fastest) for row in measured if fastest is not None and row is not fastest}
    for row in halving.rows:
        if not row.real and not row.error:  # as the engine tells it, once it is open
            row.error = NOT_A_DEVICE.format(row.case.device, row.placement["kind"])
    return [row_from(row, medians[id(row)], noise.get(id(row), 0.0)) for row in halving.rows]


def _hurried(rows: Sequence[Row], budget_s: float) -> tuple[str, ...]:
    """What is to be said where the budget did not allow rounds enough to tell the fastest apart."""
    rounds = rows[0].rounds
    if rounds >= TOLD_APART or len(rows) == 1:
        return ()
    allowed = f"{rounds} round{'s' if rounds > 1 else ''}"
    return (
        f"the budget of {budget_s:g} s allowed {allowed} of the fastest: a larger --budget tells it apart more surely",
    )


def _disturbed(watch: Watch) -> list[str]:
    """What may have changed the figures: heat, clock, and what the machine had to do before the first process began."""
    load = watch.states[0].load
    busy = load is not None and load > cores()
    told = (
        f"the machine was busy (load {load} on {cores()} core{'s' if cores() > 1 else ''}): tune again when it is idle"
    )
    return [*warnings(watch.states), *([told] if busy else [])]


def _kept(
    bundle: Bundle, rows: list[Row], measured: profile.Measurement, watch: Watch, notes: tuple[str, ...]
) -> Tuned:
    """Store it, and say what `auto` takes now.

    Raises:
        EngineError: no row has a figure.
    """
    selected = selection.select(rows, measured.limits)
    if selected is None:
        told = "; ".join(dict.fromkeys(f"{row}: {row.error}" for row in rows if row.error))
        raise EngineError(f"nothing of {bundle.name} could be measured: {told}")
    path = profile.save(bundle, measured)
    devices = measured.devices
    picked = choice.pick(bundle, bundle.main, "auto", devices[0] if len(devices) == 1 else "auto", "auto", {})
    return Tuned(
        picked,
        tuple(rows),
        tuple(selection.front(rows)),
        selected.met,
        not measured.whole,
        watch.seconds,
        measured.input,
        path,
        notes,
    )
