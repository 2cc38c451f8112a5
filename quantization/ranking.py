"""Ranking: which layers err most in int8, all of them in one pass.

Rounding a layer disturbs its output by δ, and the network's by J·δ, J being the derivative of what follows. With random
signs v, the mean of (vᵀJδ)² is the square of that disturbance (Hutchinson 1990), and one backward pass gives vᵀJ for
every layer at once. So a forward pass and a few backward passes stand for as many networks as there are layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgekit.exporters.quiet import quiet
from edgekit.exporters.sources import Source
from edgekit.quantization.pt2e import Calibrated, calibrated, weight_scales
from edgekit.quantization.ranges import HIGHEST, LOWEST, Range
from edgekit.quantization.schemes import operators
from edgekit.quantization.schemes.operators import Found
from edgekit.tensors import Array

LARGE = 2**15  # values of an input from which on one says much
FEW, MANY = (
    (4, 2),
    (8, 8),
)  # calibration inputs that are looked at, and random signs for each: of large ones, and others
PARTS, SIDE = 4, 32  # into which rows and columns of a picture are cut, from this side on
NOTHING = 1e-30  # noise power that counts as none: 300 dB


def rank(source: Source, calibration: Sequence[tuple[Array, ...]]) -> dict[str, float]:
    """The SNR in dB of the outputs when a layer alone is int8, by layer, the one that disturbs most first.

    Raises:
        QuantizationError: no calibration inputs, or they overflow.
    """
    network = calibrated(source, calibration)
    if not network.noise:
        network.noise.update(_ranked(network, calibration))
    return dict(network.noise)


def _ranked(network: Calibrated, calibration: Sequence[tuple[Array, ...]]) -> dict[str, float]:
    noise: dict[str, float] = {layer.name: 0.0 for layer in network.layers if not layer.why}
    inputs, signs = FEW if sum(array.size for array in calibration[0]) >= LARGE else MANY
    probes = calibration[:: math.ceil(len(calibration) / inputs)]  # spread: neighbours are much alike
    with quiet():
        graph = network.float_graph()
        for index, arrays in enumerate(probes):
            run = _Disturbed(graph, network)
            outputs = run.outputs([torch.from_numpy(a.copy()) for a in arrays])
            for name, power in run.noise(outputs, signs, torch.Generator().manual_seed(index)):
                noise[name] += power / len(probes)
    found = {name: -10.0 * math.log10(max(power, NOTHING)) for name, power in noise.items()}
    return dict(sorted(found.items(), key=lambda item: item[1]))


class _Disturbed(fx.Interpreter):
    """Runs a network in float, and keeps by how much each layer would be off in int8."""

    def __init__(self, graph: fx.GraphModule, network: Calibrated) -> None:
        super().__init__(graph, garbage_collect_values=False)  # the weights are looked at again
        self._range = network.range_of
        layers = [layer for layer in operators.found(graph.graph) if not layer.why]
        self._by_end = {layer.end: layer for layer in layers}
        self._by_node = {layer.node: layer for layer in layers}
        self._rounded: dict[str, Tensor] = {}
        self.errors: list[tuple[str, Tensor]] = []
        self.handles: list[Tensor] = []

    def outputs(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The network's outputs of real numbers."""
        with torch.enable_grad():
            results = self.run(*tensors)
        every = [results] if isinstance(results, Tensor) else list(results)
        return [r for r in every if isinstance(r, Tensor) and r.is_floating_point() and r.requires_grad]

    def noise(self, outputs: Sequence[Tensor], signs: int, generator: torch.Generator) -> Iterator[tuple[str, float]]:
        """What each layer adds to the noise of the outputs, as a part of the signal's power."""
        powers = [float(o.detach().square().sum()) or 1.0 for o in outputs]
        for _ in range(signs if outputs else 0):
            drawn = [
                (torch.randint(0, 2, o.shape, generator=generator) * 2 - 1) / math.sqrt(p)
                for o, p in zip(outputs, powers, strict=True)
            ]
            reached = torch.autograd.grad(outputs, self.handles, drawn, retain_graph=True, allow_unused=True)
            for (name, error), gradient in zip(self.errors, reached, strict=True):
                if gradient is not None:
                    yield name, _power(gradient * error) / signs

    def run_node(self, n: fx.Node) -> object:
        layer = self._by_node.get(n)
        if layer is not None:
            with torch.no_grad():
                self._rounded[n.name] = self._in_steps(layer)
        result = super().run_node(n)
        layer = self._by_end.get(n)
        return result if layer is None else self._watched(layer, result)

    def _watched(self, layer: Found, result: Tensor) -> Tensor:
        """The same result, by a way on which its gradient is seen."""
        with torch.no_grad():
            self.errors.append((layer.name, self._rounded.pop(layer.node.name) - result))
        self.handles.append(torch.zeros_like(result, requires_grad=True))
        return result + self.handles[-1]

    def _in_steps(self, layer: Found) -> Tensor:
        """The layer in int8, for the input that it gets in float."""
        node, axis = layer.node, operators.CHANNELS[layer.node.target]
        weight = self.env[layer.weight]
        scales = weight_scales(weight, axis)
        steps = torch.fake_quantize_per_channel_affine(
            weight, scales, torch.zeros_like(scales, dtype=torch.int32), axis, -HIGHEST, HIGHEST
        )
        values: dict[fx.Node, Any] = {**{n: self.env[n] for n in node.all_input_nodes}, layer.weight: steps}
        values[layer.entering] = _on_grid(self.env[layer.entering], self._range(layer.entering))
        args: Any = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs: Any = fx.node.map_arg(node.kwargs, lambda n: values[n])
        result = node.target(*args, **kwargs)  # type: ignore[operator]
        if layer.end is not node:
            result = layer.end.target(result, *layer.end.args[1:], **layer.end.kwargs)  # type: ignore[operator]
        return _on_grid(result, self._range(layer.end))


def _power(products: Tensor) -> float:
    """The square of their sum; of a picture, the squares of its parts' sums: far places disturb other outputs, and
    what is expected of their product is nothing but scatter.
    """
    if products.ndim != 4 or min(products.shape[2:]) < SIDE:
        return float(products.sum()) ** 2
    rows = products.sum(1).tensor_split(PARTS, 1)
    return sum(float(part.sum()) ** 2 for row in rows for part in row.tensor_split(PARTS, 2))


def _on_grid(values: Tensor, range: Range) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(values, range.scale, range.zero_point, LOWEST, HIGHEST)
