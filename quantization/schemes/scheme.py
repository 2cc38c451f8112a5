"""Scheme and Job: what every way to make a component small takes and gives, for every format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar

from edgekit.errors import QuantizationError
from edgekit.exporters.sources import Source
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Component, Precision, Variant
from edgekit.tensors import Array

Calibration = Sequence[tuple[Array, ...]]
ASKED = "asked for"  # why a layer is kept that the caller named


@dataclass(frozen=True)
class Job:
    """One component to make small.

    `source` is the PyTorch network, None where the bundle was made from a converted file; `corrected` the network
    whose weights are rounded, the same function in fp32. `files` is the folder with the component's fp32 files.
    `keep_float` are shell patterns of layers, in the names of the source, that stay float. Results are compared with
    `source`.
    """

    name: str
    component: Component
    files: Path
    source: Source | None = None
    corrected: Source | None = None
    calibration: Calibration = ()
    keep_float: tuple[str, ...] = ()

    def keeps(self, layer: str) -> bool:
        """Whether a layer stays float."""
        return any(fnmatchcase(layer, pattern) for pattern in self.keep_float)

    def fp32(self, format: str, sizes: Mapping[str, int] | None = None) -> Path:
        """The component's fp32 file of a format, at these sizes where its files have fixed ones.

        Raises:
            QuantizationError: there is none.
        """
        for variant in self.component.variants:
            if (variant.format, variant.precision) == (format, "fp32") and (not sizes or variant.sizes == dict(sizes)):
                return self.files / variant.path
        raise QuantizationError(f"'{self.name}' has no fp32 {format} file: export it first, or name its --source")


@dataclass(frozen=True)
class Layer:
    """A layer as quantization sees it.

    `noise_db` is how far above the noise it causes the network's output lies (SNR in dB: the lowest errs most),
    `low` and `high` the calibrated range of its output, `kept` why it stayed float, empty where it did not.
    """

    name: str
    noise_db: float | None = None
    low: float | None = None
    high: float | None = None
    kept: str = ""


class Scheme(ABC):
    """Makes files of one precision; the same rounding of the same layers in every format."""

    precision: ClassVar[Precision]
    calibrated: ClassVar[bool]  # whether it needs real inputs

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def layers(self) -> list[Layer]:
        """The layers that can be made small, in the order they run, and those that stay float with the reason."""

    @abstractmethod
    def write(self, format: str, stage: Path, options: ExportOptions) -> list[Variant]:
        """Write the component's files of a format to `stage`, one a bucket where sizes are fixed; each is compared.

        Raises:
            QuantizationError: nothing is left to quantize, or the format has no such precision, and what has.
            ExportError: a converter or an engine refuses.
        """
