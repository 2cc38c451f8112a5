"""Graph and Exporter: what every converter takes and gives, one converter a format."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch._dynamo.exc import UserError

from edgekit.errors import ExportError
from edgekit.exporters.proof.places import Place
from edgekit.exporters.sources import LONGEST, Source
from edgekit.manifest import Precision
from edgekit.tensors import Array, TensorSpec

TIMEOUT_S = 900.0
aten = torch.ops.aten
RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}
# What torch.export suggests: "height = 4*_height", "length = Dim('length', max=128)", "time = 64"
MULTIPLE = re.compile(r"^\s*(\w+) = (\d+)\*_\w+", re.MULTILINE)
CONSTANT = re.compile(r"^\s*(\w+) = \d+$", re.MULTILINE)
BOUNDED = re.compile(r"^\s*(\w+) = Dim\('\w+'(?:, min=(\d+))?(?:, max=(\d+))?\)", re.MULTILINE)


@dataclass(frozen=True)
class Free:
    """The sizes that a free dimension is traced for: multiples of a factor, from the smallest to the largest."""

    low: int
    high: int
    factor: int = 1

    def told(self, name: str) -> Any:
        """As torch.export is told of it."""
        if self.factor == 1:
            return torch.export.Dim(name, min=self.low, max=self.high)
        return self.factor * torch.export.Dim(f"_{name}", min=-(-self.low // self.factor), max=self.high // self.factor)

    def suggested(self, name: str, error: str) -> Free:
        """As the network has it, by what torch.export suggests: sizes that it halves twice, say, are multiples of 4."""
        factor = next((int(n) for found, n in MULTIPLE.findall(error) if found == name), self.factor)
        low, high = self.low, self.high
        for found, least, most in BOUNDED.findall(error):
            if found in (name, f"_{name}"):
                times = factor if found != name else 1
                low, high = max(low, int(least or 0) * times), min(high, int(most or high) * times)
        return Free(low, high, factor)


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
    def untraced(self) -> set[str]:
        """Free dimensions that torch.export makes constants of, as it does of the steps of recurrent layers, whose
        operators take any number: what comes of that is compared at other sizes.
        """
        found: set[str] = self.memo.setdefault("untraced", set())
        return found

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
        free = {name: Free(*self._bounds(name)) for name in names}
        while True:
            try:
                tensors = self._tensors({**self._traced(names), **sizes})
                return torch.export.export(self.module, tensors, dynamic_shapes=self._nested(free))
            except UserError as error:
                steps = set(CONSTANT.findall(str(error))) & set(free) if recurrent(self.module) else set()
                asked = {n: d.suggested(n, str(error)) for n, d in free.items() if n not in steps}
                if asked == free:
                    raise
                for name in (n for n in asked if asked[n].high < free[n].high):
                    self.progress(f"{name} is at most {asked[name].high} in this network …")
                self.untraced.update(steps)
                free = asked

    def _traced(self, names: Iterable[str]) -> dict[str, int]:
        """Sizes to trace free dimensions with, where the probes' are too small: of 1 torch.export makes a constant."""
        first = self.source.first_sizes
        return {n: low for n in names if first[n] < (low := max(2, self._bounds(n)[0]))}

    def _bounds(self, name: str) -> tuple[int, int]:
        """The smallest and the largest size that a free dimension is traced for."""
        sides = {d for s in self.inputs for letter, d in zip(s.layout or "", s.shape, strict=False) if letter in "HW"}
        return self.source.bounds.get(name, (8 if name in sides else 2, LONGEST))

    def _tensors(self, sizes: Mapping[str, int]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(a.copy()) for a in self.example(sizes))

    def _nested(self, free: Mapping[str, Free]) -> tuple[Any, ...] | None:
        """Those of `_dims`, with what `*args` of forward collects as one tuple."""
        dims = self._dims(free)
        kinds = [p.kind for p in inspect.signature(self.module.forward).parameters.values()]
        if dims is None or inspect.Parameter.VAR_POSITIONAL not in kinds:
            return dims
        rest = kinds.index(inspect.Parameter.VAR_POSITIONAL)
        return (*dims[:rest], dims[rest:])

    def _dims(self, free: Mapping[str, Free]) -> tuple[dict[int, Any], ...] | None:
        """What torch.export is told of the free dimensions, by input and axis."""
        if not free:
            return None
        dims = {name: dimension.told(name) for name, dimension in free.items()}
        return tuple(
            {axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str) and d in dims}
            for spec in self.inputs
        )


def recurrent(module: nn.Module) -> bool:
    """Whether a module, or a traced graph, has recurrent layers as one operator."""
    graphs = (m.graph for m in module.modules() if isinstance(m, fx.GraphModule))
    traced = any(node.target in RECURRENT for graph in graphs for node in graph.nodes)
    return traced or any(isinstance(m, nn.RNNBase) for m in module.modules())


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
