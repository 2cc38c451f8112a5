"""The report as one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from edgekit.benchmarks.records import Report
from edgekit.benchmarks.reports import plots
from edgekit.benchmarks.reports.figures import LEFT, Figures, footnotes, metric, ms
from edgekit.benchmarks.reports.plots import Point, Series
from edgekit.benchmarks.reports.table import Named, machine, tables

SHOWN = 4000  # samples of a row that its strip is drawn of


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and what it shows."""

    title: str
    told: str
    drawing: Markup


@dataclass(frozen=True)
class Section:
    """What the page says of one bundle."""

    name: str
    input: str
    machine: str
    measured: str
    verdict: str
    tables: Sequence[Named]
    legend: Sequence[tuple[int, str, str]]  # number, label, tone
    plots: Sequence[Plot]
    notes: Sequence[str]
    facts: Mapping[str, str]


def write(path: Path, measured: Sequence[tuple[Report, Sequence[Figures]]]) -> None:
    """Write the page, at once or not at all.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(rendered([section(report, rows) for report, rows in measured]), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def rendered(sections: Sequence[Section]) -> str:
    """The page as HTML; every text in it is escaped, as a bundle's words are its maker's."""
    environment = Environment(
        loader=PackageLoader("edgekit.benchmarks.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(sections=sections, left=(*LEFT, "ran on", "operators"))


def section(report: Report, rows: Sequence[Figures]) -> Section:
    """Gather what the page says of one bundle."""
    drawn = [(i, f) for i, f in enumerate(rows) if f.row.timed]
    legend = [(i + 1, f.row.label, "" if f.row.timed else "gone") for i, f in enumerate(rows)]
    asked = report.asked
    how = f"{asked.get('rounds')} rounds of {asked.get('seconds'):g} s" if asked.get("seconds") else ""
    if asked.get("minutes"):
        how = f"rounds of {asked['seconds']:g} s for {asked['minutes']:g} minutes"
    return Section(
        report.bundle,
        report.input,
        machine(report),
        f"{report.measured_at[:16].replace('T', ' ')}, {how}",
        verdict(rows),
        list(tables(report, rows)),
        legend,
        list(_plots(report, drawn)),
        footnotes(report),
        {name: _said(value) for name, value in report.machine.items() if value not in (None, [], {})},
    )


def verdict(rows: Sequence[Figures]) -> str:
    """What matters most, in a sentence."""
    real = [f for f in rows if f.row.timed and not f.row.error]
    if not real:
        return "nothing could be measured"
    best = min(real, key=lambda f: f.latency[50].value)
    told = f"{best.row.label} is fastest: {ms(best.latency[50].value)} ms"
    if best.report.stopped:
        return f"{told}, of what was measured until it was stopped"
    if not best.sure:
        return f"{told}, of too few rounds"
    told += f" ± {best.latency[50].spread:.0%}"
    if best.gain is not None and best.row.case.precision != "fp32":
        told += f", {best.gain:.2f}× as fast as its fp32"
    near = [f for f in real if f is not best and f.latency[50].low < best.latency[50].high]
    return told + (f"; {', '.join(f.row.label for f in near)} cannot be told apart from it" if near else "")


def _plots(report: Report, drawn: Sequence[tuple[int, Figures]]) -> Iterator[Plot]:
    """The plots that there are figures for."""
    if not drawn:
        return
    unit = "ms, the whole task" if any(f.row.task_ms for _, f in drawn) else "ms, the network"
    strips = [Series(i, f.row.label, samples=_thinned(f), marks=_marks(f)) for i, f in drawn]
    yield Plot("Latency", "Every call but the first; lines at p50, p90 and p99.", plots.distributions(strips, unit))
    points = [Point(i, f.row.label, *f.latency[50], f.row.quality["drop"], _told(f)) for i, f in drawn if f.row.quality]
    if len(points) > 1:
        what = "Up and to the left is better; joined are those that none beats in both. Bars are 95 % intervals of p50."
        yield Plot("Quality against latency", what, plots.front(points, unit, f"{metric(report)} lost"))
    medians = [Series(i, f.row.label, [(n + 1.0, m) for n, m in enumerate(f.row.task_round_ms or f.row.round_ms)])
               for i, f in drawn]  # fmt: skip
    if any(len(s.points) > 1 for s in medians):
        yield Plot("Drift", "The median of each round: what moves together is the machine.",
                   plots.lines([s for s in medians if s.points], "round", "ms"))  # fmt: skip
    memory = [Series(i, f.row.label, f.rss_mb) for i, f in drawn if len(f.rss_mb) > 1]
    if memory:
        yield Plot("Memory", "Resident memory of each process since its load.", plots.lines(memory, "s", "MB"))


def _thinned(figures: Figures) -> Sequence[float]:
    samples = figures.row.task_ms or figures.row.model_ms
    return samples[:: max(1, -(-len(samples) // SHOWN))]


def _marks(figures: Figures) -> list[tuple[float, str]]:
    return [(e.value, f"p{q} {ms(e.value)} ms") for q, e in figures.latency.items() if q != 95]


def _told(figures: Figures) -> str:
    found = figures.latency[50]
    return f"{figures.row.label}: {ms(found.value)} ms ({ms(found.low)} … {ms(found.high)}), {figures.worth}"


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
