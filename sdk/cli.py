"""The command line: one sub-command a verb, each importing its floor only when called."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import edgekit
from edgekit.errors import EdgekitError, ExportError, InputError

FORMATS = ("onnx", "openvino", "tflite")
out_console = Console(highlight=False)
err_console = Console(stderr=True, highlight=False)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for machines.")


class Group(click.Group):
    """Shows each command's example, and turns errors into one clear line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExportError as error:
            self._say(ctx, error)
            sys.exit(1)  # the bundle was asked for rightly, and a converter failed
        except EdgekitError as error:
            self._say(ctx, error)
            sys.exit(2)

    def _say(self, ctx: click.Context, error: EdgekitError) -> None:
        if ctx.params.get("debug"):
            raise error
        err_console.print(f"[red]error:[/] {_escaped(str(error))}", soft_wrap=True)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgekit.__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Bring trained PyTorch models to small machines, and run them there.

    \b
    Start with:
      edgekit zoo
      edgekit run sr-x2 photo.jpg -o large.png
      edgekit doctor
    """


def command(example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A sub-command whose help ends with an example."""
    return lambda function: main.command(epilog=f"\b\nExample:\n  {example}")(function)


def task_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose where and how a bundle runs."""
    options = (
        click.option(
            "--runtime", default="auto", show_default=True, help="openvino, onnxruntime, litert, torch or auto."
        ),
        click.option("--device", default="cpu", show_default=True, help="cpu, gpu, npu, gpu:1 …"),
        click.option("--precision", default="auto", show_default=True, help="fp32, int8 … or auto."),
        click.option(
            "--threads", type=click.IntRange(1, 1024), help="Engine threads; the engine's choice if left out."
        ),
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), function)


@command("edgekit zoo --json")
@json_option
def zoo(as_json: bool) -> None:
    """List the bundles that ship with edgekit."""
    from edgekit.bundle import Bundle, shipped

    bundles = [Bundle.open(folder) for folder in shipped().values()]
    rows = [_described(bundle) for bundle in bundles]
    if as_json:
        return _json(rows)
    table = _table("name", "what", "quality, fp32 → int8", "MB")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["quality"], f"{row['bytes'] / 1e6:.1f}")
    out_console.print(table)
    return None


@command("edgekit devices")
@json_option
def devices(as_json: bool) -> None:
    """List every engine × device, usable or not, with what is in the way."""
    rows = [msgspec.to_builtins(d) for d in edgekit.devices() if d.runtime != "reference"]
    if as_json:
        return _json(rows)
    table = _table("engine", "device", "name", "precisions", "")
    for row in rows:
        state = "usable" if row["usable"] else f"[yellow]{_escaped(row['why'])}[/]"
        table.add_row(row["runtime"], row["name"], row["title"], ", ".join(row["precisions"]), state)
    out_console.print(table)
    return None


@command("edgekit run sr-x2 photo.jpg -o large.png --runtime openvino --precision int8")
@click.argument("bundle")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The image file to write.")
@task_options
@json_option
def run(
    bundle: str, image: Path, out: Path, runtime: str, device: str, precision: str, threads: int | None, as_json: bool
) -> None:
    """Run a bundle's task on an image file."""
    from edgekit import images

    picture = images.read_image(image)
    task = edgekit.load(bundle, runtime, device=device, precision=precision, threads=threads)
    start = time.perf_counter()
    with _progress() as progress:
        count = task.tile_count(picture)
        bar = progress.add_task("tiles", total=count, visible=count > 1)
        result = task(picture, progress=lambda: progress.advance(bar))
    seconds = time.perf_counter() - start
    images.write_image(out, result)
    info = task.info()
    if as_json:
        return _json({"out": str(out), "shape": list(result.shape), "seconds": seconds, **info})
    placed = info["placement"]
    out_console.print(
        f"{image} ({picture.shape[1]} × {picture.shape[0]}) → {out} ({result.shape[1]} × {result.shape[0]}) in "
        f"{seconds:.2f} s on {placed['runtime']} {placed['device']} {placed['precision']} ({info['why']})",
        soft_wrap=True,
    )
    return None


@command("edgekit verify sr-x2")
@click.argument("bundle")
@json_option
def verify(bundle: str, as_json: bool) -> None:
    """Check a bundle's files, and its golden values on every engine here; exit code 1 if one is wrong."""
    from edgekit.bundle import Bundle
    from edgekit.verify import verify as check

    opened = Bundle.open(bundle)
    verdicts = list(check(opened))
    wrong = any(v.ok is False for v in verdicts)
    if as_json:
        rows = [{"runtime": v.runtime, "variant": str(v.variant), "ok": v.ok, "max_error": v.max_error, "note": v.note}
                for v in verdicts]  # fmt: skip
        _json({"bundle": opened.name, "ok": not wrong, "verdicts": rows})
    else:
        table = _table("engine", "file", "verdict", "largest error", "")
        for v in verdicts:
            verdict = {True: "[green]right[/]", False: "[red]wrong[/]", None: "not tried"}[v.ok]
            error = "" if v.max_error is None else f"{v.max_error:.1e}"
            table.add_row(v.runtime, str(v.variant), verdict, error, _escaped(v.note))
        out_console.print(table)
        files = len(opened.manifest.file_entries())
        out_console.print(
            f"{opened.name}: {files} files are those that were exported" + (", answers are not" if wrong else "")
        )
    sys.exit(1 if wrong else 0)


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
    """Measure every engine × precision: processes apart, rounds interleaved, real input."""
    from edgekit import choice
    from edgekit.benchmarks import report

    measured, opened = _measured(
        bundle,
        runtimes,
        precisions,
        size=_parse_size(size),
        image=image,
        rounds=rounds,
        seconds=seconds,
        threads=threads,
    )
    if json_out:
        measured.save(json_out)
    chosen = choice.pick(opened, "model", "auto", "cpu", "auto", {})
    rows = report.cells(measured, chosen)
    quality = next((r.quality["metric"] for r in measured.rows if r.quality), "quality")
    if md_out:
        md_out.write_text(report.markdown(rows, quality), encoding="utf-8")
    if as_json:
        return _json(msgspec.to_builtins(measured))
    title = f"{opened.name} on {measured.machine['processor']} ({measured.machine['cores']} cores), {measured.input}"
    out_console.print(report.table(rows, title, quality, out_console.width))
    out_console.print(f"auto takes {chosen.runtime} {chosen.variant.precision}: {chosen.why}", soft_wrap=True)
    best = report.fastest(measured)
    if best and not (runtimes or precisions) and best != (chosen.runtime, chosen.variant.precision):
        found = " ".join(best)
        out_console.print(f"this run found {found} fastest: `edgekit tune {bundle} --size {size}` makes auto take it")


@command("edgekit tune sr-x2")
@click.argument("bundle")
@click.option("--size", default="640x360", show_default=True, help="Width x height of the input image.")
@json_option
def tune(bundle: str, size: str, as_json: bool) -> None:
    """Measure a bundle on this machine and let `auto` choose by it from now on."""
    from edgekit.benchmarks.tuning import remember

    measured, opened = _measured(bundle, (), (), size=_parse_size(size), rounds=3, seconds=0.5)
    chosen = remember(opened, measured)
    answer = {"runtime": chosen.runtime, "precision": chosen.variant.precision, "why": chosen.why}
    if as_json:
        return _json(answer)
    out_console.print(f"auto takes {chosen.runtime} {chosen.variant.precision}: {chosen.why}", soft_wrap=True)
    return None


@command("edgekit export my_models.py:build --input image=1x3xheightxwidth --bucket height=256,width=256 -o my-model")
@click.argument("source")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@click.option("--input", "inputs", multiple=True, required=True,
              help="NAME=SHAPE of a float32 input; a word in the shape is a free dimension.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a state dict (.pth).")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Only this; all if left out.")
@click.option(
    "--bucket", "buckets", multiple=True, help="Sizes of the free dimensions for TFLite: height=256,width=256."
)
@click.option("--task", help="The task that runs the bundle, such as upscale.")
@click.option("--setting", "settings", multiple=True, help="NAME=NUMBER of the task: scale=2, halo=6.")
@json_option
def export(
    source: str, out: Path, inputs: tuple[str, ...], weights: Path | None, formats: tuple[str, ...],
    buckets: tuple[str, ...], task: str | None, settings: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Export package.module:factory or file.py:factory, a function that returns an nn.Module, to a bundle.

    Every file is run in its engine and compared with PyTorch.
    """
    from edgekit.exporters import ExportOptions
    from edgekit.exporters.sources import from_factory, from_module
    from edgekit.manifest import Task

    shapes = dict(_parse_shape(text) for text in inputs)
    sizes = [_parse_numbers(b) for b in buckets]
    module = from_factory(source, weights)
    names, arrays, dynamic = _examples(shapes, sizes)
    with _steps() as progress:
        options = ExportOptions(
            formats=formats or FORMATS,
            buckets=sizes,
            task=Task(task, _parse_numbers(",".join(settings))) if task else None,
            progress=progress,
        )
        described = from_module(module, arrays, names, dynamic)
        bundle = edgekit.export(described, out, options=options)
    _report_variants(bundle, as_json)


@command("edgekit quantize my-model --calibration photos/ --max-drop 0.15 --validation set5.zip")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--calibration", type=click.Path(path_type=Path), required=True, help="A folder or .zip of photos.")
@click.option(
    "--validation", type=click.Path(path_type=Path), help="Photos apart from the calibration's, to measure on."
)
@click.option("--max-drop", type=float, help="The most dB of PSNR that int8 may lose.")
@click.option("--keep-float", multiple=True, help="A layer's name or pattern that stays float; may be repeated.")
@click.option("--source", help="package.module:factory, where the bundle is not of a zoo network.")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights of --source.")
@json_option
def quantize(
    bundle: Path, calibration: Path, validation: Path | None, max_drop: float | None, keep_float: tuple[str, ...],
    source: str | None, weights: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Add static int8 files to a bundle, for every format that it has."""
    from edgekit.bundle import Bundle
    from edgekit.quantization import QuantizeOptions
    from edgekit.quantization.calibration import from_photos
    from edgekit.quantization.metrics import UpscalePsnr

    opened = Bundle.open(bundle)
    task = opened.manifest.task
    if max_drop is not None and (validation is None or task is None or task.name != "upscale"):
        raise InputError("--max-drop needs --validation photos and a bundle of task 'upscale', to measure PSNR")
    metric = UpscalePsnr.of_photos(validation, task.settings["scale"]) if validation and task else None
    described = _source(opened, source, weights) if source else None
    with _steps() as progress:
        options = QuantizeOptions(keep_float=keep_float, max_drop=max_drop, progress=progress)
        arrays = from_photos(calibration, opened.component().inputs)
        result = edgekit.quantize(opened, arrays, metric, source=described, options=options)
    _report_variants(result.bundle, as_json)
    if not as_json and max_drop is not None:
        met = "[green]met[/]" if result.met else "[red]not met[/]"
        kept = ", ".join(result.kept_float) or "none"
        out_console.print(
            f"target of {max_drop} dB {met}: largest drop {result.worst_drop:.3f} dB; layers in float: {kept}"
        )
    sys.exit(0 if result.met else 1)


@command("edgekit train sr-x2 --data data/ --runs runs/ -o sr-x2")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder with the recipe's data files.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Checkpoints.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
def train(name: str, data: Path, runs: Path, out: Path) -> None:
    """Train, export, quantize and measure a bundle of the zoo; an interrupted training continues."""
    from edgekit import registry

    recipe = registry.find("recipes", name)
    result = recipe.build(data, runs, out, recipe.recipe, lambda step: err_console.print(f"  {step}", style="dim"))
    _report_variants(result.bundle, False)
    sys.exit(0 if result.met else 1)


@command("edgekit doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has, what is missing, and what stands in the way."""
    from edgekit import machine
    from edgekit.doctor import findings

    facts, found = machine.facts(), findings()
    if as_json:
        return _json({"facts": facts, "findings": [msgspec.to_builtins(f) for f in found]})
    table = _table("", "")
    for key, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = (", ".join(value) or "none: int8 will gain little") if isinstance(value, list) else text
        table.add_row(key.replace("_", " "), str(text if text is not None else "unknown"))
    out_console.print(table)
    for finding in found:
        colour = {"ok": "green", "note": "yellow", "problem": "red"}[finding.level]
        out_console.print(f"[{colour}]{finding.level}[/] {_escaped(finding.text)}", soft_wrap=True)
    sys.exit(1 if any(f.level == "problem" for f in found) else 0)


def _measured(bundle: str, runtimes: Any, precisions: Any, **options: Any) -> tuple[Any, Any]:
    """The report of a measurement with a progress bar, and the opened bundle."""
    from edgekit.benchmarks import MeasureOptions, measure
    from edgekit.bundle import Bundle

    opened = Bundle.open(bundle)
    with _progress() as progress:
        bar = progress.add_task("measure", total=None)
        told = MeasureOptions(
            **options,
            progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what),
        )
        return measure(opened, runtimes, precisions, options=told), opened


def _source(bundle: Any, source: str, weights: Path | None) -> Any:
    """The module again, described as the bundle describes it."""
    from edgekit.exporters.sources import Source, from_factory

    component, golden = bundle.component(), bundle.golden()
    probes = (tuple(golden[s.name] for s in component.inputs),)
    return Source(from_factory(source, weights), component.inputs, component.outputs, probes)


def _report_variants(bundle: Any, as_json: bool) -> None:
    if as_json:
        return _json(msgspec.to_builtins(bundle.manifest))
    table = _table("file", "KB", "largest error", "SNR dB", "quality", "drop")
    for v in bundle.component().variants:
        parity = (f"{v.parity.max_error:.1e}", f"{v.parity.snr_db:.0f}") if v.parity else ("", "")
        quality = (f"{v.quality.value:.2f}", f"{v.quality.drop:+.3f}") if v.quality else ("", "")
        table.add_row(str(v), f"{v.bytes / 1024:.0f}", *parity, *quality)
    out_console.print(table)
    out_console.print(f"wrote {bundle.folder}")
    return None


def _described(bundle: Any) -> dict[str, Any]:
    variants = bundle.component().variants
    precisions = list(dict.fromkeys(v.precision for v in variants))
    best = {p: next((v.quality for v in variants if v.precision == p and v.quality), None) for p in precisions}
    values = " → ".join(f"{q.value:.2f}" for q in best.values() if q)
    metric = next((q.metric for q in best.values() if q), "")
    return {
        "name": bundle.name,
        "task": bundle.manifest.task.name if bundle.manifest.task else "",
        "summary": bundle.manifest.summary,
        "formats": list(dict.fromkeys(v.format for v in variants)),
        "precisions": precisions,
        "quality": f"{values} {metric}".strip(),
        "bytes": sum(e.bytes for e in bundle.manifest.file_entries()),
    }


def _examples(
    shapes: dict[str, list[int | str]], sizes: list[dict[str, int]]
) -> tuple[list[str], list[Any], dict[str, dict[int, str]]]:
    """Names, seeded example arrays in 0…1 and free axes of the inputs that --input describes."""
    import numpy as np

    small = min(sizes, key=lambda b: int(np.prod(list(b.values())))) if sizes else {}
    random = np.random.default_rng(0)
    arrays = [
        random.random([d if isinstance(d, int) else small.get(d, 64) for d in s], np.float32) for s in shapes.values()
    ]
    dynamic = {name: {i: d for i, d in enumerate(shape) if isinstance(d, str)} for name, shape in shapes.items()}
    return list(shapes), arrays, dynamic


def _parse_shape(text: str) -> tuple[str, list[int | str]]:
    """ "image=1x3xheightxwidth" → ("image", [1, 3, "height", "width"])."""
    name, _, shape = text.partition("=")
    parts = [part for part in shape.split("x") if part]
    if not name or not parts:
        raise InputError(f"got --input '{text}': expected NAME=SHAPE, such as image=1x3xheightxwidth")
    return name, [int(part) if part.isdecimal() else part for part in parts]


def _parse_numbers(text: str) -> dict[str, int]:
    """ "height=256,width=256" → {"height": 256, "width": 256}."""
    try:
        return {name: int(number) for name, number in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise InputError(f"got '{text}': expected NAME=NUMBER pairs, such as height=256,width=256") from None


def _parse_size(text: str) -> tuple[int, int]:
    """ "640x360" → (360, 640), as height and width."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"got --size '{text}': expected WIDTHxHEIGHT, such as 640x360")
    return int(height), int(width)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err_console, transient=True)


class _steps:  # noqa: N801  (a context manager that is called)
    """A spinner on stderr that names the step under way."""

    def __enter__(self) -> Callable[[str], None]:
        self._status = err_console.status("starting")
        self._status.start()
        return lambda step: self._status.update(step)

    def __exit__(self, *details: object) -> None:
        self._status.stop()


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 2, 0, 0), show_header=any(columns))
    for column in columns:
        table.add_column(column)
    return table


def _json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


if __name__ == "__main__":
    main()
