"""The report of a quantization: one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgekit.errors import InputError
from edgekit.quantization.report import drawing
from edgekit.quantization.report.page import Page, page
from edgekit.quantization.report.samples import Given, samples
from edgekit.tensors import Array

if TYPE_CHECKING:
    from edgekit.quantization import Quantized


@dataclass(frozen=True)
class ReportOptions:
    """`calibration` and `validation` say in words what the data were; `inputs` are the calibration's, by component.

    Some of them are what a classifier and an autoencoder are shown with, golden values where there are none;
    `image` is the photo that an upscaler and a stylizer get, None for the one that ships. `progress` is told each
    step.
    """

    calibration: str = ""
    validation: str = ""
    inputs: Mapping[str, Sequence[tuple[Array, ...]]] = field(default_factory=dict)
    image: str | Path | None = None
    progress: Callable[[str], None] = lambda step: None


def write(path: str | Path, quantized: Quantized, options: ReportOptions = ReportOptions()) -> Path:
    """Write the page of a quantization; what an engine cannot show is said in its place.

    Raises:
        InputError: there is no such folder. OSError: the file cannot be written.
    """
    path = Path(path)
    refuse_unwritable(path)
    given = Given(options.inputs, options.image, options.progress)
    data = page(quantized, samples(quantized.bundle, quantized.precision, given), _words(options))
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(rendered(data), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def refuse_unwritable(path: str | Path) -> None:
    """Refuse a place for the page before the work that it tells of.

    Raises:
        InputError: it is a folder, or lies in none.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise InputError(f"cannot write the report '{path}': {reason}")


def rendered(data: Page) -> str:
    """The page as HTML; every text in it is escaped, as a bundle's words are its maker's."""
    environment = Environment(
        loader=PackageLoader("edgekit.quantization.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"ms": drawing.ms, "kb": drawing.kb, "db": drawing.db, "signed": drawing.signed}
    environment.globals |= {"bar": drawing.bar, "strip": drawing.strip}
    return environment.get_template("page.html").render(page=data)


def _words(options: ReportOptions) -> dict[str, str]:
    """What the data were, and how many inputs of each component were taken."""
    counts = {name: len(found) for name, found in options.inputs.items()}
    if len(counts) == 1:
        told = f"{next(iter(counts.values()))} inputs"
    else:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
    calibrated = ": ".join(part for part in (options.calibration, told) if part)
    return {k: v for k, v in (("calibrated on", calibrated), ("quality measured on", options.validation)) if v}
