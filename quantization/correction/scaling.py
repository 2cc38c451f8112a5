"""Equalisation and smoothing: channels of very different size are made alike, as far as the layers behind can bear.

`equalise` is cross-layer equalisation (Nagel et al. 2019) where layers make the channels; `smooth` is SmoothQuant
(Xiao et al. 2022) where a norm does. Weights are rounded by output channel, so the scale of what makes a channel
costs nothing: what is traded is the channel's share of the activation's one range against the weights that take it,
s_i = a_i^α / w_i^(1 − α) with a and w the largest of the calibration and of the weights. For every space the α is taken
with which its layers' outputs err least in int8; none where leaving the space alone errs least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekit.exporters.sources import Source
from edgekit.quantization.correction.grid import best_range, rounded_weight
from edgekit.quantization.correction.judge import Judge
from edgekit.quantization.correction.network import Layer, Network, scaled_inputs, spread
from edgekit.quantization.correction.paths import Place
from edgekit.quantization.correction.spaces import Space, channels_in, factors, scale, spaces
from edgekit.tensors import Array

INPUTS, JUDGED = 4, 16  # whose values are kept for every layer, and that the result is judged by
LOOKED_AT = 32  # inputs that must not come near a ReLU6's limit
STRENGTHS = (0.25, 0.5, 0.65, 0.8, 0.9, 1.0)
LEAST = 1e-3  # of the largest: below it a channel counts as silent
SHARE = 0.8  # of a ReLU6's limit, that a channel may be raised to: inputs beyond the calibration are not clipped
Progress = Callable[[str], None]


def equalise(
    source: Source, calibration: Sequence[tuple[Array, ...]], keep_float: Sequence[str], progress: Progress
) -> Source:
    """Scale the channels between layers; the same function in fp32."""
    return _scaled("equalise", source, calibration, keep_float, progress)


def smooth(
    source: Source, calibration: Sequence[tuple[Array, ...]], keep_float: Sequence[str], progress: Progress
) -> Source:
    """Scale the channels that norms hand to layers; the same function in fp32."""
    return _scaled("smooth", source, calibration, keep_float, progress)


def serves(space: Space, kind: str) -> bool:
    """Whether a space is one of equalisation's, or of smoothing's."""
    return space.normed == (kind == "smooth")


@torch.no_grad()
def _scaled(
    kind: str, source: Source, calibration: Sequence[tuple[Array, ...]], keep_float: Sequence[str], progress: Progress
) -> Source:
    network = Network(source)
    rounded = {layer.node for layer in network.quantized(keep_float)}
    found = [s for s in spaces(network) if serves(s, kind) and any(x.node in rounded for x, _ in s.takers)]
    if not found:
        progress(f"{kind}: no layers between which channels can be scaled; the network stays as it is")
        return source
    judge = Judge(network, keep_float, calibration, JUDGED)
    taken = _taken(network, judge.fitted[:INPUTS], [layer for space in found for layer, _ in space.takers])
    highest = _highest(network, spread(calibration, LOOKED_AT), [place for space in found for place in space.clamps])
    changed = [space for space in found if _scale_best(network, space, _Seen(taken, highest), rounded)]
    return judge.verdict(source, f"{kind}: {len(changed)} of {len(found)} groups of channels scaled", progress)


@dataclass(frozen=True)
class _Seen:
    """What each layer takes, for some inputs, and the highest value of each channel behind a ReLU6; by node."""

    taken: dict[fx.Node, list[Tensor]]
    highest: dict[fx.Node, Tensor]


def _taken(
    network: Network, inputs: Sequence[Sequence[Tensor]], layers: Sequence[Layer]
) -> dict[fx.Node, list[Tensor]]:
    kept: dict[fx.Node, list[Tensor]] = {layer.input: [] for layer in layers}

    def compute(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        value = network.evaluate(node, values)
        if node in kept:
            kept[node].append(value.clone())
        return value

    for given in inputs:
        network.run(given, compute)
    return kept


def _highest(
    network: Network, inputs: Sequence[Sequence[Tensor]], clamps: Sequence[tuple[fx.Node, Place]]
) -> dict[fx.Node, Tensor]:
    places = dict(clamps)
    found: dict[fx.Node, Tensor] = {}

    def compute(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        value = network.evaluate(node, values)
        if node in places:
            place = places[node]
            high = value.movedim(place.axis, 0).flatten(1).amax(1).view(-1, place.repeat).amax(1)
            found[node] = torch.maximum(high, found.get(node, high))
        return value

    for given in inputs if clamps else ():
        network.run(given, compute)
    return found


def _scale_best(network: Network, space: Space, seen: _Seen, rounded: set[fx.Node]) -> bool:
    """Scale a space by the factors with which its takers err least; False where that is none."""
    takers = [(layer, place) for layer, place in space.takers if layer.node in rounded]

    def error(factor: Tensor) -> float:
        return sum(
            _error(network, layer, factors(factor, place, channels_in(layer, network)), seen.taken[layer.input])
            for layer, place in takers
        )

    tried = [torch.ones(space.size), *candidates(network, space, seen)]
    errors = [error(factor) for factor in tried]
    best = errors.index(min(errors))
    if not best:
        return False
    scale(network, space, tried[best])
    done = set()
    for layer, place in space.takers:
        if layer.input not in done:
            done.add(layer.input)
            factor = factors(tried[best], place, channels_in(layer, network))
            seen.taken[layer.input] = [_divided(layer, x, factor) for x in seen.taken[layer.input]]
    return True


def candidates(network: Network, space: Space, seen: _Seen) -> Iterator[Tensor]:
    """Factors to divide the channels by, for every strength; the largest activation stays what it is."""
    reach, weights = torch.zeros(space.size), torch.zeros(space.size)
    for layer, place in space.takers:
        sizes = [_by_channel(layer, x) for x in seen.taken[layer.input]]
        part = slice(place.offset, place.offset + space.size * place.repeat)
        reach = torch.maximum(reach, torch.stack(sizes).amax(0)[part].view(-1, place.repeat).amax(1))
        taking = _weights_by_input(network, layer)[part].view(-1, place.repeat).amax(1)
        weights = torch.maximum(weights, taking / taking.max().clamp_min(1e-30))
    if not reach.max() or not weights.max():
        return
    silent = reach < LEAST * LEAST * reach.max()  # raising what is never heard would raise noise
    reach, weights = reach.clamp_min(LEAST * reach.max()), weights.clamp_min(LEAST * weights.max())
    for strength in STRENGTHS:
        factor = reach**strength / weights ** (1 - strength)
        factor = factor * ((reach / factor).max() / reach.max())
        yield _within_limit(space, seen.highest, torch.where(silent, torch.ones_like(factor), factor))


def _within_limit(space: Space, highest: dict[fx.Node, Tensor], factor: Tensor) -> Tensor:
    """Factors with which no channel is raised to where a ReLU6 would clip it; those that it clips stay."""
    share = SHARE * space.limit
    for node, _ in space.clamps:
        high = highest[node]  # a factor below high / share would raise the channel beyond its share
        factor = torch.where(high >= share, torch.ones_like(factor), torch.maximum(factor, high / share))
    return factor


def _error(network: Network, layer: Layer, factor: Tensor, inputs: Sequence[Tensor]) -> float:
    """Noise over signal of a layer's output in int8, its inputs divided by factors."""
    assert layer.weight is not None
    weight = network.tensor(layer.weight)
    divided = [_divided(layer, x, factor) for x in inputs]
    grid = best_range(divided)
    small = rounded_weight(scaled_inputs(layer, weight, factor), 1 if layer.transposed else 0)
    noise = power = 0.0
    for x, y in zip(inputs, divided, strict=True):
        exact = layer.compute(x, weight, None)
        noise += float((layer.compute(grid.rounded(y), small, None) - exact).square().sum())
        power += float(exact.square().sum())
    return noise / power if power else 0.0


def _divided(layer: Layer, x: Tensor, factor: Tensor) -> Tensor:
    last = layer.node.target is torch.ops.aten.linear.default
    return x / factor if last else x / factor.view(-1, *[1] * (x.ndim - 2))


def _by_channel(layer: Layer, x: Tensor) -> Tensor:
    """The largest magnitude of each channel of a layer's input."""
    axis = x.ndim - 1 if layer.node.target is torch.ops.aten.linear.default else 1
    return x.abs().movedim(axis, 0).flatten(1).amax(1)


def _weights_by_input(network: Network, layer: Layer) -> Tensor:
    """The largest magnitude of a layer's weights for each of its input channels."""
    assert layer.weight is not None
    weight = network.tensor(layer.weight).abs()
    if layer.transposed:
        return weight.flatten(1).amax(1)
    grouped = weight.reshape(layer.groups, -1, weight.shape[1], *weight.shape[2:])
    return grouped.movedim(2, 1).flatten(2).amax(2).reshape(-1)
