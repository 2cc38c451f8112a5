"""The int8 grid that static quantization rounds to: scales of weights by channel, ranges of activations by tensor."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.quantization.pt2e import weight_scales

LEVELS = 127
SMALLEST = 2**-16  # step, as the observers of the scheme have it
CLIPS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.35)
KEPT = 1 << 14  # values of a tensor that its range is chosen by


@dataclass(frozen=True)
class Range:
    """Scale and zero point of an activation."""

    scale: float
    zero: int

    def rounded(self, x: Tensor) -> Tensor:
        """The values on the grid; gradients pass through where nothing is clipped."""
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero, -128, 127)

    @classmethod
    def between(cls, low: float, high: float) -> Range:
        """The affine grid that holds these values and zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, SMALLEST)
        return cls(scale, max(-128, min(127, round(-128 - low / scale))))


class Samples:
    """Some values of a tensor, and its extremes, gathered over calibration inputs."""

    def __init__(self) -> None:
        self.low, self.high, self.count = 0.0, 0.0, 0
        self.values: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        every = x.detach().reshape(-1)
        self.count += every.numel()
        self.values.append(every[:: max(1, every.numel() // KEPT)].clone())

    def range(self) -> Range:
        """The range that errs least in squares over the values: a rare extreme is clipped where that serves."""
        values = torch.cat(self.values)
        values = values[:: max(1, values.numel() // KEPT)]
        extremes = torch.tensor([self.low, self.high])
        share = self.count / values.numel()  # values that each one kept stands for

        def error(grid: Range) -> float:
            kept, ends = ((grid.rounded(x) - x).double().square().sum() for x in (values, extremes))
            return share * float(kept) + float(ends)

        ends = itertools.product(CLIPS if self.low else (1.0,), CLIPS if self.high else (1.0,))
        return min((Range.between(self.low * below, self.high * above) for below, above in ends), key=error)


def best_range(tensors: Sequence[Tensor]) -> Range:
    """The range of some tensors."""
    samples = Samples()
    for tensor in tensors:
        samples.add(tensor)
    return samples.range()


def rounded_weight(weight: Tensor, axis: int = 0) -> Tensor:
    """A weight on its grid; gradients pass through."""
    scales = weight_scales(weight, axis)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, axis, -LEVELS, LEVELS)
