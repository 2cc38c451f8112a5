"""Enlarging a picture ×2 beside what people take else: PSNR on Set5 against milliseconds for 640 × 360 → 1280 × 720.

Run it with `python -m edgekit.benchmarks.peers.super_resolution --data DIR`, where set5.zip lies. ncnn and its converter
come into a Python of their own in the user's cache. It writes DATE-super-resolution.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import msgspec
import numpy as np

from edgekit import images, machine
from edgekit.benchmarks.measurement import sample_photo
from edgekit.benchmarks.peers import pictures, turns
from edgekit.benchmarks.peers.turns import Asked, Taken, Way
from edgekit.errors import EdgekitError, EngineError
from edgekit.tensors import Array

NCNN = ("ncnn==1.0.20261020", "pnnx==20261020", "numpy==2.4.6")
SCALE, HEIGHT, WIDTH = 2, 360, 640
PUBLISHED = {"FSRCNN": "(37.00 published)", "ESPCN": "–"}  # Dong et al. 2016; random weights here, for the speed alone


def ways(threads: int, scratch: Path) -> Iterator[Way]:
    """Every way that this Python has."""
    for name in ("cubic", "lanczos4"):
        yield Way(f"OpenCV {name}", f"{pictures.WAYS}:opencv", {"interpolation": name, "scale": SCALE})
    yield from pictures.ways("sr-x2", threads)
    for name in PUBLISHED:
        settings = {"runtime": "openvino", "precision": "fp32", "threads": threads}
        settings["bundle"] = str(luma_bundle(name, scratch))
        yield Way(f"{name} (by edgekit, openvino fp32)", f"{pictures.WAYS}:edgekit_", settings)


def ncnn_ways(threads: int, scratch: Path) -> Iterator[Way]:
    """The same network in ncnn, in float32 and in its own default.

    Raises:
        EngineError: it cannot be had here.
    """
    import torch

    from edgekit.runtimes.torch_ import load_module

    python = turns.python_with("ncnn", *NCNN)
    traced = scratch / "sr.pt"
    given = pictures.network("sr-x2")
    net = load_module(given["family"], given["settings"], given["path"])
    torch.jit.trace(net, torch.zeros(1, 3, HEIGHT, WIDTH)).save(str(traced))  # type: ignore[no-untyped-call]
    converter = next(Path(python).parents[1].glob("lib/python*/site-packages/pnnx/pnnx"))
    command = [str(converter), str(traced), f"inputshape=[1,3,{HEIGHT},{WIDTH}]", "fp16=0"]
    if subprocess.run(command, capture_output=True, cwd=scratch).returncode:
        raise EngineError("pnnx cannot convert the network")
    files = {"param": str(scratch / "sr.ncnn.param"), "model": str(scratch / "sr.ncnn.bin")}
    for name, half in (("ncnn fp32", False), ("ncnn 16 bits", True)):
        yield Way(name, f"{pictures.WAYS}:ncnn_", {**files, "threads": threads, "half": half}, python)


def luma_bundle(name: str, scratch: Path) -> Path:
    """A published network for luma, of random weights: for its speed alone."""
    import torch

    import edgekit
    from edgekit.exporters import ExportOptions
    from edgekit.exporters.readers.layouts import espcn, fsrcnn
    from edgekit.exporters.sources import Source

    torch.manual_seed(0)
    layout, net = {
        "FSRCNN": (fsrcnn.FSRCNN, fsrcnn.FsrcnnNet("yjn870", SCALE)),
        "ESPCN": (espcn.ESPCN, espcn.EspcnNet("pytorch-examples", SCALE, 1, "64-64-32", "5-3-3-3")),
    }[name]
    use = layout.use(net.eval())
    source = Source(net, use.inputs, use.outputs, use.probes)
    options = ExportOptions(formats=("onnx",), task=use.task)
    return edgekit.export(source, scratch / name.lower(), options=options).folder


class Set5:
    """The standard protocol: shrunk bicubically with antialiasing, PSNR of the luma, `scale` pixels shaved."""

    def __init__(self, data: Path) -> None:
        pairs = {}
        for name, photo in images.photos(data / "set5.zip"):
            height, width = (n // SCALE * SCALE for n in photo.shape[:2])
            high = np.ascontiguousarray(photo[:height, :width])
            pairs[Path(name).stem] = images.resize_bicubic(high, height // SCALE, width // SCALE), high
        self.low: Mapping[str, Array] = {name: low for name, (low, _) in pairs.items()}
        self.high = {name: high for name, (_, high) in pairs.items()}

    def psnr(self, asked: Asked) -> dict[str, float]:
        made = asked(self.low)
        values = [images.psnr_y(made[name], high, SCALE) for name, high in self.high.items()]
        return {"psnr_db": float(np.mean(values))}


def quality(row: Taken) -> str:
    """PSNR, or what was published where the weights are random."""
    return PUBLISHED.get(row.name.partition(" ")[0]) or f"{row.figures['psnr_db']:.2f}"


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The folder with set5.zip.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="For each way and round.")
@click.option("--only", multiple=True, help="Ways whose name has this; all where left out.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(data: Path, rounds: int, seconds: float, only: Sequence[str], out: Path) -> None:
    threads = machine.cores()
    photo = images.middle(images.read_image(sample_photo())[:, :, :3], HEIGHT, WIDTH)
    with tempfile.TemporaryDirectory(prefix="edgekit-peers-") as scratch:
        listed = list(ways(threads, Path(scratch)))
        try:
            listed += ncnn_ways(threads, Path(scratch))
        except EdgekitError as error:
            click.echo(f"without ncnn: {error}", err=True)
        listed = [way for way in listed if not only or any(word in way.name for word in only)]
        judge = Set5(data).psnr
        rows = turns.in_turns(
            listed, photo, rounds=rounds, seconds=seconds, judge=judge, say=lambda s: click.echo(s, err=True)
        )
    report = {"peers": {"ncnn": NCNN[0]}, "threads": threads, "rows": [msgspec.to_builtins(row) for row in rows]}
    told = pictures.table(rows, "PSNR on Set5, dB", quality)
    click.echo(told)
    click.echo(f"wrote {turns.save('super-resolution', out, report, told)}")


if __name__ == "__main__":
    main()
