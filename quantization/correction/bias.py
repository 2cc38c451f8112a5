"""Bias correction: what rounding adds to the mean of a layer's outputs is taken off its bias.

Empirically, on calibration inputs, from the first layer to the last, so that each makes up for what the layers before
it left (Nagel et al. 2019, section 4.2; Banner et al. 2019). Pictures that get darker in int8 are such a shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from edgekit.exporters.sources import Source
from edgekit.quantization.correction.grid import rounded_weight
from edgekit.quantization.correction.judge import Judge
from edgekit.quantization.correction.lockstep import Visit, lockstep
from edgekit.quantization.correction.network import Layer, Network
from edgekit.tensors import Array

INPUTS = 16


def correct_bias(
    source: Source,
    calibration: Sequence[tuple[Array, ...]],
    keep_float: Sequence[str],
    progress: Callable[[str], None],
) -> Source:
    """Move the biases of the layers that become int8; a layer without one gets one."""
    network = Network(source)
    network.layers = [network.need_bias(layer) for layer in network.layers]
    if not any(layer.bias for layer in network.quantized(keep_float)):
        progress("bias: no layer has a bias of its own; the network stays as it is")
        return source
    judge = Judge(network, keep_float, calibration, INPUTS)
    lockstep(network, keep_float, judge.fitted, _move)
    return judge.verdict(source, "bias: the mean of every layer's outputs restored", progress)


def _move(visit: Visit) -> None:
    layer = visit.layer
    if layer.bias is None:
        return
    bias = visit.network.tensor(layer.bias)
    weight = rounded_weight(visit.weight, 1 if layer.transposed else 0)
    outputs = [layer.compute(x, weight, bias) for x in visit.given]
    bias.add_(means(visit.exact, layer) - means(outputs, layer))


def means(outputs: Sequence[Tensor], layer: Layer) -> Tensor:
    """The mean of each output channel."""
    axis = outputs[0].ndim - 1 if layer.node.target is torch.ops.aten.linear.default else 1
    return torch.stack([x.movedim(axis, 0).flatten(1).double().mean(1) for x in outputs]).mean(0).float()
