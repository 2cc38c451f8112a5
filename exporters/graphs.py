"""Graph and Exporter: what every converter takes and gives, one converter a format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from edgekit.exporters.sources import Source
from edgekit.manifest import Precision
from edgekit.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Graph:
    """A module to convert, its border, the precision of its quantization nodes, and its component's name."""

    module: nn.Module
    source: Source
    precision: Precision = "fp32"
    component: str = "model"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.source.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.source.outputs

    def example(self, sizes: Mapping[str, int]) -> tuple[Array, ...]:
        """Inputs to trace with."""
        return self.source.fitted_probes(sizes)[0]


@dataclass(frozen=True)
class Written:
    """The files that a converter wrote, the one to open first, and their tensors."""

    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Exporter(ABC):
    """Converts graphs to one format; `fixed` formats need every dimension's size."""

    format: ClassVar[str]
    fixed: ClassVar[bool]

    @abstractmethod
    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        """Write the graph to `folder`, file names beginning with `stem`.

        Raises:
            ExportError: the converter refused; names the format and the cause. NotInstalled.
        """
