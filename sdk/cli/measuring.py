"""What is measured: bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from edgekit.cli.show import command, json_option, out_console, parse_size, print_json, progress_bar
from edgekit.errors import InputError


@command("edgekit bench sr-x2 --runtime openvino --size 640x360 --json-out bench.json")
@click.argument("bundle")
@click.option("--runtime", "runtimes", multiple=True, help="Only this engine; may be given several times.")
@click.option("--precision", "precisions", multiple=True, help="Only this precision; may be given several times.")
@click.option("--size", default="640x360", show_default=True, help="Width x height of the input image.")
@click.option("--image", type=click.Path(path_type=Path), help="A photo to measure on; one ships.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="For each case and round.")
@click.option("--threads", type=click.IntRange(1, 1024))
@click.option("--json-out", type=click.Path(path_type=Path), help="Write the raw samples here.")
@click.option("--md-out", type=click.Path(path_type=Path), help="Write the table as Markdown here.")
@json_option
def bench(
    bundle: str, runtimes: tuple[str, ...], precisions: tuple[str, ...], size: str, image: Path | None, rounds: int,
    seconds: float, threads: int | None, json_out: Path | None, md_out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure a bundle on every engine and precision.

    Real input, a process for each, interleaved in rounds.
    """
    from edgekit import choice
    from edgekit.benchmarks import report
    from edgekit.bundle import Bundle

    for path in (json_out, md_out):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"cannot write '{path}': there is no folder '{path.parent}'")
    opened = Bundle.open(bundle)
    choice.pick(opened, opened.main, "auto", "cpu", "auto", {})  # refused before the work, not after it
    measured, opened = _measured(
        bundle,
        runtimes,
        precisions,
        size=parse_size(size),
        image=image,
        rounds=rounds,
        seconds=seconds,
        threads=(threads,),
    )
    if json_out:
        measured.save(json_out)
    chosen = choice.pick(opened, opened.main, "auto", "cpu", "auto", {})
    rows = report.cells(measured, chosen)
    quality = next((r.quality["metric"] for r in measured.rows if r.quality), "quality")
    if md_out:
        md_out.write_text(report.markdown(rows, quality), encoding="utf-8")
    if as_json:
        print_json(msgspec.to_builtins(measured))
        return
    title = f"{opened.name} on {measured.machine['processor']} ({measured.machine['cores']} cores), {measured.input}"
    out_console.print(report.table(rows, title, quality, out_console.width))
    for note in report.footnotes(measured):
        out_console.print(note, soft_wrap=True)
    out_console.print(f"auto takes {chosen.runtime} {chosen.variant.precision}: {chosen.why}", soft_wrap=True)
    best = report.fastest(measured)
    if best and not (runtimes or precisions) and best != (chosen.runtime, chosen.variant.precision):
        found = " ".join(best)
        sized = f" --size {size}" if measured.input.startswith("a photo") else ""
        out_console.print(f"this run found {found} fastest: `edgekit tune {bundle}{sized}` makes auto take it")
    if any(row.error for row in measured.rows):
        sys.exit(1)


def _measured(bundle: str, runtimes: Any, precisions: Any, **options: Any) -> tuple[Any, Any]:
    """The report of a measurement with a progress bar, and the opened bundle."""
    from edgekit.benchmarks import MeasureOptions, measure
    from edgekit.bundle import Bundle

    opened = Bundle.open(bundle)
    with progress_bar() as progress:
        bar = progress.add_task("measure", total=None)
        told = MeasureOptions(
            **options,
            progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what),
        )
        return measure(opened, runtimes, precisions, options=told), opened
