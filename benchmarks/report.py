"""Reports as people read them: a terminal table and Markdown, with what `auto` takes marked."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from edgekit.benchmarks.records import Report, Row
from edgekit.choice import Choice
from edgekit.manifest import METRICS, Quality

WIDE_ONLY = ("model ms", "load ms")  # left out on terminals narrower than 100 columns
HEAD = (
    "engine",
    "precision",
    "quality",
    "p50 ms",
    "p90 ms",
    "model ms",
    "vs fp32",
    "load ms",
    "peak MB",
    "file KB",
    "",
)


def cells(
    report: Report, chosen: Choice | None, quality: Mapping[tuple[str, str], str] | None = None
) -> list[tuple[str, ...]]:
    """One tuple of texts a row, in the order of HEAD; `quality` replaces the manifest's by (runtime, precision)."""
    return [_cells(report, row, chosen, quality or {}) for row in report.rows]


def _cells(report: Report, row: Row, chosen: Choice | None, quality: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
    case = row.case
    recorded = str(Quality(**row.quality)).split()[0] if row.quality else "–"
    worth = quality.get((case.runtime, case.precision), recorded)
    size = f"{row.bytes / 1024:.0f}"
    if row.error:
        return (case.runtime, case.precision, worth, "–", "–", "–", "–", "–", "–", size, "failed")
    ratio = speed_up(report, row)
    marks = []
    if chosen is not None and (chosen.runtime, chosen.variant.precision) == (case.runtime, case.precision):
        marks.append("← auto")
    if case.precision != "fp32" and ratio is not None and ratio < 1.0:
        marks.append("slower than fp32")
    return (
        case.runtime,
        case.precision,
        worth,
        _ms(row.percentile(50)),
        _ms(row.percentile(90)),
        _ms(row.percentile(50, "model_ms")),
        f"{ratio:.2f}×" if ratio is not None and case.precision != "fp32" else "",
        f"{row.load_ms:.0f}",
        f"{row.peak_mb:.0f}",
        size,
        ", ".join(marks),
    )


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def speed_up(report: Report, row: Row) -> float | None:
    """How many times faster than the same engine's fp32 the whole task runs, by medians of this report."""
    for other in report.rows:
        if (
            other.case.runtime == row.case.runtime
            and other.case.precision == "fp32"
            and other.model_ms
            and row.model_ms
        ):
            return other.percentile(50) / row.percentile(50)
    return None


def fastest(report: Report) -> tuple[str, str] | None:
    """(runtime, precision) of the lowest median of the whole task, None where nothing could be measured."""
    rows = [row for row in report.rows if row.model_ms]
    best = min(rows, key=lambda row: row.percentile(50), default=None)
    return (best.case.runtime, best.case.precision) if best else None


def table(rows: list[tuple[str, ...]], title: str, quality: str, width: int = 100) -> Table:
    """The terminal's table; `width` columns wide at most."""
    result = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [i for i, name in enumerate(HEAD) if width >= 100 or name not in WIDE_ONLY]
    for name in (HEAD[i] for i in shown):
        left = name in ("engine", "precision", "")
        result.add_column(
            METRICS.get(quality, quality) if name == "quality" else name,
            justify="left" if left else "right",
            no_wrap=left,
        )
    for row in rows:
        style = "bold green" if "← auto" in row[-1] else "red" if row[-1] == "failed" else None
        result.add_row(*(row[i] for i in shown), style=style)
    return result


def markdown(rows: list[tuple[str, ...]], quality: str) -> str:
    """The same as Markdown."""
    head = [METRICS.get(quality, quality) if name == "quality" else name for name in HEAD]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def footnotes(report: Report) -> list[str]:
    """What the table has no room for: errors in full, and where its quality comes from."""
    notes = [f"{r.case.runtime} {r.case.precision} failed: {r.error}" for r in report.rows if r.error]
    data = next((r.quality["data"] for r in report.rows if r.quality), None)
    return notes + ([f"quality: {data}, measured when the bundle was made"] if data else [])
