"""`edgekit quantize`: small files next to fp32, to a quality that was asked for."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import edgekit
from edgekit.cli.host import FORMATS, report_variants
from edgekit.cli.show import command, conditions, err_console, json_option, new_table, out_console, print_json, steps
from edgekit.errors import ExportError, InputError
from edgekit.manifest import METRICS

SCHEMES = ("int8", "int8-dynamic", "int8-weights", "int4-weights", "fp16")
CORRECTIONS = ("auto", "none", "equalise", "bias", "smooth", "round")


@command("edgekit quantize my-model --calibration photos/ --validation set5.zip --max-drop 0.15")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--calibration",
              help="Photos (a folder, a .zip), a text, or .npz with an array for each input; 'zoo' for what ships with "
                   "edgekit, 'random' for what the task draws itself, or noise.")  # fmt: skip
@click.option("--validation", type=click.Path(path_type=Path), help="The same, apart from it, to measure quality on.")
@click.option("--metric", default="auto", show_default=True,
              help="accuracy, psnr, ssim, nats, snr (noise at the outputs, %), brightness (shift in levels of 255), "
                   "frechet, recognised, or package.module:function; auto is the task's own.")  # fmt: skip
@click.option("--max-drop", type=float, help="The most that may be lost, in the metric's unit.")
@click.option("--scheme", type=click.Choice(SCHEMES), default="int8", show_default=True,
              help="int8: static, for all; int8-dynamic and the weight-only ones for text and transformers.")  # fmt: skip
@click.option("--format", "--formats", "formats", multiple=True, type=click.Choice(FORMATS),
              help="Only this; all there are if left out.")  # fmt: skip
@click.option("--keep-float", multiple=True, help="A layer's name or pattern that stays float; may be repeated.")
@click.option("--correct", multiple=True, type=click.Choice(CORRECTIONS),
              help="Before rounding; auto (the default): those that serve the network.")  # fmt: skip
@click.option("--attempts", type=click.IntRange(1), default=8, show_default=True, help="Of the search, at most.")
@click.option("--budget", type=click.FloatRange(0), help="Minutes after which no further attempt is begun.")
@click.option("--keep-slower", is_flag=True, help="Keep files that are slower than fp32 on every engine here.")
@click.option("--no-timing", is_flag=True, help="Do not measure speed.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write a page: sizes, quality, speed, layers, pictures."
)
@click.option(
    "--source",
    help="What the bundle was exported from, where it does not carry the network: nets.py:build, net.pt2, a folder.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="The weights of --source.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Another folder to write; its own if left out.")
@json_option
def quantize(
    bundle: Path, calibration: str | None, validation: Path | None, metric: str, max_drop: float | None, scheme: str,
    formats: tuple[str, ...], correct: tuple[str, ...], budget: float | None, report: Path | None,
    source: str | None, weights: Path | None, out: Path | None, as_json: bool, **said: Any,
) -> None:  # fmt: skip
    """Add int8 or other small files to a bundle, in every format.

    One calibration and one list of layers in float serve all formats. While more than --max-drop is lost, the layers that err most return to float; the best is kept, and the exit code is 1 where the target is missed. A file that is slower than fp32 on every engine here is not kept, unless its scheme is there for size (int8-weights, int4-weights).
    """
    from edgekit.bundle import Bundle

    opened = Bundle.open(bundle)  # before PyTorch, which takes seconds
    if max_drop is not None and validation is None and metric == "auto":
        raise InputError("--max-drop needs --validation: photos, a text or arrays to measure quality on")
    from edgekit.quantization import QuantizeOptions
    from edgekit.quantization.calibration import named
    from edgekit.quantization.networks import again
    from edgekit.quantization.report import ReportOptions, refuse_unwritable, write
    from edgekit.quantization.speed import expectation

    before = opened.hash
    if validation is not None and calibration is not None and validation == Path(calibration):
        _warn(f"'{validation}' both calibrates and measures: the quality on other data may be worse")
    _warn_of(opened, calibration, scheme)
    for line in expectation(scheme):
        err_console.print(line, style="dim")
    if report is not None:
        refuse_unwritable(report)
    inputs = named(opened, calibration) if calibration else {}
    described = again(opened, source, weights) if source else None
    first = opened.component(opened.main)
    files = len(formats or {v.format for v in first.variants if v.precision == "fp32"})
    with steps(files * (3 if validation else 1)) as progress:
        options = QuantizeOptions(
            scheme=scheme,  # type: ignore[arg-type]  # one of SCHEMES
            formats=formats,
            keep_float=said["keep_float"],
            correct=tuple(c for c in correct or ("auto",) if c != "none"),
            attempts=said["attempts"],
            budget_s=math.inf if budget is None else budget * 60,
            keep_slower=said["keep_slower"],
            time_it=not said["no_timing"],
            progress=progress,
        )
        try:
            result = edgekit.quantize(
                opened, inputs or None, metric, validation=validation, max_drop=max_drop, source=described, out=out,
                options=options,
            )  # fmt: skip
        except ExportError as error:
            if error.bundle is not None and not as_json:
                report_variants(error.bundle, False)
            raise
        if report is not None:
            told = ReportOptions(calibration or "", str(validation or ""), inputs, progress=progress)
            write(report, result, told)
    if as_json:
        print_json(_as_builtins(result))
    else:
        _tell(result, before != result.bundle.hash)
        if report is not None:
            out_console.print(f"wrote {report}")
    sys.exit(0 if result.met else 1)


def _warn_of(bundle: Any, calibration: str | None, scheme: str) -> None:
    """Say so where int8 is calibrated on noise."""
    from edgekit.quantization.calibration import draws_itself

    if calibration == "random" and scheme == "int8" and not draws_itself(bundle):
        _warn(
            f"{bundle.name} is calibrated on noise, which does not show the ranges of real inputs: int8 may lose much; "
            "name real ones with --calibration"
        )


def _warn(text: str) -> None:
    err_console.print(f"warning: {text}", style="yellow")


def _tell(result: Any, changed: bool) -> None:
    """What was written, tried and left out, for people."""
    _tabulate(result.bundle, result.precision)
    if changed:
        out_console.print(f"wrote {result.bundle.folder}")
    if len(result.attempts) > 1:
        table = new_table("attempt", "drop", "seconds")
        for attempt in result.attempts:
            drop = "useless" if attempt.drop == math.inf else f"{attempt.drop:+.4g}"
            table.add_row(str(attempt.plan), drop, f"{attempt.seconds:.0f}")
        out_console.print(table)
    for agreed in (a for c in result.bundle.manifest.components.values() for a in c.agreement):
        if agreed.precision == result.precision and agreed.note:
            out_console.print(f"{' and '.join(agreed.engines)} agree to {agreed.snr_db:.0f} dB: {agreed.note}")
    for note in result.notes:
        out_console.print(note, style="yellow")
    if result.worst_drop is None or result.max_drop is None:
        return
    variants = [v for c in result.bundle.manifest.components.values() for v in c.variants]
    measured = next((v.quality.metric for v in variants if v.quality and v.precision == result.precision), "")
    unit, met = METRICS.get(measured, measured), "met" if result.met else "not met"
    layers = [layer for of_component in result.layers.values() for layer in of_component]
    kept = [layer for layer in layers if layer.kept]
    out_console.print(
        f"target of {f'{result.max_drop:g} {unit}'.rstrip()} {met}: largest drop {result.worst_drop:.4g}; layers in float: "
        f"{len(kept)} of {len(layers)}",
        style="green" if result.met else "red",
    )
    for why in dict.fromkeys(layer.kept for layer in kept):
        names = [layer.name for layer in kept if layer.kept == why]
        more = f" and {len(names) - 6} more" if names[6:] else ""
        out_console.print(f"  {', '.join(names[:6])}{more}: {why}", style="dim")
    if not result.met and result.precision == "int8":
        out_console.print(
            "what may help: calibration data like those in use, more --attempts or --budget, --keep-float for layers that "
            "you know, another scheme (--scheme int8-weights loses next to nothing)"
        )


def _tabulate(bundle: Any, precision: str) -> None:
    """A row for each format of each component in fp32 and as it was made, with a column for each engine's speed."""
    several = len(bundle.manifest.components) > 1
    rows = [
        (f"{name} {v.format} {v.precision}" if several else f"{v.format} {v.precision}", v)
        for name, component in bundle.manifest.components.items()
        for v in component.variants
        if v.precision in ("fp32", precision) and v.format != "torch"
    ]
    metrics = dict.fromkeys(METRICS.get(v.quality.metric, v.quality.metric) for _, v in rows if v.quality)
    engines = dict.fromkeys(s.runtime for _, v in rows for s in v.speed)
    table = new_table("file", "KB", *([*metrics, "drop"] if metrics else ["SNR dB"]), *engines)
    for name, v in dict(rows).items():  # of several sizes the last, which is the largest
        gains = {s.runtime: f"{s.gain:.2g}×" + "\nslower" * s.slower for s in v.speed}
        quality = (
            (v.quality.figure, f"{v.quality.drop:+.3g}" if v.precision != "fp32" else "") if v.quality else ("", "")
        )
        parity = "" if v.parity is None or v.precision == "fp32" else f"{v.parity.snr_db:.0f}"
        table.add_row(name, f"{v.bytes / 1024:,.0f}", *(quality if metrics else (parity,)), *map(gains.get, engines))
    out_console.print(table)
    measured = next((v.speed[-1] for _, v in rows if v.speed), None)
    if measured is not None:
        out_console.print(f"speed beside fp32, in turns, on {conditions(measured)}", style="dim")


def _as_builtins(result: Any) -> dict[str, Any]:
    """The result as JSON has it: the manifest, and what led to it."""
    return {
        "bundle": msgspec.to_builtins(result.bundle.manifest),
        "precision": result.precision,
        "kept_float": result.kept_float,
        "corrections": result.corrections,
        "worst_drop": result.worst_drop,
        "max_drop": result.max_drop,
        "met": result.met,
        "layers": {name: [msgspec.to_builtins(layer) for layer in layers] for name, layers in result.layers.items()},
        "attempts": [msgspec.to_builtins(attempt) for attempt in result.attempts],
        "notes": list(result.notes),
    }
