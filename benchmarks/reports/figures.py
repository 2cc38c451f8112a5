"""What a row says in figures, and the texts of the tables' columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgekit.benchmarks.conditions import course
from edgekit.benchmarks.records import STOPPED, Report, Row
from edgekit.benchmarks.statistics import Estimate, early_stopping, noise_of, percentiles, slope
from edgekit.choice import Choice
from edgekit.manifest import METRICS, Quality
from edgekit.profile import FEW_ROUNDS

LEAST = {90: 10, 95: 20, 99: 100}  # samples from which on a percentile is shown
LONG_S = 40.0  # of readings, from which on a slope of memory says something
QUALITY = "quality"


@dataclass(frozen=True)
class Figures:
    """One row beside the others of its report; `worth` is its quality, `chosen` whether auto takes it."""

    report: Report
    row: Row
    worth: str = ""
    chosen: bool = False

    @cached_property
    def latency(self) -> dict[int, Estimate]:
        """p50, p90, p95 and p99 of the whole task, or of the network where there is none; {} for no samples."""
        rounds = self.row.rounds()
        count = sum(map(len, rounds))
        qs = [q for q in (50, 90, 95, 99) if count >= LEAST.get(q, 1)]
        return dict(zip(qs, percentiles(rounds, qs), strict=True)) if count else {}

    @property
    def bound_ms(self) -> float | None:
        """MLPerf's early-stopping bound of the 90th percentile."""
        return early_stopping(self.row.task_ms or self.row.model_ms, 90)

    @property
    def paced_ms(self) -> float | None:
        return _median(ms for d in self.row.details for ms in d.paced_ms)

    @property
    def gain(self) -> float | None:
        """How many times faster than the same engine's fp32 the whole task runs, by medians of this report."""
        return speed_up(self.report, self.row)

    @property
    def sure(self) -> bool:
        """Whether there were rounds enough for an interval."""
        return len(self.row.rounds()) >= FEW_ROUNDS

    @property
    def slower(self) -> bool:
        """Whether it is slower than the same engine's fp32 by more than the rounds' own ratios are uncertain by."""
        fp32 = _fp32_of(self.report, self.row)
        if fp32 is None or fp32 is self.row or self.gain is None or not self.sure:
            return False
        ours, theirs = ([float(np.median(samples)) for samples in row.rounds()] for row in (self.row, fp32))
        return self.gain * (1 + noise_of(ours, theirs)) < 1

    @property
    def stages_ms(self) -> tuple[float, float, float] | None:
        """Medians before the network, in it, and after it."""
        found = [stage for d in self.row.details for stage in d.stages_ms]
        before, model, after = (float(v) for v in np.median(found, axis=0)) if found else (0.0, 0.0, 0.0)
        return (before, model, after) if found else None

    @property
    def cpu_ms(self) -> float | None:
        details = self.row.details
        return _median(d.task_cpu_ms if d.task_cpu_ms is not None else d.model_cpu_ms for d in details)

    @property
    def load_ms(self) -> float | None:
        return _median(load.load_ms for load in self.row.loads) or self.row.load_ms

    @property
    def first_ms(self) -> float | None:
        return _median(load.first_ms for load in self.row.loads) or self.row.first_ms

    @property
    def per_second(self) -> float | None:
        return _median(self.row.per_second)

    @property
    def joules(self) -> float | None:
        return _median(d.joules for d in self.row.details if d.joules is not None)

    @property
    def rss_mb(self) -> list[tuple[float, float]]:
        return [point for d in self.row.details for point in d.rss_mb]

    @property
    def mb_per_hour(self) -> Estimate | None:
        """The slope of resident memory after the first third, by when buffers have been made; None of a short run."""
        points = self.rss_mb
        settled = points[len(points) // 3 :]
        long = bool(settled) and settled[-1][0] - settled[0][0] >= LONG_S
        return slope([(s / 3600, mb) for s, mb in settled]) if long else None

    @property
    def grows(self) -> bool:
        """Whether memory grows for certain, and by 10 MB an hour or more."""
        found = self.mb_per_hour
        return found is not None and found.low > 10

    @property
    def marks(self) -> str:
        """What is to be said of the row in a word or two."""
        if self.row.error:
            return "not measured" if self.row.error == STOPPED else "failed"
        found = ["← auto"] if self.chosen else []
        if self.slower:
            found.append("slower than fp32")
        return ", ".join(found)


def figures(
    report: Report, chosen: Choice | None = None, quality: Mapping[tuple[str, str], str] | None = None
) -> list[Figures]:
    """Every row in figures; `quality` replaces the manifest's by (runtime, precision)."""
    taken = (chosen.runtime, chosen.variant.precision) if chosen else None
    found = []
    for row in report.rows:
        pair = (row.case.runtime, row.case.precision)
        recorded = Quality(**row.quality).figure if row.quality else ""
        only = row.case.device == "cpu" and row.case.threads is None
        found.append(Figures(report, row, (quality or {}).get(pair, recorded), pair == taken and only))
    return found


def speed_up(report: Report, row: Row) -> float | None:
    """How many times faster than the same engine's fp32 the whole task runs, by medians of this report."""
    fp32 = _fp32_of(report, row)
    return fp32.percentile(50) / row.percentile(50) if fp32 and row.timed else None


def _fp32_of(report: Report, row: Row) -> Row | None:
    """The row of the same engine, device and threads in fp32."""
    same = (r for r in report.rows if r.timed and _place(r) == _place(row) and r.case.precision == "fp32")
    return next(same, None)


def faster(rows: Sequence[Figures]) -> Figures | None:
    """The fastest row, where it is certain to be faster than the one that auto takes."""
    known = [f for f in rows if f.row.timed and f.sure and not f.row.error]
    best = min(known, key=lambda f: f.latency[50].value, default=None)
    chosen = next((f for f in known if f.chosen), None)
    return best if best and chosen and best.latency[50].high < chosen.latency[50].low else None


def metric(report: Report) -> str:
    """The quality's name and unit, such as "dB PSNR"."""
    name = next((row.quality["metric"] for row in report.rows if row.quality), QUALITY)
    return METRICS.get(name, name)


def footnotes(report: Report) -> list[str]:
    """What tables have no room for: errors in full, what disturbed the run, and where the quality comes from."""
    notes = [f"{row.label} failed: {row.error}" for row in report.rows if row.error and row.error != STOPPED]
    notes += [f"{row.label}: the engine says that it computed in {row.placement['precision']}"
              for row in report.rows if row.placement.get("precision", row.case.precision) != row.case.precision]  # fmt: skip
    notes += ["stopped by Ctrl-C: what was measured until then"] if report.stopped else []
    notes += report.warnings
    notes += [f"from before to after: {went}"] if (went := course(report.states)) else []
    grown = [f"{f.row.label} {f.mb_per_hour.value:.0f}" for f in figures(report) if f.grows and f.mb_per_hour]
    notes += [f"memory grows, MB an hour: {', '.join(grown)}"] if grown else []
    cached = [load.cached for row in report.rows for load in row.loads if load.cached is not None]
    if cached:
        notes.append(f"load: in fresh processes, {np.mean(cached):.0%} of the model's files in memory before")
    return notes + _qualities(report)


def _qualities(report: Report) -> list[str]:
    """What the quality was measured on; where rows differ in that, which of them on what."""
    rows: dict[str, list[str]] = {}
    for row in report.rows:
        if row.quality:
            rows.setdefault(row.quality["data"], []).append(row.label)
    if len(rows) < 2:
        return [f"quality: {data}, measured when the bundle was made" for data in rows]
    return [
        f"quality of {', '.join(labels)}: {data}; of others on other data, and not comparable"
        for data, labels in rows.items()
    ]


Column = tuple[str, Callable[[Figures], str]]

WHO: tuple[Column, ...] = (
    ("engine", lambda f: f.row.case.runtime),
    ("precision", lambda f: f.row.case.precision),
    ("device", lambda f: f.row.case.device),
    ("threads", lambda f: str(f.row.case.threads or "")),
    ("part", lambda f: f.row.case.component or ""),
)
LATENCY: tuple[Column, ...] = (
    *WHO,
    (QUALITY, lambda f: f.worth),
    ("p50 ms", lambda f: _estimate(f, 50)),
    ("±", lambda f: f"{f.latency[50].spread:.0%}" if f.latency and f.sure and not f.row.error else ""),
    ("p90", lambda f: _estimate(f, 90)),
    ("p95", lambda f: _estimate(f, 95)),
    ("p99", lambda f: _estimate(f, 99)),
    ("p90 <", lambda f: ms(f.bound_ms) if f.report.asked.get("bound") else ""),
    ("paced", lambda f: ms(f.paced_ms)),
    ("vs fp32", lambda f: f"{f.gain:.2f}×" if f.gain is not None and f.row.case.precision != "fp32" else ""),
    ("", lambda f: f.marks),
)
COST: tuple[Column, ...] = (
    *WHO,
    ("load ms", lambda f: ms(f.load_ms)),
    ("first", lambda f: ms(f.first_ms)),
    ("pre", lambda f: ms(f.stages_ms[0] if f.stages_ms else None)),
    ("model", lambda f: ms(f.stages_ms[1] if f.stages_ms else None)),
    ("post", lambda f: ms(f.stages_ms[2] if f.stages_ms else None)),
    ("CPU", lambda f: ms(f.cpu_ms)),
    ("1/s", lambda f: number(f.per_second)),
    ("MB", lambda f: number(f.row.peak_mb)),
    ("MB/h", lambda f: f"{f.mb_per_hour.value:+.0f}" if f.mb_per_hour else ""),
    ("J", lambda f: f"{f.joules:.3g}" if f.joules is not None else ""),
    ("file kB", lambda f: f"{f.row.bytes / 1000:.0f}" if f.row.bytes else ""),
)
LEFT = ("engine", "precision", "device", "part", "")  # columns that are words


def cells(rows: Sequence[Figures], columns: Sequence[Column]) -> tuple[list[str], list[list[str]]]:
    """(heads, texts by row) of the columns that say anything; device and threads only where they are not all alike."""
    texts = [[text(f) for f in rows] for _, text in columns]
    usual = {"device": {"cpu"}, "threads": {""}}
    kept = [i for i, (head, _) in enumerate(columns) if any(texts[i]) and set(texts[i]) != usual.get(head)]
    return [columns[i][0] for i in kept], [[texts[i][row] or "–" * bool(columns[i][0]) for i in kept]
                                           for row in range(len(rows))]  # fmt: skip


def ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"  # fmt: skip


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _estimate(figures: Figures, q: int) -> str:
    found = figures.latency.get(q) if not figures.row.error else None
    return ms(found.value if found else None)


def _median(values: object) -> float | None:
    found = [v for v in values if v is not None]  # type: ignore[attr-defined]
    return float(np.median(found)) if found else None


def _place(row: Row) -> tuple[object, ...]:
    case = row.case
    return case.runtime, case.device, case.threads, case.component, tuple(sorted(case.sizes.items()))
