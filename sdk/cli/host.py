"""What the host makes: export, quantize, train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import edgekit
from edgekit.cli.show import (
    command,
    err_console,
    json_option,
    new_table,
    out_console,
    parse_numbers,
    parse_shape,
    print_json,
    steps,
)
from edgekit.errors import InputError

FORMATS = ("onnx", "openvino", "tflite")


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
    """Export a PyTorch module to a bundle.

    SOURCE is package.module:factory or file.py:factory, a function that returns an nn.Module. Every file is run in its engine and compared with PyTorch.
    """
    from edgekit.exporters import ExportOptions
    from edgekit.exporters.sources import from_factory, from_module
    from edgekit.manifest import Task

    shapes = dict(parse_shape(text) for text in inputs)
    sizes = [parse_numbers(b) for b in buckets]
    module = from_factory(source, weights)
    names, arrays, dynamic = _examples(shapes, sizes)
    wanted = formats or FORMATS
    files = len(wanted) + max(0, len(sizes) - 1) * ("tflite" in wanted)
    with steps(files) as progress:
        options = ExportOptions(
            formats=wanted,
            buckets=sizes,
            task=Task(task, parse_numbers(",".join(settings))) if task else None,
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
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Another folder to write; its own if left out.")
@click.option("--keep-float", multiple=True, help="A layer's name or pattern that stays float; may be repeated.")
@click.option("--source", help="package.module:factory, where the bundle is not of a zoo network.")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights of --source.")
@json_option
def quantize(
    bundle: Path, calibration: Path, validation: Path | None, max_drop: float | None, keep_float: tuple[str, ...],
    source: str | None, weights: Path | None, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Add static int8 files to a bundle, in every format."""
    from edgekit.bundle import Bundle
    from edgekit.quantization import QuantizeOptions
    from edgekit.quantization.calibration import from_photos
    from edgekit.quantization.metrics.pictures import UpscalePsnr

    opened = Bundle.open(bundle)
    task = opened.manifest.task
    if validation is not None and (task is None or task.name != "upscale"):
        raise InputError("--validation measures PSNR, and needs a bundle of task 'upscale'")
    if max_drop is not None and validation is None:
        raise InputError("--max-drop needs --validation: photos to measure PSNR on")
    metric = UpscalePsnr.of_photos(validation, task.settings["scale"]) if validation and task else None
    described = _source(opened, source, weights) if source else None
    variants = [v for v in opened.component().variants if v.precision == "fp32"]
    formats = {v.format for v in variants}
    files = sum(v.format != "torch" for v in variants)
    with steps(files + (2 * len(formats) if metric else 0)) as progress:
        options = QuantizeOptions(keep_float=keep_float, max_drop=max_drop, progress=progress)
        arrays = from_photos(calibration, opened.component().inputs)
        result = edgekit.quantize(opened, arrays, metric, source=described, out=out, options=options)
    _report_variants(result.bundle, as_json)
    if not as_json and max_drop is not None:
        met = "met" if result.met else "not met"
        kept = ", ".join(result.kept_float) or "none"
        out_console.print(
            f"target of {max_drop} dB {met}: largest drop {result.worst_drop:.3f} dB; layers in float: {kept}",
            style="green" if result.met else "red",
        )
    sys.exit(0 if result.met else 1)


@command("edgekit train sr-x2 --data data/ --runs runs/ -o sr-x2")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder with the recipe's data files.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Checkpoints.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
def train(name: str, data: Path, runs: Path, out: Path) -> None:
    """Train, export and quantize a bundle of the zoo.

    An interrupted training continues from its checkpoint.
    """
    from edgekit import registry

    recipe = registry.find("recipes", name)
    result = recipe.build(data, runs, out, recipe.recipe, lambda step: err_console.print(f"  {step}", style="dim"))
    _report_variants(result.bundle, False)
    sys.exit(0 if result.met else 1)


@command("edgekit build sr-x2 -o sr-x2-all")
@click.argument("bundle")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The folder of the larger bundle.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Only this; all if left out.")
@json_option
def build(bundle: str, out: Path, formats: tuple[str, ...], as_json: bool) -> None:
    """Make the files that a shipped bundle leaves out.

    Shipped bundles hold ONNX files, which OpenVINO reads too, and int8 TFLite files. This adds OpenVINO's own files and fp32 TFLite files, from the weights that the bundle carries; each is run in its engine and compared with PyTorch.
    """
    from edgekit.exporters.completion import complete

    with steps(4) as progress:
        made = complete(bundle, out, formats or FORMATS, progress)
    _report_variants(made, as_json)


def _source(bundle: Any, source: str, weights: Path | None) -> Any:
    """The module again, described as the bundle describes it."""
    from edgekit.exporters.sources import Source, from_factory

    component, golden = bundle.component(), bundle.golden()
    probes = (tuple(golden[s.name] for s in component.inputs),)
    return Source(from_factory(source, weights), component.inputs, component.outputs, probes)


def _report_variants(bundle: Any, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(bundle.manifest))
        return
    table = new_table("file", "KB", "largest error", "SNR dB", "quality", "drop")
    several = len(bundle.manifest.components) > 1
    for name, v in ((n, v) for n, c in bundle.manifest.components.items() for v in c.variants):
        parity = (f"{v.parity.max_error:.1e}", f"{v.parity.snr_db:.0f}") if v.parity else ("", "")
        quality = (f"{v.quality.value:.2f}", f"{v.quality.drop:+.3f}") if v.quality else ("", "")
        table.add_row(f"{name} {v}" if several else str(v), f"{v.bytes / 1024:.0f}", *parity, *quality)
    out_console.print(table)
    out_console.print(f"wrote {bundle.folder}")
    return


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
