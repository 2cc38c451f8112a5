"""The tables of a report, for the terminal and as Markdown: latency, what it takes, and what is no latency."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

from edgekit.benchmarks.records import Report
from edgekit.benchmarks.reports.figures import COST, LATENCY, LEFT, QUALITY, Figures, cells, footnotes, metric

Named = tuple[str, list[str], list[list[str]]]  # title, heads, rows


def tables(report: Report, rows: Sequence[Figures]) -> Iterator[Named]:
    """What there is to show: title, heads and texts of each table.

    What ran on a simulator, or on the processor in a device's place, has no latency: it stands in a table of its own,
    and so does what a compiler or an emulator says of devices that are not here.
    """
    real = [f for f in rows if f.row.real]
    heads, texts = cells(real, LATENCY)
    yield "", [metric(report) if head == QUALITY else head for head in heads], texts
    costs = [f for f in real if f.row.loads or f.row.details]
    if costs:
        heads, texts = cells(costs, COST)
        yield (
            "what it takes (model: the network in the whole task; CPU: processor ms a call; 1/s: as a stream)",
            heads,
            texts,
        )
    aside = [f for f in rows if not f.row.real]
    if aside:
        yield "no latency: a simulator, or software in the place of the device", *_asides(aside)
    if report.projections:
        yield _projected(report)


def drawn(named: Named, width: int) -> Table:
    """One table for a terminal of so many columns; names are never cut."""
    title, heads, texts = named
    fitting, gap = _fitting(heads, texts, width)
    result = Table(title=title or None, title_justify="left", title_style="", header_style="bold",
                   box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0))  # fmt: skip
    for head in (heads[i] for i in fitting):
        left = head in (*LEFT, "ran on", "operators")
        result.add_column(head, justify="left" if left else "right", no_wrap=head in LEFT)
    for row in texts:
        style = "bold green" if "← auto" in row[-1] else "red" if row[-1] == "failed" else None
        result.add_row(*(row[i] for i in fitting), style=style)
    return result


def markdown(report: Report, rows: Sequence[Figures]) -> str:
    """The report for a README: machine, tables, notes."""
    parts = [f"### {_plain(report.bundle)}\n\n{_plain(machine(report))}; {_plain(report.input)}.\n"]
    for title, heads, texts in tables(report, rows):
        lines = [f"{title[:1].upper()}{title[1:]}:\n"] if title else []
        lines += ["| " + " | ".join(heads) + " |", "|" + "".join(" --- |" if h in LEFT else " ---: |" for h in heads)]
        lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in texts]
        parts.append("\n".join(lines) + "\n")
    parts.append("\n".join(f"- {_plain(note)}" for note in footnotes(report)) + "\n")
    return "\n".join(parts)


def machine(report: Report) -> str:
    """One line of what it was measured on, when, and with which engines."""
    facts, day = report.machine, report.measured_at[:10]
    name = facts.get("board") or facts.get("processor")
    units = f", {', '.join(facts['int8_units'])}" if facts.get("int8_units") else ""
    engines = {row.case.runtime: row.placement.get("version", "") for row in report.rows if row.placement}
    told = ", ".join(f"{runtime} {version}" for runtime, version in engines.items())
    governor = f", governor {facts['governor']}" if facts.get("governor") else ""
    return f"{name} ({facts.get('cores')} cores{units}{governor}), {day}, {told or 'no engine'}"


def _asides(rows: Sequence[Figures]) -> tuple[list[str], list[list[str]]]:
    shown = []
    for f in rows:
        place = f.row.placement
        units = ", ".join(f"{count} {unit}" for unit, count in list(place.get("operators", {}).items())[:4])
        shown.append([f.row.case.runtime, f.row.case.precision, f.row.case.device, str(place["kind"]), units])
    return ["engine", "precision", "device", "ran on", "operators"], shown


def _projected(report: Report) -> Named:
    """A column for each thing that was counted."""
    counted = list(dict.fromkeys(p.what for p in report.projections))
    values = {(p.runtime, p.precision, p.what): f"{p.value:,.1f}" for p in report.projections}
    sources = ", ".join(dict.fromkeys(p.source for p in report.projections))
    rows = [[*pair, *(values.get((*pair, what), "–") for what in counted)]
            for pair in dict.fromkeys((p.runtime, p.precision) for p in report.projections)]  # fmt: skip
    return f"no latency: what other hardware would take, by {sources}", ["engine", "precision", *counted], rows


def _fitting(heads: Sequence[str], texts: Sequence[Sequence[str]], width: int) -> tuple[list[int], int]:
    """The columns that fit, the least telling left out first, and the spaces between them: two where they fit."""
    spare = ["p95", "p90 <", "file kB", "first", "p99", "paced", "MB/h", "CPU", "±", "load ms"]
    wide = [max([len(head), *(len(row[i]) for row in texts)]) + 1 for i, head in enumerate(heads)]
    kept = list(range(len(heads)))
    for head in spare:
        if sum(wide[i] for i in kept) + 2 <= width:
            break
        kept = [i for i in kept if heads[i] != head]
    loose = sum(wide[i] + 1 for i in kept) + 2 <= width
    return kept, 2 if loose else 1


def _plain(text: str) -> str:
    """Words of a bundle or an error as Markdown shows them: no cell ends early, and no tag is one."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
