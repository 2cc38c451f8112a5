"""Upscale a photo ×2 on every engine in fp32 and int8: pictures, and one table of quality, latency and memory.

The photo is shrunk by 2 first, so that the truth is known and PSNR means something; afterwards the photo
itself is enlarged with what `auto` picks.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress

import edgekit
from edgekit import choice, images, profile
from edgekit.benchmarks import MeasureOptions, measure
from edgekit.benchmarks.cases import cases_of
from edgekit.benchmarks.measurement import sample_photo
from edgekit.benchmarks.records import Report
from edgekit.benchmarks.reports import figures, table
from edgekit.benchmarks.tuning import remember
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, ImageError
from edgekit.images import UInt8

COMPARED = 1024  # pixels a side of a large photo that are compared and measured: the middle
DETAIL = 256  # pixels of the compared detail, shown twice as large


@click.command()
@click.argument("photo", type=click.Path(path_type=Path), required=False)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option("--bundle", "name", default="sr-x2", show_default=True, help="The super-resolution bundle.")
def main(photo: Path | None, out: Path, name: str) -> None:
    """Upscale PHOTO (the one that ships where none is named) on every installed engine."""
    console = Console(highlight=False, markup=False)
    try:
        run(photo or sample_photo(), out, name, console)
    except (EdgekitError, OSError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        raise SystemExit(2) from error


def run(path: Path, out: Path, name: str, console: Console) -> Report:
    """Pictures and table; returns the measured report."""
    bundle = Bundle.open(name)
    photo = images.read_image(path)[:, :, :3]
    scale = int(bundle.manifest.task.settings["scale"]) if bundle.manifest.task else 2
    low, high = shrunk(photo, scale)
    part = f"{path.name}, its middle" if max(photo.shape) > COMPARED else path.name
    out.mkdir(parents=True, exist_ok=True)
    bicubic = images.resize_bicubic(low, *high.shape[:2])
    console.print(
        f"{part}: shrunk to {low.shape[1]} × {low.shape[0]} so that the truth is known, then enlarged and compared; "
        f"bicubic has {images.psnr_y(bicubic, high, scale):.2f} dB",
        soft_wrap=True,
    )
    quality = {}
    for case in cases_of(bundle):
        try:
            with edgekit.load(bundle, case.runtime, precision=case.precision) as upscale:
                ours = upscale(low)
        except EdgekitError as error:  # its row of the table says so too
            console.print(f"{case.runtime} {case.precision}: {error}", style="red", soft_wrap=True)
            continue
        psnr = images.psnr_y(ours, high, scale)
        quality[(case.runtime, case.precision)] = f"{psnr:.2f}"
        label = f"{bundle.name} {case.runtime} {case.precision}  {psnr:.2f} dB"
        picture = side_by_side(low, bicubic, ours, high, label, scale)
        images.write_image(out / f"{path.stem}-{case.runtime}-{case.precision}.png", picture)
    measured = _measured(bundle, low, out / f"{path.stem}-input.png", console)
    if profile.load(bundle) is None:  # the first run tunes; a later one does not undo `edgekit tune`
        remember(bundle, measured, (low.shape[0], low.shape[1]))
    chosen = choice.pick(bundle, bundle.main, "auto", "cpu", "auto", {})
    rows = figures.figures(measured, chosen, quality)
    machine = measured.machine
    title = f"{bundle.name} on {machine['processor']} ({machine['cores']} cores), {low.shape[1]} × {low.shape[0]} → ×{scale}"
    console.print(title, style="bold", soft_wrap=True)
    for named in table.tables(measured, rows):
        console.print(table.drawn(named, console.width))
    for note in figures.footnotes(measured):
        console.print(note, soft_wrap=True)
    console.print(f"auto takes {chosen.runtime} {chosen.variant.precision}: {chosen.why}")
    enlarged = edgekit.load(bundle)(photo)
    images.write_image(out / f"{path.stem}-x{scale}.png", enlarged)
    measured.save(out / f"{path.stem}.json")
    console.print(f"wrote {out}/{path.stem}-x{scale}.png ({enlarged.shape[1]} × {enlarged.shape[0]}), the comparisons "
                  f"{out}/{path.stem}-ENGINE-PRECISION.png, and the raw samples {out}/{path.stem}.json",
                  soft_wrap=True)  # fmt: skip
    return measured


def shrunk(photo: UInt8, scale: int) -> tuple[UInt8, UInt8]:
    """(low, high): the photo, or the middle of a large one, cut to a multiple of the scale; and shrunk by it."""
    top, left = (max(0, n - COMPARED) // 2 for n in photo.shape[:2])
    photo = photo[top : top + COMPARED, left : left + COMPARED]
    height, width = (n // scale * scale for n in photo.shape[:2])
    if min(height, width) < 4 * scale:
        raise ImageError(
            f"got a photo of {photo.shape[1]} × {photo.shape[0]}: expected {4 * scale} or more pixels a side"
        )
    high = np.ascontiguousarray(photo[:height, :width])
    return images.resize_bicubic(high, height // scale, width // scale), high


def side_by_side(low: UInt8, bicubic: UInt8, ours: UInt8, high: UInt8, label: str, scale: int) -> UInt8:
    """input | bicubic | ours with captions: a detail a little above the middle, every pixel shown as 2 × 2."""
    top = max(0, (high.shape[0] - DETAIL) // 5) // scale * scale
    left = max(0, (high.shape[1] - DETAIL) // 2) // scale * scale
    nearest = low.repeat(scale, axis=0).repeat(scale, axis=1)
    captions = (
        f"input {low.shape[1]} x {low.shape[0]}",
        f"bicubic  {images.psnr_y(bicubic, high, scale):.2f} dB",
        label,
    )
    panels = [
        _captioned(image[top : top + DETAIL, left : left + DETAIL].repeat(2, axis=0).repeat(2, axis=1), text)
        for image, text in zip((nearest, bicubic, ours), captions, strict=True)
    ]
    return np.concatenate(panels, axis=1)


def _captioned(image: UInt8, text: str) -> UInt8:
    cv2 = images.opencv()
    bar = np.full((28, image.shape[1], 3), 24, np.uint8)
    cv2.putText(bar, text, (8, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def _measured(bundle: Bundle, low: UInt8, path: Path, console: Console) -> Report:
    images.write_image(path, low)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("measure")
        options = MeasureOptions(
            size=None,
            image=path,
            rounds=4,
            seconds=0.8,
            progress=lambda done, total, what: progress.update(bar, completed=done, total=total, description=what),
        )
        return measure(bundle, options=options)


if __name__ == "__main__":
    main()
