"""edgekit bench: measure bundles, compare two runs, show one again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from edgekit.cli.show import STOPPED, command, out_console, parse_size, progress_bar, several, several_threads
from edgekit.errors import InputError, NotInstalled

if TYPE_CHECKING:
    from edgekit.benchmarks import MeasureOptions, Report
    from edgekit.bundle import Bundle

STDOUT = "-"


def outputs(function: Callable[..., Any]) -> Callable[..., Any]:
    """The files that a report can be written to."""
    path = click.Path(path_type=Path)
    function = click.option("--html", "html", type=path, help="Write a page with plots.")(function)
    function = click.option("--md", "markdown", type=path, help="Write the tables as Markdown.")(function)
    return click.option("--json", "json_out", is_flag=False, flag_value=STDOUT, metavar="[FILE]",
                        help="Write the raw samples; without a file, print them.")(function)  # fmt: skip


class _Bench(click.Command):
    """`bench BUNDLE…`, but `bench compare …` and `bench show …` where the first word is one of these."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        other = {"compare": compare, "show": show}.get(args[0]) if args else None
        if other is not None:
            return other.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@command("edgekit bench sr-x2 --runtimes openvino,litert --html bench.html --json bench.json", cls=_Bench)
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE…")
@several("runtimes", "Only these engines")
@several("devices", "cpu, gpu, npu, gpu:1 …, or all")
@several("precisions", "Only these precisions")
@several_threads("the engine's choice")
@click.option("--size", default="640x360", show_default=True, help="Width x height of the input image.")
@click.option("--image", type=click.Path(path_type=Path), help="A photo to measure on; one ships.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="For each case and round.")
@click.option("--minutes", type=click.FloatRange(0.01), help="Go on so long with each bundle, and tell how memory grows.")  # fmt: skip
@click.option("--paced", "fps", type=click.FloatRange(0.1, 1000), metavar="FPS", help="Time calls at a frame rate too.")
@click.option("--loads", type=click.IntRange(1, 100), default=3, show_default=True, help="Fresh processes that load each case.")  # fmt: skip
@click.option("--drop-cache", is_flag=True, help="Put the model's files out of memory before each load.")
@click.option("--mlperf-bound", "bound", is_flag=True, help="Show MLPerf's early-stopping bound of p90.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), default=300.0, show_default=True, help="Seconds after which an engine that does not answer is ended.")  # fmt: skip
@several("estimates", "What other hardware would take: ethos-u55-128 …, or a file of instruction counts as docs/raspberry-pi.json")  # fmt: skip
@outputs
def bench(
    bundles: tuple[str, ...], runtimes: tuple[str, ...], devices: tuple[str, ...], precisions: tuple[str, ...],
    threads: tuple[int, ...], size: str, image: Path | None, rounds: int, seconds: float, minutes: float | None,
    fps: float | None, loads: int, drop_cache: bool, bound: bool, timeout_s: float, estimates: tuple[str, ...],
    json_out: str | None, markdown: Path | None, html: Path | None,
) -> None:  # fmt: skip
    """Measure bundles on every engine, device, precision and thread count.

    Real input, a process for each, interleaved in rounds; what fails or hangs is a row with the reason. Ctrl-C keeps
    what was measured. `edgekit bench compare A.json B.json` says what became faster or slower, `edgekit bench show
    A.json` shows a run again.
    """
    from edgekit.benchmarks import MeasureOptions, Thorough, records
    from edgekit.benchmarks.measurement import groups_of
    from edgekit.benchmarks.projections import projections
    from edgekit.bundle import Bundle

    _require_writable(json_out, markdown, html)
    thorough = Thorough(fps, loads, drop_cache, minutes, keep=True, bound=bound)
    options = MeasureOptions(size=parse_size(size), image=image, rounds=rounds, seconds=seconds, timeout_s=timeout_s,
                             devices=devices or ("cpu",), threads=threads or (None,), thorough=thorough)  # fmt: skip
    opened = [Bundle.open(name) for name in bundles]
    for bundle in opened:  # refused before the work, not after it
        groups_of(bundle, runtimes, precisions, options)
    expected = [projections(bundle, estimates) for bundle in opened]
    reports: list[Report] = []
    for bundle, projected in zip(opened, expected, strict=True):
        reports.append(_measured(bundle, runtimes, precisions, options))
        reports[-1].projections = projected
        if json_out and json_out != STDOUT:  # after each, so that a crash of this process loses one bundle at most
            records.save(json_out, reports)
        if reports[-1].stopped:
            break
    _write(reports, json_out, markdown, html)  # before they are printed, as whoever reads may have gone
    if json_out != STDOUT:
        for report in reports:
            _print(report, narrowed=bool(runtimes or precisions), size=size)
    if any(report.stopped for report in reports):
        sys.exit(STOPPED)
    if any(row.error for report in reports for row in report.rows):
        sys.exit(1)


@command("edgekit bench show bench.json --html bench.html")
@click.argument("file", type=click.Path(path_type=Path))
@outputs
def show(file: Path, json_out: str | None, markdown: Path | None, html: Path | None) -> None:
    """Show a run again from its JSON, such as one of another machine."""
    from edgekit.benchmarks import records

    _require_writable(json_out, markdown, html)
    reports = records.load(file)
    for report in reports:
        if json_out != STDOUT:
            _print(report)
    _write(reports, json_out, markdown, html)


def _part(ctx: click.Context, parameter: click.Parameter, given: str | None) -> float | None:
    """ "10%" → 0.1."""
    if given is None:
        return None
    try:
        part = float(given.removesuffix("%")) / 100
    except ValueError:
        part = -1.0
    if not 0 <= part < 100:
        raise click.BadParameter(f"got '{given}': expected a percentage, such as 10%")
    return part


@command("edgekit bench compare before.json after.json --fail-over 10%")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--fail-over", callback=_part, metavar="PERCENT", help="Exit with 1 where anything is slower by more than this for certain.")  # fmt: skip
@click.option("--beside", help="Divide by this row of the same round first, such as 'onnxruntime fp32': a slower hour does not count then.")  # fmt: skip
@click.option("--unlike", is_flag=True, help="Compare runs of unlike machines or inputs all the same.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")
def compare(
    before: Path, after: Path, fail_over: float | None, beside: str | None, unlike: bool, as_json: bool
) -> None:
    """Say what became faster or slower from one run to another, and how sure that is.

    A row is faster or slower where the whole 95 % interval of the ratio of medians lies beyond the 2 % by which two
    runs of one file differ on an idle machine.
    """
    from edgekit.benchmarks import records
    from edgekit.benchmarks.reports import comparison

    options = comparison.CompareOptions(beside, unlike)
    found = comparison.compare(records.load(before), records.load(after), options)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1).decode())
    else:
        out_console.print(comparison.table(found))
        for note in found.notes:
            out_console.print(note, soft_wrap=True)
    if fail_over is not None and any(row.verdict == "slower" and row.low > 1 + fail_over for row in found.rows):
        sys.exit(1)


def _measured(bundle: Bundle, runtimes: Sequence[str], precisions: Sequence[str], options: MeasureOptions) -> Report:
    """The report of one bundle, with a progress bar on stderr."""
    from dataclasses import replace

    from edgekit.benchmarks import measure

    with progress_bar() as progress:
        bar = progress.add_task(bundle.name, total=None)

        def told(done: int, total: int, what: str) -> None:
            progress.update(bar, completed=done, total=total, description=f"{bundle.name}: {what}")

        return measure(bundle, runtimes, precisions, options=replace(options, progress=told))


def _print(report: Report, *, narrowed: bool = True, size: str = "") -> None:
    """The tables of a report, its notes, and what auto takes here."""
    from edgekit.benchmarks.reports import figures, table

    chosen = _chosen(report)
    rows = figures.figures(report, chosen)
    out_console.print(f"{report.bundle}, {report.input}", style="bold", soft_wrap=True)
    out_console.print(table.machine(report), soft_wrap=True)
    for named in table.tables(report, rows):
        out_console.print(table.drawn(named, out_console.width))
    for note in figures.footnotes(report):
        out_console.print(note, soft_wrap=True)
    if chosen is None:
        return
    out_console.print(f"auto takes {chosen.runtime} {chosen.variant.precision}: {chosen.why}", soft_wrap=True)
    best = None if narrowed or report.stopped else figures.faster(rows)
    if best is not None:
        sized = f" --size {size}" if report.input.startswith("a photo") else ""
        tip = f"this run found {best.row.label} fastest: `edgekit tune {report.bundle}{sized}` makes auto take it"
        out_console.print(tip, soft_wrap=True)


def _chosen(report: Report) -> Any:
    """What auto takes of the bundle here; None where it is not here, or the run was of another machine."""
    from edgekit import choice, machine
    from edgekit.bundle import Bundle
    from edgekit.errors import EdgekitError

    if not report.rows or report.machine.get("processor") != machine.processor():
        return None
    try:
        opened = Bundle.open(report.rows[0].case.bundle)
        return choice.pick(opened, opened.main, "auto", "cpu", "auto", {})
    except EdgekitError:
        return None


def _require_writable(json_out: str | None, markdown: Path | None, html: Path | None) -> None:
    """Refuse files that cannot be written, and a page without its template engine, before the work."""
    for path in (None if json_out == STDOUT else json_out, markdown, html):
        if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
            reason = "it is a folder" if Path(path).is_dir() else f"there is no folder '{Path(path).parent}'"
            raise InputError(f"cannot write '{path}': {reason}")
    if html is not None:
        try:
            import jinja2  # noqa: F401
        except ModuleNotFoundError as error:
            raise NotInstalled.named("edgekit bench --html", "jinja2", "report") from error


def _write(reports: Sequence[Report], json_out: str | None, markdown: Path | None, html: Path | None) -> None:
    from edgekit.benchmarks import records
    from edgekit.benchmarks.reports import figures, table

    if json_out == STDOUT:
        click.echo(msgspec.json.format(records.encode(reports), indent=1).decode())
    elif json_out:
        records.save(json_out, reports)
    if markdown:
        parts = [table.markdown(report, figures.figures(report, _chosen(report))) for report in reports]
        markdown.write_text("\n".join(parts), encoding="utf-8")
    if html:
        from edgekit.benchmarks.reports import page

        page.write(html, [(report, figures.figures(report, _chosen(report))) for report in reports])
