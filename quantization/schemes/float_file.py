"""FloatFile: a converted file in float, and the tool of its format that makes int8 of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from edgekit.errors import QuantizationError
from edgekit.exporters.proof.places import last_line
from edgekit.exporters.readers import inspection
from edgekit.quantization.schemes.scheme import Layer
from edgekit.tensors import Array

Inputs = Sequence[tuple[Array, ...]]
ALIKE = 1e-4  # converters fold norms each in their own order
SIGNS = ("quantize", "integer", "qlinear", "matmulnbits")  # of operators that only quantized files have


class FloatFile(ABC):
    """One file. Layers are nodes with weights, by the names that the file has for them.

    Only convolutions and linear layers become int8, each with the ReLU that follows: what lies between stays float,
    in every format alike, which keeps residuals, norms and attention exact, and lets the engines agree. Ranges are
    the least and the largest value seen, weights symmetric per channel, activations affine per tensor.
    """

    tool: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        facts = inspection.inspect(path)
        found = {k: n for k, n in facts.operators.items() if any(sign in k.lower() for sign in SIGNS)}
        if facts.precision not in ("fp32", "fp16"):
            signs = ", ".join(f"{n} × {kind}" for kind, n in found.items()) or f"{facts.precision} weights"
            raise QuantizationError(
                f"'{path.name}' is quantized already ({facts.precision}: {signs}): int8 is made from the float model"
            )
        self.precision = facts.precision

    @abstractmethod
    def layers(self) -> list[Layer]:
        """Nodes with weights, in the order they run; `kept` says why the tool leaves one in float."""

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """The weights of the layers, in whatever order of axes; those of large files may be missing."""

    @abstractmethod
    def quantize(self, inputs: Inputs, keep: Collection[str], folder: Path, stem: str) -> tuple[str, ...]:
        """Write the int8 file.

        Args:
            inputs: real ones, in the order and with the layout, dtype and sizes of the file's own.
            keep: names of layers that stay float.

        Returns:
            The names of the files in `folder`, the one to open first.

        Raises:
            QuantizationError: the tool refuses. NotInstalled.
        """

    def same(self, names: Collection[str], other: FloatFile) -> list[str]:
        """This file's names of layers that another file of the same network has under these names: those of the same
        weights, as a sum and a sum of squares tell them, which no order of axes changes.
        """
        wanted = [_print(w) for name, w in other.weights().items() if name in names]
        return [
            name
            for name, w in self.weights().items()
            if any(n == w.size and np.allclose(sums, _print(w)[1], rtol=ALIKE) for n, sums in wanted)
        ]

    def refused(self, error: Exception) -> QuantizationError:
        """An error of the tool, in our words."""
        return QuantizationError(f"{self.tool} cannot make int8 of '{self.path.name}': {last_line(error, 300)}")


def _print(weights: Array) -> tuple[int, list[float]]:
    exact = np.abs(weights.astype(np.float64))
    return weights.size, [float(exact.sum()), float((exact**2).sum())]
