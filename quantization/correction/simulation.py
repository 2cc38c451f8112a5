"""A network as static int8 will run it, in PyTorch: weights and activations rounded where the schemes round them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgekit.quantization.correction.grid import Range, Samples, rounded_weight
from edgekit.quantization.correction.network import Layer, Network


class Simulation:
    """Int8 of some layers of a network; `ranges` are of their inputs and outputs, by node."""

    def __init__(self, network: Network, layers: Sequence[Layer], inputs: Sequence[Sequence[Tensor]]) -> None:
        self.network = network
        self.layers = {layer.node: layer for layer in layers}
        self.outputs = {layer.output for layer in layers}
        self.ranges = self.observed(inputs)

    @torch.no_grad()
    def observed(self, inputs: Sequence[Sequence[Tensor]]) -> dict[fx.Node, Range]:
        """The ranges that the network's own values have."""
        points = self.outputs | {layer.input for layer in self.layers.values()}
        samples = {node: Samples() for node in points}

        def compute(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
            value = self.network.evaluate(node, values)
            if node in samples:
                samples[node].add(value)
            for used in node.all_input_nodes:  # a network's own input is computed by no node
                if used in samples and used.op == "placeholder":
                    samples[used].add(values[used])
            return value

        for given in inputs:
            self.network.run(given, compute)
        return {node: samples[node].range() for node in self.network.graph.nodes if node in samples}

    def value(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """What a node gives in int8, of what those before it gave."""
        layer = self.layers.get(node)
        if layer is None:
            result = self.network.evaluate(node, values)
        else:
            given: list[Any] = [values[a] if isinstance(a, fx.Node) else a for a in node.args[:3]]
            x, weight, bias = (*given, None)[:3]
            result = layer.compute(self.input(layer, x), self.weight(layer, weight), bias)
        return self.ranges[node].rounded(result) if node in self.outputs else result

    def input(self, layer: Layer, x: Tensor) -> Tensor:
        """A layer's input on its grid."""
        return self.ranges[layer.input].rounded(x)

    def weight(self, layer: Layer, weight: Tensor) -> Tensor:
        """A layer's weight on its grid."""
        return rounded_weight(weight, 1 if layer.transposed else 0)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs in int8."""
        return self.network.run(inputs, self.value)


def snr_db(outputs: Sequence[Sequence[Tensor]], expected: Sequence[Sequence[Tensor]]) -> float:
    """Signal to noise over all outputs; each output counts by its own power, and the worst is told."""
    found = []
    for pairs in zip(*(zip(o, e, strict=True) for o, e in zip(outputs, expected, strict=True)), strict=True):
        noise = sum(float((o - e).double().square().sum()) for o, e in pairs)
        power = sum(float(e.double().square().sum()) for _, e in pairs)
        if power:
            found.append(999.0 if noise == 0 else 10 * math.log10(power / noise))
    return min(found, default=999.0)
