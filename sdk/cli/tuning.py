"""What `auto` goes by: tune."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from edgekit import choice, profile, selection
from edgekit.bundle import Bundle
from edgekit.choice import Choice
from edgekit.cli.show import (
    STOPPED,
    command,
    err_console,
    json_option,
    new_table,
    out_console,
    parse_size,
    print_json,
    progress_bar,
    several,
    several_threads,
)
from edgekit.errors import InputError
from edgekit.manifest import METRICS
from edgekit.profile import Measurement
from edgekit.selection import Limits, Row

NOISE_KNOWN = 3  # rounds, from which on it can be told
LIMITS = (
    click.option("--max-latency-ms", type=float, help="Take only what does the whole task in so long."),
    click.option("--min-quality", type=float, help="Take only what is at least as good, in the bundle's own metric."),
    click.option("--max-memory-mb", type=float, help="Take only what keeps within so much memory."),
    click.option("--max-file-mb", type=float, help="Take only what has no larger files."),
)


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What the choice has to keep within."""
    for option in reversed(LIMITS):
        function = option(function)
    return function


@dataclass(frozen=True)
class Outcome:
    """What is shown: a measurement, what `auto` takes by it, and how it went."""

    bundle: Bundle
    measured: Measurement
    choice: Choice
    path: Path
    seconds: float | None = None
    notes: tuple[str, ...] = ()


@command("edgekit tune sr-x2 --min-quality 37 --pareto")
@click.argument("bundle")
@limit_options
@click.option("--size", default="640x360", show_default=True, help="Width x height of the input image.")
@click.option("--image", type=click.Path(path_type=Path), help="A photo to measure on; one ships.")
@several("runtimes", "Only these engines")
@several("devices", "cpu, gpu, npu, or all that are usable (cpu if left out)")
@several("precisions", "Only these precisions")
@several_threads("the engine's own choice, 1, 2, 4 … and all cores")
@click.option("--budget", type=float, default=45.0, show_default=True, help="Seconds that it may take.")
@click.option(
    "--pareto",
    is_flag=True,
    help="Show every combination, and mark what no other beats in quality, latency, memory and files.",
)
@click.option("--show", is_flag=True, help="Show what was measured before; measure nothing.")
@click.option(
    "--export",
    "export",
    type=click.Path(path_type=Path),
    help="Write the profile here too, for machines of the same kind.",
)
@click.option(
    "--import",
    "taken",
    type=click.Path(path_type=Path),
    help="Take the profile that a machine of the same kind exported; measure nothing.",
)
@json_option
def tune(
    bundle: str, size: str, image: Path | None, runtimes: tuple[str, ...], devices: tuple[str, ...],
    precisions: tuple[str, ...], threads: tuple[int, ...], budget: float, pareto: bool, show: bool,
    export: Path | None, taken: Path | None, as_json: bool, **limits: float | None,
) -> None:  # fmt: skip
    """Measure a bundle here, and let `auto` choose by it.

    Engine × device × precision × threads, by successive halving. Exit code 1 where nothing keeps within the limits.
    """
    opened = Bundle.open(bundle)
    if export is not None and not export.absolute().parent.is_dir():
        raise InputError(f"cannot write '{export}': there is no folder '{export.parent}'")
    if taken is not None:
        profile.take(taken, opened)
    if show or taken is not None:
        outcome = _known(opened)
    else:
        from edgekit.benchmarks.candidates import TuneOptions

        options = TuneOptions(
            budget_s=budget, limits=Limits(**limits), runtimes=runtimes, devices=devices or ("cpu",), precisions=precisions,
            threads=threads, size=parse_size(size), image=image, front=pareto,
        )  # fmt: skip
        outcome = _tuned(opened, options)
    if export is not None:
        shutil.copyfile(outcome.path, export)
    met = _selected(outcome).met
    if as_json:
        print_json(_answer(outcome))
    else:
        _print(outcome, pareto)
    sys.exit(STOPPED if not outcome.measured.whole and outcome.seconds is not None else 0 if met else 1)


def _tuned(bundle: Bundle, options: Any) -> Outcome:
    """Measure with a progress bar."""
    from dataclasses import replace

    from edgekit.benchmarks.tuning import tune as measure

    with progress_bar() as progress:
        bar = progress.add_task("tune", total=None)
        told = replace(
            options,
            progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what),
        )
        tuned = measure(bundle, options=told)
    if tuned.stopped:
        err_console.print("stopped: what was measured is kept")
    known = profile.load(bundle)
    assert known is not None  # tune has just written it
    return Outcome(bundle, known.measurements[-1], tuned.choice, tuned.path, tuned.seconds, tuned.notes)


def _known(bundle: Bundle) -> Outcome:
    """What was measured before.

    Raises:
        InputError: nothing that holds.
    """
    known, stale = profile.state(bundle)
    if known is None:
        why = f"{stale}; " if stale else ""
        raise InputError(
            f"nothing is known of {bundle.name} on this machine: {why}`edgekit tune {bundle.name}` measures"
        )
    measured = known.measurements[-1]
    device = measured.devices[0] if len(measured.devices) == 1 else "auto"
    picked = choice.pick(bundle, bundle.main, "auto", device, "auto", {})
    return Outcome(bundle, measured, picked, profile.path_of(bundle))


def _selected(outcome: Outcome) -> selection.Selected:
    selected = selection.select(outcome.measured.rows, outcome.measured.limits)
    assert selected is not None  # no profile is kept without a figure
    return selected


def _answer(outcome: Outcome) -> dict[str, Any]:
    """For machines."""
    picked, measured = outcome.choice, outcome.measured
    front = selection.front(measured.rows)
    rows = [{**msgspec.to_builtins(row), "front": any(row is f for f in front)} for row in measured.rows]
    return {
        "bundle": outcome.bundle.name,
        "runtime": picked.runtime,
        "device": picked.device,
        "precision": picked.variant.precision,
        "threads": picked.threads,
        "why": picked.why,
        "met": _selected(outcome).met,
        "stopped": not measured.whole,
        "seconds": outcome.seconds,
        "input": measured.input,
        "measured_at": measured.measured_at,
        "limits": measured.limits,
        "engines": measured.engines,
        "rows": rows,
        "notes": outcome.notes,
        "profile": str(outcome.path),
    }


def _print(outcome: Outcome, every: bool) -> None:
    measured = outcome.measured
    machine = profile.Machine.here()
    out_console.print(
        f"{outcome.bundle.name} on {machine}, {measured.input}, measured on {measured.measured_at}", soft_wrap=True
    )
    out_console.print(_table(measured, _selected(outcome).row, every))
    failed: dict[str, list[str]] = {}
    for row in measured.rows:
        if row.error:
            failed.setdefault(row.error, []).append(str(row))
    notes = [*(f"{'; '.join(names)}: {error}" for error, names in failed.items()), *outcome.notes]
    for note in notes:
        out_console.print(note, soft_wrap=True)
    if data := next((row.quality.data for row in measured.rows if row.quality), ""):
        out_console.print(f"quality: {data}, measured when the bundle was made", soft_wrap=True)
    took = f"took {outcome.seconds:.0f} s, " if outcome.seconds is not None else ""
    out_console.print(f"{took}kept in {outcome.path}", soft_wrap=True)
    out_console.print(f"auto takes {_named(outcome.choice)}: {outcome.choice.why}", soft_wrap=True)


def _named(picked: Choice) -> str:
    return str(Row(picked.runtime, picked.device, picked.variant.precision, picked.threads, None, tile=picked.tile))


def _table(measured: Measurement, taken: Row, every: bool) -> Table:
    """The rows, the fastest first: the best threads of each engine, device and precision, or `every` one with the front."""
    metric = next((row.quality.metric for row in measured.rows if row.quality), "quality")
    several = len(measured.devices) > 1 or measured.devices[0] != "cpu"
    tiled = any(row.tile for row in measured.rows)
    table = new_table(
        "engine",
        "precision",
        *(["device"] if several else []),
        "threads",
        *(["tile"] if tiled else []),
        "p50 ms",
        "±",
        METRICS.get(metric, metric),
        "MB",
        "KB",
        "",
    )
    for column in table.columns[2 + several : -1]:
        column.justify = "right"
    for column in table.columns:
        column.no_wrap = True
    table.padding = (0, 0 if tiled or several else 1, 0, 0)  # of 80 columns the table needs all
    front = selection.front(measured.rows)
    for row in measured.rows if every else _best(measured.rows, taken):
        marks = ["front"] if every and any(row is f for f in front) else []
        marks += ["← auto"] if row is taken else ["–"] if row.error else []
        style = "bold green" if row is taken else "red" if row.error else None
        table.add_row(
            row.runtime,
            row.precision,
            *([row.device] if several else []),
            *_figures(row, tiled),
            " ".join(marks),
            style=style,
        )
    return table


def _best(rows: Sequence[Row], taken: Row) -> list[Row]:
    """The first row, or the one taken, of each engine, device and precision."""
    first: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = (row.runtime, row.device, row.precision)
        if key not in first or row is taken:
            first[key] = row
    return sorted(first.values(), key=lambda row: row.ms)


def _figures(row: Row, tiled: bool) -> tuple[str, ...]:
    return (
        str(row.threads or (f"auto, {row.ran}" if row.ran else "auto")),
        *([str(row.tile or "")] if tiled else []),
        "–" if row.p50_ms is None or row.error else selection.figure(row.p50_ms),
        f"{row.noise:.0%}" if row.noise and row.rounds >= NOISE_KNOWN else "",
        row.quality.figure if row.quality else "–",
        f"{row.peak_mb:.0f}" if row.peak_mb else "–",
        f"{row.bytes / 1024:.0f}" if row.bytes else "–",
    )
