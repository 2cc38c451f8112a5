"""The figures of docs/benchmarks.md: every bundle that ships, measured anew and written between the page's marks.

Run it on an idle machine with `python -m edgekit.benchmarks.published docs/benchmarks.md --json out/benchmarks.json`; what
was measured already is read from the JSON with `--shown`, so that the page can be laid out again without measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from edgekit.benchmarks import records
from edgekit.benchmarks.measurement import measure
from edgekit.benchmarks.options import MeasureOptions, Thorough
from edgekit.benchmarks.records import Report
from edgekit.benchmarks.reports import figures, table
from edgekit.bundle import Bundle, shipped
from edgekit.errors import EdgekitError, InputError

BEGIN, END = "<!-- from edgekit.benchmarks.published -->", "<!-- end -->"
SIZES = {"sr-x4": (180, 320)}  # height and width of the photo; 360 × 640 for the others


def figures_of(names: Sequence[str], options: MeasureOptions) -> list[Report]:
    """Each bundle in its turn, at the size of SIZES."""
    sized = {name: replace(options, size=SIZES.get(name, options.size)) for name in names}
    return [measure(Bundle.open(name), options=sized[name]) for name in names]


def laid_out(page: str, reports: Sequence[Report]) -> str:
    """The page with these reports between its marks.

    Raises:
        InputError: it has none.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"the page has no '{BEGIN}' … '{END}' to write between")
    told = "\n".join(table.markdown(report, figures.figures(report)) for report in reports)
    return f"{before}{begin}\n\n{told}\n{end}{after}"


@click.command()
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("names", nargs=-1)
@click.option("--json", "kept", type=click.Path(path_type=Path), required=True, help="The raw samples.")
@click.option("--shown", is_flag=True, help="Read the samples instead of measuring.")
@click.option("--rounds", default=8, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="For each case and round.")
def main(page: Path, names: tuple[str, ...], kept: Path, shown: bool, rounds: int, seconds: float) -> None:
    """Measure bundles (all that ship if none are named), and write the figures into PAGE."""
    options = MeasureOptions(
        rounds=rounds,
        seconds=seconds,
        thorough=Thorough(fps=10, loads=3),
        progress=lambda done, total, what: click.echo(f"{done} of {total}: {what}", err=True),
    )
    try:
        laid_out(page.read_text(encoding="utf-8"), ())  # refused before the work
        reports = records.load(kept) if shown else figures_of(names or list(shipped()), options)
    except EdgekitError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    if not shown:
        records.save(kept, reports)
    page.write_text(laid_out(page.read_text(encoding="utf-8"), reports), encoding="utf-8")
    bad = [note for report in reports for note in figures.footnotes(report) if "failed" in note or "believe" in note]
    for note in bad:
        click.echo(note, err=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
