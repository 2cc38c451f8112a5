"""Graph and Exporter: what every converter takes and gives, one converter a format."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from torch._dynamo.exc import UserError

from edgekit.errors import ExportError
from edgekit.exporters.proof.places import Place
from edgekit.exporters.sources import Source
from edgekit.manifest import Precision
from edgekit.tensors import Array, TensorSpec

TIMEOUT_S = 900.0
MULTIPLE = re.compile(r"^\s*(\w+) = (\d+)\*_\w+", re.MULTILINE)  # torch.export's suggestion: height = 4*_height


@dataclass(frozen=True)
class Graph:
    """A module to convert, its border, the precision of its quantization nodes, and its component's name.

    `progress` is told what goes on within a conversion, in lines that end with "…"; `timeout_s` is the most
    that a conversion in a process of its own may take. `memo` keeps what several formats share.
    """

    module: nn.Module
    source: Source
    precision: Precision = "fp32"
    component: str = "model"
    progress: Callable[[str], None] = field(default=lambda step: None, compare=False)
    timeout_s: float = TIMEOUT_S
    memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.source.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.source.outputs

    def example(self, sizes: Mapping[str, int]) -> tuple[Array, ...]:
        """Inputs to trace with."""
        return self.source.fitted_probes(sizes)[0]

    def program(self, sizes: Mapping[str, int] | None = None) -> torch.export.ExportedProgram:
        """torch.export of the module, its named dimensions free unless `sizes` fixes them; traced once.

        The bounds are for the tracing alone: sides of pictures begin at 8, so that a network may halve them
        three times without a size of 1 in between, which torch.export takes for a special case.
        """
        key = f"program {sorted((sizes or {}).items())}"
        if key not in self.memo:
            self.memo[key] = self._captured(sizes or {})
        program: torch.export.ExportedProgram = self.memo[key]
        return program

    def _captured(self, sizes: Mapping[str, int]) -> torch.export.ExportedProgram:
        names = {d for s in self.inputs for d in s.shape if isinstance(d, str) and d not in sizes}
        factors = dict.fromkeys(names, 1)
        while True:
            try:
                return torch.export.export(self.module, self._tensors(sizes), dynamic_shapes=self._nested(factors))
            except UserError as error:
                wanted = {name: int(n) for name, n in MULTIPLE.findall(str(error)) if name in names}
                if all(factors[name] == n for name, n in wanted.items()):
                    raise
                factors |= wanted  # sizes that the network can halve twice, say, are multiples of 4

    def _tensors(self, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(a.copy()) for a in self.example(sizes))

    def _nested(self, factors: Mapping[str, int]) -> tuple[Any, ...] | None:
        """Those of `_dims`, with what `*args` of forward collects as one tuple."""
        dims = self._dims(factors)
        kinds = [p.kind for p in inspect.signature(self.module.forward).parameters.values()]
        if dims is None or inspect.Parameter.VAR_POSITIONAL not in kinds:
            return dims
        rest = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*dims[:rest], dims[rest:])

    def _dims(self, factors: Mapping[str, int]) -> tuple[dict[int, Any], ...] | None:
        """What torch.export is told of the free dimensions, each a multiple of its factor."""
        if not factors:
            return None
        sides = {d for s in self.inputs if s.layout for d in s.shape}
        dims = {}
        for name, factor in factors.items():
            low, high = self.source.bounds.get(name, (8 if name in sides else 2, 2**15))
            whole = torch.export.Dim(name if factor == 1 else f"_{name}", min=-(-low // factor), max=high // factor)
            dims[name] = whole if factor == 1 else factor * whole
        return tuple(
            {axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str) and d in dims}
            for spec in self.inputs
        )


@dataclass(frozen=True)
class Written:
    """The files that a converter wrote, the one to open first, and their tensors."""

    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Refused(ExportError):
    """A converter refused a graph; `place` is what its error speaks of, as far as that can be told."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.place = place or Place()


class Exporter(ABC):
    """Converts graphs to one format; `fixed` formats need every dimension's size."""

    format: ClassVar[str]
    fixed: ClassVar[bool]

    @abstractmethod
    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        """Write the graph to `folder`, file names beginning with `stem`.

        Raises:
            Refused: the converter's own message and place; `diagnosis.explained` makes an answer of it.
            ExportError: it crashed or took too long, or sizes are missing. NotInstalled.
        """
