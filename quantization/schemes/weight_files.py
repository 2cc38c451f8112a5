"""WeightFile: the constants of an fp32 file that layers multiply with, and the same file with smaller ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from edgekit.errors import QuantizationError
from edgekit.quantization.schemes.rounding import Form
from edgekit.tensors import Array

Kind = Literal["linear", "embedding", "convolution", "other"]
SMALL = 1024  # numbers of a constant; a smaller one is not worth its scales


class Mark(NamedTuple):
    """What tells a constant by its values, whatever their order: converters turn matrices over, and name them anew."""

    size: int
    total: int
    mixed: int

    @classmethod
    def of(cls, array: Array) -> Mark:
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32).reshape(-1)
        return cls(bits.size, int(bits.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(bits, initial=0)))


@dataclass(frozen=True)
class Constant:
    """A float32 constant of a file: `axis` counts output channels, or the rows of an embedding.

    `key` is its name in the file. `runs` are the places, among all operators, of those that take it; `shared`: an
    embedding takes it beside a product. `largest` is its largest absolute value.
    """

    key: str
    kind: Kind
    shape: tuple[int, ...]
    axis: int
    mark: Mark
    runs: tuple[int, ...] = ()
    shared: bool = False
    largest: float = 0.0

    @property
    def inner(self) -> int:
        """How many numbers an output channel has."""
        return self.mark.size // self.shape[self.axis]


class WeightFile(ABC):
    """One fp32 file."""

    format: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def constants(self) -> list[Constant]:
        """The constants of layers, those of SMALL numbers and more.

        Raises:
            QuantizationError: the file is quantized already.
        """

    @abstractmethod
    def write(self, forms: Mapping[str, Form], folder: Path, stem: str) -> Sequence[str]:
        """Write the file with these constants, by key, in other forms; the names of what is written.

        Raises:
            QuantizationError.
        """


Use = tuple[Kind, int]  # what an operator does with a constant, and the axis of its output channels
OTHER: Use = ("other", 0)


def constant_of(key: str, shape: Sequence[int], values: Array, uses: Mapping[int, Use]) -> Constant:
    """A constant by what the operators at these places do with it: "other" where they do not agree."""
    kinds, axes = {kind for kind, _ in uses.values()}, {axis for _, axis in uses.values()}
    kind: Kind = "other"
    if len(axes) == 1 and "other" not in kinds:
        kind = "linear" if "linear" in kinds else kinds.pop()
    shared = {"linear", "embedding"} <= kinds
    largest = max(float(values.max()), -float(values.min()))
    axis, places = min(axes, default=0), tuple(sorted(uses))
    return Constant(key, kind, tuple(shape), axis, Mark.of(values), places, shared, largest)


def by_channel(array: Array, axis: int) -> Array:
    """Output channels × the rest."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def refuse_quantized(path: Path, found: str) -> None:
    """Refuse a file that some tool has quantized before.

    Raises:
        QuantizationError.
    """
    raise QuantizationError(
        f"'{path.name}' is quantized already ({found}): name a bundle with an fp32 file, or export it again"
    )
