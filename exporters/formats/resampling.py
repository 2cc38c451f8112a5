"""Resampling: a resize as one product for each axis, with weights that are computed in the graph and fold to constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Filter = Callable[[Tensor], Tensor]


def resized(
    x: Tensor, kernel: Filter, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None
) -> Any:
    """batch × channels × height × width resized with antialiasing; NotImplemented where sizes are free.

    As PyTorch and Pillow do it: the kernel is widened by as much as the picture shrinks.
    """
    sides = x.shape[2:]
    target = list(size) if size is not None else [int(n * f) for n, f in zip(sides, factors or (), strict=True)]
    if not all(isinstance(n, int) for n in (*sides, *target)):
        return NotImplemented
    for axis, (old, new) in enumerate(zip(sides, target, strict=True)):
        if align_corners:
            step = (old - 1) / max(1, new - 1)
        else:
            step = 1.0 / factors[axis] if factors is not None else old / new
        rows = weights(kernel, int(old), int(new), step)
        x = rows @ x if axis == 0 else x @ rows.mT
    return x


def weights(kernel: Filter, old: int, new: int, step: float) -> Tensor:
    """new × old: what each output value of one axis is made of; pixels have their middle at 0.5, corners or not."""
    centres = (torch.arange(new, dtype=torch.float32) + 0.5) * step
    places = torch.arange(old, dtype=torch.float32) + 0.5
    rows = kernel((places[None, :] - centres[:, None]) / max(step, 1.0))
    return rows / rows.sum(1, keepdim=True)


def triangle(x: Tensor) -> Tensor:
    """The linear kernel, one pixel wide."""
    return (1.0 - x.abs()).clamp(min=0.0)


def cubic(x: Tensor) -> Tensor:
    """The cubic kernel, two pixels wide (Keys 1981, a = −0.5)."""
    x = x.abs().clamp(max=2.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x < 1.0, near, far)


def cubic_taps(place: float) -> tuple[int, list[float]]:
    """The first of the four neighbours of a place, and their weights (Keys 1981, a = −0.75, as PyTorch has it)."""
    below = math.floor(place)
    weights = []
    for neighbour in range(below - 1, below + 3):
        x = abs(place - neighbour)
        near, far = (1.25 * x - 2.25) * x * x + 1.0, ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
        weights.append(near if x <= 1.0 else far)
    return below - 1, weights
