"""What the host makes: export, train, build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

import edgekit
from edgekit import asking
from edgekit.cli.show import (
    command,
    conditions,
    err_console,
    json_option,
    new_table,
    out_console,
    parse_numbers,
    print_json,
    speeds,
    steps,
)
from edgekit.errors import ExportError

FORMATS = ("onnx", "openvino", "tflite")


@command("edgekit export my_models.py:build --input image=1x3x64x64 --dynamic image:2=height,3=width -o my-model")
@click.argument("source")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The bundle's folder; named after SOURCE if left out."
)
@click.option("--input", "inputs", multiple=True,
              help="NAME=SHAPE of an input, float32 or another dtype: image=1x3x64x64, tokens=1x16:int64. "
                   "A word in the shape is a free dimension; of several components: encoder/image=1x1x28x28.")  # fmt: skip
@click.option("--example", "examples", multiple=True, help="NAME=FILE with a real value: a picture, or .npy.")
@click.option("--dynamic", multiple=True, help="Free dimensions by input and axis: image:2=height,3=width.")
@click.option("--bucket", "buckets", multiple=True,
              help="Sizes of the free dimensions where files have them fixed (TFLite): height=256,width=256.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors, or a state dict (.pth), for a factory.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Only this; all if left out.")
@click.option(
    "--task", help="The task that runs the bundle: upscale, stylize, classify, generate, autoencode, diffuse, text."
)
@click.option("--setting", "settings", multiple=True,
              help="NAME=VALUE of the task, as JSON or text: scale=2; labels=@names.txt takes a file's lines. "
                   "What the network tells itself may be left out.")  # fmt: skip
@click.option("--layout", "layouts", multiple=True, help="NAME=NCHW or NAME=NHWC of an image tensor.")
@click.option("--range", "ranges", multiple=True, help="NAME=LOW,HIGH: the values of black and white; 0,1 if left out.")
@click.option("--mean", help="What the network's images are normalised by, a number a channel: 0.485,0.456,0.406.")
@click.option("--std", help="The same for the deviation.")
@click.option("--tolerance", type=float, help="Largest absolute error from the original in fp32; 1e-4 if left out.")
@click.option("--timeout", type=float, default=1800.0, show_default=True, help="Seconds that a converter may take.")
@click.option("--licence", default="", help="Of the weights, to be stated in the bundle.")
@json_option
def export(
    source: str, out: Path | None, inputs: tuple[str, ...], examples: tuple[str, ...], dynamic: tuple[str, ...],
    buckets: tuple[str, ...], weights: Path | None, formats: tuple[str, ...], task: str | None,
    settings: tuple[str, ...], timeout: float, as_json: bool, **said: Any,
) -> None:  # fmt: skip
    """Export a model to a bundle, every file run in its engine and compared.

    \b
    SOURCE is one of
      my_models.py:build, package.module:build   a function that returns an nn.Module, with --input
      model.pt2                                  an exported program of PyTorch
      realesr-general-x4v3.pth                   weights of a published network, known by their keys
      model.onnx, model.tflite, model.xml        a converted model, wrapped and compared between engines
      folder/ or org/name                        a causal language model of Hugging Face, or a diffusers pipeline

    A format that fails is named with its cause; the others are written, and the exit code is 1.
    """
    asking.require_model_file(source)
    from edgekit.cli import described
    from edgekit.exporters import ExportOptions
    from edgekit.manifest import Task

    sizes = [parse_numbers(b) for b in buckets]
    told = described.pairs(settings, described.value)
    ranges = described.pairs(said["ranges"], described.bounds)
    model = described.inputs(inputs, examples, dynamic, sizes, ranges)
    wanted = formats or FORMATS
    with steps(len(wanted) + max(0, len(sizes) - 1) * ("tflite" in wanted)) as progress:
        options = ExportOptions(
            formats=wanted,
            names=model.names,
            layouts=described.pairs(said["layouts"], described.layout),
            ranges=ranges,
            mean=described.numbers(said["mean"] or ""),
            std=described.numbers(said["std"] or ""),
            buckets=sizes,
            tolerance=said["tolerance"],
            timeout_s=timeout,
            task=Task(task, told) if task else None,
            settings=told,
            licence=said["licence"],
            progress=progress,
        )
        out = out or Path(described.bundle_name(source))
        try:
            bundle = edgekit.export(source, out, model.arrays, dynamic=model.dynamic, weights=weights, options=options)
        except ExportError as error:
            if error.bundle is not None and not as_json:
                report_variants(error.bundle, False)
            raise
    report_variants(bundle, as_json)
    made = {v.format for c in bundle.manifest.components.values() for v in c.variants}
    if not as_json and (left := [name for name in wanted if name not in made]):
        out_console.print(
            f"no {' and '.join(left)}: from {Path(source).suffix} files they are not made; PyTorch's are", style="dim"
        )


@command("edgekit train sr-x2 --data data/ --runs runs/ -o sr-x2")
@click.argument("name")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The folder with the recipe's data files.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Checkpoints.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@click.option("--qat", is_flag=True, help="Make int8 from weights that are fine-tuned for it; fp32 stays as trained.")
def train(name: str, data: Path, runs: Path, out: Path, qat: bool) -> None:
    """Train, export and quantize a bundle of the zoo.

    An interrupted training continues from its checkpoint.
    """
    from edgekit import registry
    from edgekit.zoo.recipe import Place

    recipe = registry.find("recipes", name)
    place = Place(runs, out, lambda step: err_console.print(f"  {step}", style="dim"), qat)
    result = recipe.build(data, recipe.recipe, place)
    report_variants(result.bundle, False)
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
    report_variants(made, as_json)


def report_variants(bundle: Any, as_json: bool) -> None:
    """Every file of a bundle with its errors, quality and speed; the manifest where JSON is asked for."""
    if as_json:
        print_json(msgspec.to_builtins(bundle.manifest))
        return
    against = {v.parity.reference for c in bundle.manifest.components.values() for v in c.variants if v.parity}
    measured = any(v.quality for c in bundle.manifest.components.values() for v in c.variants)
    timed = any(v.speed for c in bundle.manifest.components.values() for v in c.variants)
    more = [*(["quality", "drop"] if measured else []), *(["beside fp32"] if timed else [])]
    table = new_table("file", "KB", "largest error", "relative", "SNR dB", *more)
    several = len(bundle.manifest.components) > 1
    for name, v in ((n, v) for n, c in bundle.manifest.components.items() for v in c.variants):
        quality = (f"{v.quality.value:.2f}", f"{v.quality.drop:+.3f}") if v.quality else ("", "")
        cells = (
            f"{v.bytes / 1024:,.0f}",
            *_parity(v.parity),
            *(quality if measured else ()),
            *((speeds(v),) if timed else ()),
        )
        table.add_row(f"{name} {v}" if several else str(v), *cells)
    out_console.print(table)
    if against:
        beside = " and ".join("PyTorch in fp32" if name == "torch" else name for name in sorted(against))
        out_console.print(f"each file ran in its engine, beside {beside}", style="dim")
    fast = next((v.speed[-1] for c in bundle.manifest.components.values() for v in c.variants if v.speed), None)
    if fast:
        out_console.print(f"speed: beside fp32, in turns, on {conditions(fast)}", style="dim")
    out_console.print(f"wrote {bundle.folder}")


def _parity(parity: Any) -> tuple[str, str, str]:
    """Largest error, the same as a part of the largest value, and SNR, as the table has them."""
    if parity is None:
        return "", "", ""
    relative = f"{parity.relative:.1e}" if parity.relative is not None else ""
    return f"{parity.max_error:.1e}", relative, "equal" if parity.snr_db >= 999 else f"{parity.snr_db:.0f}"
