"""Ranges: what the tensors of a network hold in calibration, and the int8 steps that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from edgekit.errors import QuantizationError
from edgekit.exporters.quiet import quiet
from edgekit.quantization.schemes import operators
from edgekit.tensors import Array

with quiet():  # torchao names every optional library that it does not find
    from torchao.quantization.pt2e.observer import HistogramObserver
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

aten = torch.ops.aten
Calibration = Sequence[tuple[Array, ...]]
SMALLEST = 2**-16  # step: of what is nearly always 0, one would be as good as none
SAMPLES = 2**16  # values of a tensor whose distribution is looked at; their extremes are those of all
PIXEL = 255.0
NARROW = 4.0  # times that a part's steps may grow where it is joined with others: two bits
LOWEST, HIGHEST = -128, 127


@dataclass(frozen=True)
class Range:
    """What a tensor was seen to hold in calibration, the int8 steps that stand for it, and how many values it has."""

    low: float
    high: float
    scale: float
    zero_point: int
    count: int = 0


class Histogram(HistogramObserver):  # type: ignore[misc]  # torchao has no type hints
    """Chooses the range that errs least over some of a tensor's values; `count` are its values, `wild` where one is
    NaN or infinite.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.count, self.wild = 0, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.detach().reshape(-1)
        extremes = torch.stack(torch.aminmax(values))
        self.count, self.wild = values.numel(), self.wild or not bool(extremes.isfinite().all())
        if not self.wild:
            stride = values.numel() // SAMPLES | 1  # odd: not always the same column of a picture
            super().forward(torch.cat([values[::stride], extremes]))
        return x


ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    observer_or_fake_quant_ctr=Histogram.with_args(eps=SMALLEST),
    quant_min=LOWEST,
    quant_max=HIGHEST,
    qscheme=torch.per_tensor_affine,
)


def observed(prepared: fx.GraphModule) -> dict[str, Range]:
    """By node, what its observer saw.

    Raises:
        QuantizationError: NaN or infinity.
    """
    ranges: dict[str, Range] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(seen := prepared.get_submodule(node.target), Histogram):
            if seen.wild:
                raise QuantizationError(
                    f"the network gives NaN or infinity on the calibration inputs, at '{node.args[0].name}': expected "
                    "inputs like those in use"
                )
            scale, zero_point = seen.calculate_qparams()
            low, high = float(seen.min_val), float(seen.max_val)
            ranges[node.args[0].name] = Range(low, high, float(scale), int(zero_point), seen.count)
    return ranges


def joined(graph: fx.GraphModule, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """What layers take of several tensors, one behind the other, has one range, and so have its parts: engines join
    whole steps, and TFLite's converter refuses others. Parts of much smaller values keep theirs.
    """
    found: dict[str, Range] = {}
    for node in reversed(list(graph.graph.nodes)):
        whole = found.get(node.name, ranges.get(node.name))
        if node.target != aten.cat.default or whole is None:
            continue
        for part in (operators.root(n) for n in node.args[0]):
            own = ranges.get(part.name)
            if own is not None and own.scale * NARROW >= whole.scale:
                found[part.name] = replace(own, scale=whole.scale, zero_point=whole.zero_point)
    return found


def pixels(prepared: fx.GraphModule, calibration: Calibration) -> dict[str, Range]:
    """The inputs that are pictures of 8 bits in 0…1: a step for each tone, and nothing is lost."""
    names = [node.name for node in prepared.graph.nodes if node.op == "placeholder"]
    return {
        name: Range(0.0, 1.0, 1.0 / PIXEL, LOWEST, calibration[0][place].size)
        for place, name in enumerate(names)
        if all(_is_picture(arrays[place]) for arrays in calibration)
    }


def _is_picture(array: Array) -> bool:
    if array.ndim != 4 or array.dtype.kind != "f" or array.min() < 0.0 or not 0.1 < array.max() <= 1.0:
        return False
    tones = array * PIXEL
    return bool(np.abs(tones - np.round(tones)).max() < 1e-3)
