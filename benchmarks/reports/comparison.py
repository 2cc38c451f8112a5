"""Two runs of one machine side by side: faster, slower, no difference, too noisy or too short to tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from rich import box
from rich.table import Table

from edgekit.benchmarks.records import Report, Row
from edgekit.benchmarks.reports.figures import ms
from edgekit.benchmarks.statistics import FLOOR, ratio
from edgekit.errors import InputError
from edgekit.profile import FEW_ROUNDS

Verdict = Literal["faster", "slower", "no difference", "too noisy to tell", "too few rounds"]
TELLING = 0.1  # the width of an interval from which on "no difference" would say too much
MACHINE = ("board", "processor", "architecture", "cores")  # what makes two machines unlike
SETTINGS = ("governor", "python", "system", "memory_mb")  # what may explain a difference

Key = tuple[Any, ...]


@dataclass(frozen=True)
class CompareOptions:
    """`beside` names a row, such as "onnxruntime fp32", by whose median of the same round every sample is divided, so
    that an hour in which all was slower does not count; `unlike` lets machines and inputs differ.
    """

    beside: str | None = None
    unlike: bool = False


class Change(msgspec.Struct, frozen=True):
    """One row of both runs: medians of the whole task in milliseconds, their ratio after / before, and its interval."""

    bundle: str
    label: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    verdict: Verdict


class Comparison(msgspec.Struct, frozen=True):
    """What changed, and what is to be said of the comparison itself."""

    rows: list[Change]
    notes: list[str]


def compare(
    before: Sequence[Report], after: Sequence[Report], options: CompareOptions = CompareOptions()
) -> Comparison:
    """Every row that both runs have a latency of.

    Raises:
        InputError: unlike machines or inputs, unless `unlike`; or nothing that both have.
    """
    pairs = list(_pairs(before, after))
    differing = [line for b, a in pairs for line in _unlike(b, a)]
    if differing and not options.unlike:
        raise InputError(
            f"these runs are not comparable: {'; '.join(dict.fromkeys(differing))}; --unlike compares them all the same"
        )
    rows = [change for b, a in pairs for change in _changes(b, a, options.beside)]
    if not rows:
        names = [" and ".join(r.bundle for r in run) for run in (before, after)]
        raise InputError(f"nothing to compare: no row that both {names[0]} and {names[1]} have a latency of")
    beside = [f"ratios are those of rows beside {options.beside} in the same round"] if options.beside else []
    notes = [*beside, *(f"unlike: {line}" for line in differing)] + [line for b, a in pairs for line in _notes(b, a)]
    return Comparison(rows, list(dict.fromkeys(notes)))


def _pairs(before: Sequence[Report], after: Sequence[Report]) -> Iterator[tuple[Report, Report]]:
    """Reports of the same bundle; where there are several of one name, in their order."""
    for name in dict.fromkeys(report.bundle for report in before):
        yield from zip(*([r for r in run if r.bundle == name] for run in (before, after)), strict=False)


def table(found: Comparison) -> Table:
    """The changes, bundle by bundle, for a terminal of 80 columns."""
    result = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=0)
    result.add_column("row", min_width=12)
    for head in ("before", "after", "ratio", "95 % interval"):
        result.add_column(head, justify="right", no_wrap=True)
    result.add_column("", no_wrap=True)
    styles = {"faster": "green", "slower": "red"}
    told = ""
    for row in found.rows:
        if row.bundle != told:
            result.add_row(row.bundle, style="bold")
            told = row.bundle
        figures = ms(row.before_ms), ms(row.after_ms), f"{row.ratio:.2f}×", f"{row.low:.2f} … {row.high:.2f}"
        result.add_row(f"  {row.label}", *figures, row.verdict, style=styles.get(row.verdict))
    return result


def judged(low: float, high: float) -> Verdict:
    """What an interval of a ratio after / before says."""
    if high < 1 - FLOOR:
        return "faster"
    if low > 1 + FLOOR:
        return "slower"
    return "no difference" if high - low <= TELLING else "too noisy to tell"


def _changes(before: Report, after: Report, beside: str | None) -> Iterator[Change]:
    old, new = ({_key(row): row for row in report.rows if row.timed and not row.error} for report in (before, after))
    for key, row in new.items():
        if key not in old or row.label == beside:
            continue
        rounds = _rounds(row, new, beside), _rounds(old[key], old, beside)
        found = ratio(*rounds)
        verdict = judged(found.low, found.high) if min(map(len, rounds)) >= FEW_ROUNDS else "too few rounds"
        yield Change(after.bundle, row.label, old[key].percentile(50), row.percentile(50), *found, verdict)


def _rounds(row: Row, rows: Mapping[Key, Row], beside: str | None) -> list[list[float]]:
    """A row's samples round by round, divided by the median that the row `beside` had in the same round."""
    if beside is None:
        return row.rounds()
    other = next((r for r in rows.values() if r.label == beside), None)
    if other is None:
        raise InputError(f"no row '{beside}': there are {', '.join(r.label for r in rows.values())}")
    medians = [float(np.median(samples)) for samples in other.rounds()]
    return [[s / median for s in samples] for samples, median in zip(row.rounds(), medians, strict=False)]


def _unlike(before: Report, after: Report) -> Iterator[str]:
    """What makes figures of two reports of a bundle incomparable, in words."""
    for fact in MACHINE:
        values = before.machine.get(fact), after.machine.get(fact)
        if values[0] != values[1]:
            yield f"{fact} {values[0]} and {values[1]}"
    if before.input != after.input:
        yield f"{before.bundle} was given {before.input} and {after.input}"


def _notes(before: Report, after: Report) -> Iterator[str]:
    """What may explain a difference."""
    for fact in SETTINGS:
        values = before.machine.get(fact), after.machine.get(fact)
        if values[0] != values[1]:
            yield f"{fact}: {values[0]}, then {values[1]}"
    old, new = (report.machine.get("packages", {}) for report in (before, after))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield f"{name}: {old.get(name, 'absent')}, then {new.get(name, 'absent')}"
    if before.bundle_hash != after.bundle_hash:
        yield f"{before.bundle} was changed between the runs"
    missing = {_key(r): r.label for r in before.rows}.items() ^ {_key(r): r.label for r in after.rows}.items()
    if missing:
        yield f"in one run alone: {', '.join(sorted(label for _, label in missing))}"
    for when, report in (("before", before), ("after", after)):
        yield from (f"{when}, {report.bundle}: {line}" for line in report.warnings)


def _key(row: Row) -> Key:
    case = row.case
    sizes = tuple(sorted(case.sizes.items()))
    return case.runtime, case.device, case.precision, case.threads, case.component, sizes
