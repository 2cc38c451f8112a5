"""What it takes to be there at all: from the start of the process to the first enlarged picture, memory, and megabytes to install.

Run it with `python -m edgekit.benchmarks.peers.startup`. Each way enlarges the same picture (256 × 256, ×2) in a process of
its own, started anew every round, in turns. Sizes are of the packages that a way imports from, with all that these require.
It writes DATE-startup.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click
import msgspec
import numpy as np
from packaging.requirements import Requirement

from edgekit import images
from edgekit.benchmarks.measurement import sample_photo
from edgekit.benchmarks.peers import pictures, super_resolution, turns
from edgekit.benchmarks.peers.turns import Taken, Way
from edgekit.errors import EdgekitError

SIDE, THREADS, BUNDLE = 256, 1, "sr-x2"
IMAGE = ("opencv-python-headless",)


def ways() -> Iterator[tuple[Way, Sequence[str]]]:
    """The ways, and the packages that are asked for by name."""
    for runtime, package in (("litert", "ai-edge-litert"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")):
        settings = {"bundle": BUNDLE, "runtime": runtime, "precision": "int8", "threads": THREADS}
        yield Way(f"edgekit, {runtime} int8", f"{pictures.WAYS}:edgekit_", settings), ("edgekit", package, *IMAGE)
    plain = {"path": str(pictures.weights(BUNDLE, "onnx", "int8")), "threads": THREADS}
    yield Way("ONNX Runtime + NumPy, int8", f"{pictures.WAYS}:onnxruntime_", plain), ("onnxruntime", "numpy")
    eager = {**pictures.network(BUNDLE), "threads": THREADS}
    yield Way("PyTorch eager", f"{pictures.WAYS}:pytorch", eager), ("torch", "numpy")
    cubic = {"interpolation": "cubic", "scale": 2}
    yield Way("OpenCV cubic", f"{pictures.WAYS}:opencv", cubic), IMAGE


def installed_mb(names: Sequence[str]) -> float:
    """MB on disk of these packages with all that they require here."""
    sizes: dict[str, float] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform, or an extra
        key = found.metadata["Name"].lower()
        if key in sizes:
            continue
        paths = (Path(str(found.locate_file(f))) for f in found.files or ())
        sizes[key] = sum(p.stat().st_size for p in paths if p.is_file() and p.suffix != ".pyc") / 1e6
        wanted = (Requirement(r) for r in found.requires or ())
        pending += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return sum(sizes.values())


def unpacked_mb(python: str) -> float:
    """MB on disk of what a Python of its own has, without pip and the converter."""
    site = next(Path(python).parents[1].glob("lib/python*/site-packages"))
    without = ("pip", "setuptools", "pnnx", "_distutils_hack", "pkg_resources")
    folders = (p for p in site.iterdir() if not p.name.startswith(without))
    files = (f for p in folders for f in (p.rglob("*") if p.is_dir() else (p,)))
    return sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc") / 1e6


def table(rows: Mapping[str, Sequence[Taken]], sizes: Mapping[str, float]) -> str:
    """As Markdown: medians of all starts."""
    lines = ["| way | first picture, ms | processor ms | peak MB | installed MB |", "| --- | --- | --- | --- | --- |"]
    for name, starts in rows.items():
        whole = [start for start in starts if not start.error]
        if not whole:
            lines.append(f"| {name} | failed: {starts[0].error[:160]} | | | {sizes[name]:.0f} |")
            continue
        figures = [
            np.median([getattr(s, f"start_{what}") for s in whole]) for what in ("ms", "processor_ms", "peak_mb")
        ]
        lines.append(f"| {name} | {' | '.join(f'{f:.0f}' for f in figures)} | {sizes[name]:.0f} |")
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--rounds", default=9, show_default=True)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(rounds: int, out: Path) -> None:
    photo = images.middle(images.read_image(sample_photo())[:, :, :3], SIDE, SIDE)
    with tempfile.TemporaryDirectory(prefix="edgekit-peers-") as scratch:
        found = list(ways())
        listed, sizes = [way for way, _ in found], {way.name: installed_mb(names) for way, names in found}
        try:
            for way in super_resolution.ncnn_ways(THREADS, Path(scratch)):
                listed.append(way)
                sizes[way.name] = unpacked_mb(way.python)
        except EdgekitError as error:
            click.echo(f"without ncnn: {error}", err=True)
        rows: dict[str, list[Taken]] = {way.name: [] for way in listed}
        for _ in range(rounds + 1):  # the first fills the caches of the disk
            for way in listed:
                rows[way.name].append(turns.started(way, photo))
    taken = {name: starts[1:] for name, starts in rows.items()}
    report = {"installed_mb": sizes, "starts": {n: [msgspec.to_builtins(s) for s in t] for n, t in taken.items()}}
    told = table(taken, sizes)
    click.echo(told)
    click.echo(f"wrote {turns.save('startup', out, report, told)}")


if __name__ == "__main__":
    main()
