"""Channel spaces: the values between layers whose channels can be scaled, undone by the layers that take them.

Where x flows from layers or norms through ReLU-like operators, pooling, additions and concatenations into layers
alone, channel i of x may be divided by any s_i > 0: what makes x is divided, what takes x is multiplied, and the
network computes what it did (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", section 4.1, here over any number of layers on either side).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, fx

from edgekit.quantization.correction.network import Layer, Network, aten, scale_outputs, scaled_inputs, shape_of
from edgekit.quantization.correction.paths import PRODUCTS, SAME, Place, argument, through

CLAMPS = (
    aten.relu6.default, aten.relu6_.default, aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default,
)  # fmt: skip
ADDS = (aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor)
NORMS = {  # the places of gain and shift among the arguments; None where there is no such
    aten.batch_norm.default: (1, 2, 1),
    aten.layer_norm.default: (2, 3, -1),
    aten.group_norm.default: (2, 3, 1),
    aten.instance_norm.default: (1, 2, 1),
    aten.rms_norm.default: (2, None, -1),
}


@dataclass(frozen=True)
class Norm:
    """A norm, or a product with a vector, whose gain and shift make the channels of a space."""

    node: fx.Node
    gain: str
    shift: str | None


@dataclass
class Space:
    """Channels that may be scaled: who makes them, who takes them, and where; `limit` of a ReLU6 among them."""

    size: int
    makers: list[Layer | Norm] = field(default_factory=list)
    takers: list[tuple[Layer, Place]] = field(default_factory=list)
    limit: float = math.inf
    clamps: list[tuple[fx.Node, Place]] = field(default_factory=list)

    @property
    def normed(self) -> bool:
        """Whether a norm makes some of it."""
        return any(isinstance(maker, Norm) for maker in self.makers)

    def names(self) -> str:
        makers = [m.name if isinstance(m, Layer) else m.gain.rpartition(".")[0] or m.gain for m in self.makers]
        return f"{' + '.join(makers)} → {' + '.join(layer.name for layer, _ in self.takers)}"


class _NotScalable(Exception):
    """Something that these channels flow through would not undo a scale."""


def spaces(network: Network) -> list[Space]:
    """Every channel space of a network, in the order they run."""
    by_node = {layer.node: layer for layer in network.layers}
    seen: set[fx.Node] = set()
    found = []
    for node in network.graph.nodes:
        maker = by_node.get(node) or norm_at(network, node)
        if maker is None or node in seen:
            continue
        walk = _Walk(network, by_node)
        try:
            space = walk.from_maker(node)
        except _NotScalable:
            space = None
        seen |= set(walk.makers)
        if space is not None and space.takers:
            found.append(space)
    return found


def norm_at(network: Network, node: fx.Node) -> Norm | None:
    """The norm that a node computes, where its gain is a vector of its own."""
    if node.target in NORMS:
        gain, shift, _ = NORMS[node.target]
        gain_name = network.own(argument(node, gain))
        shift_node = None if shift is None else argument(node, shift)
        shift_name = network.own(shift_node)
        if gain_name is None or (shift_node is not None and shift_name is None):
            return None
        return Norm(node, gain_name, shift_name) if network.tensor(gain_name).ndim == 1 else None
    if node.target in PRODUCTS:
        names = [network.own(a) for a in node.args]
        for name, other in zip(names, reversed(node.args), strict=True):
            vector = name is not None and network.tensor(name).ndim == 1
            if vector and isinstance(other, fx.Node) and shape_of(other)[-1:] == tuple(network.tensor(str(name)).shape):
                return Norm(node, str(name), None)  # the last step of a root-mean-square norm written out
    return None


def channels_in(layer: Layer, network: Network) -> int:
    """How many channels a layer takes."""
    assert layer.weight is not None
    weight = network.tensor(layer.weight)
    return weight.shape[0] if layer.transposed else weight.shape[1] * layer.groups


def factors(space_factor: Tensor, place: Place, count: int) -> Tensor:
    """The factor of each of a taker's channels; 1 for those of other spaces."""
    whole = space_factor.new_ones(count)
    part = space_factor.repeat_interleave(place.repeat)
    whole[place.offset : place.offset + len(part)] = part
    return whole


def scale(network: Network, space: Space, factor: Tensor) -> None:
    """Divide the channels of a space by positive factors, one each, in its makers, and undo it in its takers."""
    for maker in space.makers:
        if isinstance(maker, Layer):
            scale_outputs(network, maker, 1 / factor)
            continue
        network.tensor(maker.gain).div_(factor)
        if maker.shift is not None:
            network.tensor(maker.shift).div_(factor)
    for layer, place in space.takers:
        assert layer.weight is not None
        weight = network.tensor(layer.weight)
        weight.copy_(scaled_inputs(layer, weight, factors(factor, place, channels_in(layer, network))))


class _Walk:
    """One space, from one of its makers through everything that its channels flow through."""

    def __init__(self, network: Network, layers: dict[fx.Node, Layer]) -> None:
        self.network, self.layers = network, layers
        self.places: dict[fx.Node, Place] = {}
        self.open: list[fx.Node] = []
        self.makers: dict[fx.Node, Layer | Norm] = {}
        self.space = Space(0)

    def from_maker(self, node: fx.Node) -> Space:
        shape = shape_of(node)
        axis = self._made_axis(node)
        self.space.size = shape[axis]
        self._reach(node, Place(axis))
        while self.open:
            current = self.open.pop()
            self._behind(current)
            for user in current.users:
                self._into(current, user)
        self.space.makers = list(self.makers.values())
        self.space.takers.sort(key=lambda pair: pair[0].name)
        return self.space

    def _reach(self, node: fx.Node, place: Place) -> None:
        known = self.places.get(node)
        if known is None:
            shape = shape_of(node)
            if place.whole and (place.axis >= len(shape) or shape[place.axis] != self.space.size * place.repeat):
                raise _NotScalable
            self.places[node] = place
            self.open.append(node)
        elif known != place:
            raise _NotScalable

    def _made_axis(self, node: fx.Node) -> int:
        if node in self.layers:
            return len(shape_of(node)) - 1 if node.target is aten.linear.default else 1
        axis = NORMS[node.target][2] if node.target in NORMS else -1
        return axis % len(shape_of(node))

    def _behind(self, node: fx.Node) -> None:
        """Where what a node gives comes from: a maker, or what flows through it."""
        place = self.places[node]
        maker = self.layers.get(node) or norm_at(self.network, node)
        if maker is not None:
            adjustable = isinstance(maker, Norm) or (maker.weight is not None and _has_own_bias(maker))
            if not adjustable or place != Place(self._made_axis(node)):
                raise _NotScalable
            self.makers[node] = maker
        elif node.target in ADDS:
            for part in node.args[:2]:
                if not isinstance(part, fx.Node) or len(shape_of(part)) != len(shape_of(node)) or not place.whole:
                    raise _NotScalable
                self._reach(part, place)
        elif not any(used in self.places for used in node.all_input_nodes):
            if node.target not in (*SAME, *CLAMPS) or not place.whole:
                raise _NotScalable
            self._reach(argument(node, 0), place)

    def _into(self, node: fx.Node, user: fx.Node) -> None:
        """What takes a node: a layer, or something that the channels flow through."""
        place = self.places[node]
        layer = self.layers.get(user)
        if layer is not None:
            self._take(layer, node, place)
        elif user.target in CLAMPS:
            self._clamp(user, place)
        elif (after := through(node, user, place)) is not None:
            self._reach(user, after)
        elif user.target in ADDS and place.whole and len(shape_of(user)) == len(shape_of(node)):
            self._reach(user, place)
        else:
            raise _NotScalable

    def _take(self, layer: Layer, node: fx.Node, place: Place) -> None:
        linear = layer.node.target is aten.linear.default
        axis = len(shape_of(node)) - 1 if linear else 1
        if layer.weight is None or layer.input is not node or place.axis != axis or node in layer.node.args[1:]:
            raise _NotScalable
        self.space.takers.append((layer, place))

    def _clamp(self, node: fx.Node, place: Place) -> None:
        defaults = {"relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0)}
        bounds = list(node.args[1:3]) or list(defaults.get(str(node.target).split(".")[1].rstrip("_"), ()))
        if len(bounds) < 2 or bounds[0] != 0 or bounds[1] is None or not place.whole:
            raise _NotScalable
        self.space.limit = min(self.space.limit, float(bounds[1]))  # type: ignore[arg-type]
        self.space.clamps.append((node, place))
        self._reach(node, place)


def _has_own_bias(layer: Layer) -> bool:
    given = layer.node.args[2] if len(layer.node.args) > 2 else None
    return given is None or layer.bias is not None
