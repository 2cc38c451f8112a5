"""Lockstep: a network in fp32 and in int8 side by side, node by node over all inputs, so that each layer can be
corrected for what the layers before it did to its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekit.quantization.correction.network import Layer, Network, last_uses
from edgekit.quantization.correction.simulation import Simulation


@dataclass(frozen=True)
class Visit:
    """A layer, what it is given in int8 (already on the grid) and what it gives in fp32, for each input."""

    network: Network
    layer: Layer
    given: list[Tensor]
    exact: list[Tensor]

    @property
    def weight(self) -> Tensor:
        """The layer's own weight, to be changed in place."""
        assert self.layer.weight is not None
        return self.network.tensor(self.layer.weight)


@torch.no_grad()
def lockstep(
    network: Network,
    keep_float: Sequence[str],
    inputs: Sequence[Sequence[Tensor]],
    correct: Callable[[Visit], Any],
) -> None:
    """Let `correct` change each layer's tensors in place, in the order they run.

    Layers whose weights are not their own are rounded and left alone.
    """
    simulation = Simulation(network, network.quantized(keep_float), inputs)
    exact: dict[fx.Node, list[Any]] = {}
    small: dict[fx.Node, list[Any]] = {}
    last = last_uses(network.graph)
    given = iter(zip(*inputs, strict=True))
    for node in network.graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            exact[node] = small[node] = list(next(given))
            continue
        exact[node] = [network.evaluate(node, _row(exact, node, i)) for i in range(len(inputs))]
        layer = simulation.layers.get(node)
        if layer is not None and layer.weight is not None:
            fed = [simulation.input(layer, x) for x in small[layer.input]]
            correct(Visit(network, layer, fed, exact[node]))
        small[node] = [simulation.value(node, _row(small, node, i)) for i in range(len(inputs))]
        for done in last.get(node, ()):
            del exact[done], small[done]


def _row(values: dict[fx.Node, list[Any]], node: fx.Node, index: int) -> dict[fx.Node, Any]:
    return {used: values[used][index] for used in node.all_input_nodes}
