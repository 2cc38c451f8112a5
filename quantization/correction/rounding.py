"""Adaptive rounding: each weight goes up or down as serves the layer's output, not to the nearest level.

The objective is AdaRound's (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization"): layer
after layer, with the layers before it in int8 already, the squared error of the layer's output against fp32. Both terms
are quadratic in the weights, so the inputs are needed only as their second moments, and the choice is made by coordinate
descent from the nearest levels, which cannot end worse than it began and has nothing to tune; the relaxation that the
paper learns by gradients is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.sources import Source
from edgekit.quantization.correction.grid import LEVELS
from edgekit.quantization.correction.judge import Judge
from edgekit.quantization.correction.lockstep import Visit, lockstep
from edgekit.quantization.correction.network import CONVOLUTIONS, Layer, Network
from edgekit.quantization.pt2e import weight_scales
from edgekit.tensors import Array

INPUTS, MOST = 16, 128  # that are looked at, as far as they hold no more than VALUES
VALUES = 1 << 17
POSITIONS = 4096  # of an input's, that a layer is looked at
SWEEPS = 6
DAMPING = 0.01  # of the mean power of an input, at least: pulls weights to their own values
WIDEST = 3000  # weights of an output channel, beyond which the moments would take too long


def round_adaptively(
    source: Source,
    calibration: Sequence[tuple[Array, ...]],
    keep_float: Sequence[str],
    progress: Callable[[str], None],
) -> Source:
    """Move the weights onto their int8 levels; rounding them again, with the same largest weights, changes nothing."""
    network = Network(source)
    if not network.quantized(keep_float):
        progress("round: no layer becomes int8; the network stays as it is")
        return source
    judge = Judge(network, keep_float, calibration, inputs_for(calibration))
    lockstep(network, keep_float, judge.fitted, _settle)
    return judge.verdict(source, "round: weights up or down as serves each layer", progress)


def inputs_for(calibration: Sequence[tuple[Array, ...]]) -> int:
    """How many inputs to look at: many small ones, few large ones, as all are held at once."""
    values = sum(array.size for array in calibration[0])
    return max(INPUTS, min(MOST, VALUES // max(1, values)))


def _settle(visit: Visit) -> None:
    layer, weight = visit.layer, visit.weight
    if layer.transposed or weight[0].numel() > WIDEST:
        return
    groups = layer.groups
    rows = weight.reshape(groups, weight.shape[0] // groups, -1)
    bias = None if layer.bias is None else visit.network.tensor(layer.bias)
    power, cross, count = moments(layer, weight, bias, visit)
    doubt = max(DAMPING, power.shape[1] / count)  # moments of fewer inputs than weights say little
    damping = doubt * power.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
    power = power + damping * torch.eye(power.shape[1])
    scales = weight_scales(weight).view(groups, -1, 1).expand_as(rows)
    settled = descended(rows, scales, power, cross + damping * rows, LEVELS)
    weight.copy_(settled.reshape(weight.shape))


def moments(layer: Layer, weight: Tensor, bias: Tensor | None, visit: Visit) -> tuple[Tensor, Tensor, int]:
    """Means of x·xᵀ and of y·xᵀ, by group, of what a layer's weights meet and what it should give without its bias;
    and of how many.
    """
    power, cross, seen = torch.zeros(()), torch.zeros(()), 0
    for x, y in zip(visit.given, visit.exact, strict=True):
        met, wanted = _patches(layer, x, weight), _outputs(layer, y, bias)
        stride = max(1, met.shape[-1] // POSITIONS)
        met, wanted = met[..., ::stride], wanted[..., ::stride]
        count = met.shape[-1] * len(visit.given)
        power = power + met @ met.mT / count
        cross = cross + wanted @ met.mT / count
        seen += met.shape[-1]
    return power, cross, seen


def descended(rows: Tensor, scales: Tensor, power: Tensor, cross: Tensor, levels: int) -> Tensor:
    """Each weight at the level below or above it, so that tr(w·P·wᵀ) − 2·tr(w·Cᵀ) is small.

    Args:
        rows: groups × outputs × inputs; `scales` alike.
        power: P, groups × inputs × inputs, with a positive diagonal.
        cross: C, groups × outputs × inputs.
    """
    exact = rows / scales
    below = torch.where(exact.abs() > levels - 0.5, exact.round(), exact.floor()).clamp(-levels, levels)
    above = torch.where(exact.abs() > levels - 0.5, below, below + 1).clamp(-levels, levels)
    lower, upper = below * scales, above * scales
    weights = torch.where((exact - below) < 0.5, lower, upper)
    slope = weights @ power - cross  # half the gradient
    for _sweep in range(SWEEPS):
        flips = 0
        for column in range(rows.shape[-1]):
            now = weights[..., column]
            other = lower[..., column] + upper[..., column] - now
            step = other - now
            gain = step * (2 * slope[..., column] + step * power[:, column, column, None])
            step = torch.where(gain < 0, step, torch.zeros_like(step))
            weights[..., column] = torch.where(gain < 0, other, now)
            slope += step[..., None] * power[:, None, column, :]
            flips += int((gain < 0).sum())
        if not flips:
            break
    return weights


def _patches(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """What the weights of an output channel are multiplied with: groups × weights × positions."""
    if layer.node.target not in CONVOLUTIONS:
        return x.reshape(-1, x.shape[-1]).T[None]
    size = list(weight.shape[2:])
    stride, padding, dilation = (_pair(layer, place, default, len(size)) for place, default in ((3, 1), (4, 0), (5, 1)))
    if len(size) == 1:
        x, size = x.unsqueeze(2), [1, *size]
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    unfolded = F.unfold(x, tuple(size), tuple(dilation), tuple(padding), tuple(stride))
    by_group = unfolded.view(x.shape[0], layer.groups, -1, unfolded.shape[-1])
    return by_group.permute(1, 2, 0, 3).flatten(2)


def _outputs(layer: Layer, y: Tensor, bias: Tensor | None) -> Tensor:
    """A layer's outputs without its bias: groups × outputs × positions."""
    axis = 1 if layer.node.target in CONVOLUTIONS else y.ndim - 1
    flat = y.movedim(axis, 0).flatten(1)
    flat = flat if bias is None else flat - bias[:, None]
    return flat.view(layer.groups, -1, flat.shape[-1])


def _pair(layer: Layer, place: int, default: int, rank: int) -> list[int]:
    """A convolution's stride, padding or dilation, one number an axis."""
    names = {3: "stride", 4: "padding", 5: "dilation"}
    found: Any = (
        layer.node.args[place] if len(layer.node.args) > place else layer.node.kwargs.get(names[place], default)
    )
    numbers = [found] if isinstance(found, int) else list(found)
    return list(itertools.islice(itertools.cycle(numbers), rank))
