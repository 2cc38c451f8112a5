"""Network: a copy of a source's network as its exported graph runs it, whose tensors corrections change by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.exporters.graphs import Graph
from edgekit.exporters.sources import Source
from edgekit.quantization.schemes.operators import Found, found, module_name
from edgekit.tensors import Array

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)
Compute = Callable[[fx.Node, dict[fx.Node, Any]], Any]


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of the graph; `rounds` where static int8 can have it.

    `weight` and `bias` name its tensors, where they are its own: a weight that is computed, or shared with another
    layer, has no name here and is left alone. `output` is the node after which its output is rounded.
    """

    name: str
    node: fx.Node
    output: fx.Node
    weight: str | None
    bias: str | None
    rounds: bool

    @property
    def input(self) -> fx.Node:
        node: fx.Node = self.node.args[0]  # type: ignore[assignment]  # a layer's first argument is a tensor
        return node

    @property
    def transposed(self) -> bool:
        return self.node.target in TRANSPOSED

    @property
    def groups(self) -> int:
        """Of a convolution; 1 otherwise."""
        if self.node.target not in (*CONVOLUTIONS, *TRANSPOSED):
            return 1
        place = 6
        found = self.node.args[place] if len(self.node.args) > place else self.node.kwargs.get("groups", 1)
        return int(found)  # type: ignore[arg-type]

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer gives for an input, with other weights."""
        kwargs = {k: v for k, v in self.node.kwargs.items() if k not in ("weight", "bias")}
        result: Tensor = self.node.target(x, weight, bias, *self.node.args[3:], **kwargs)  # type: ignore[operator]
        return result


class Network:
    """A copy of a source's network, its batch norms folded into the convolutions before them where that is exact."""

    def __init__(self, source: Source) -> None:
        self.origin = source
        self.module = copy.deepcopy(source.module)
        graph = Graph(self.module, replace(source, module=self.module, memo={}))
        self.traced: Any = graph.program(source.first_sizes).module()
        self.graph: fx.Graph = self.traced.graph
        for node in [n for n in self.graph.nodes if n.op == "call_module" and not n.users]:
            self.graph.erase_node(node)  # checks of the inputs' sizes
        self._fold()
        self.layers = self._layers()

    def tensor(self, name: str) -> Tensor:
        """A parameter or buffer, to be read or changed in place."""
        found: Any = self.traced
        for part in name.split("."):
            found = getattr(found, part)
        return found.data  # type: ignore[no-any-return]

    def quantized(self, keep_float: Sequence[str]) -> list[Layer]:
        """The layers that static int8 rounds: those that no pattern names."""
        return [x for x in self.layers if x.rounds and not any(fnmatchcase(x.name, p) for p in keep_float)]

    @torch.no_grad()
    def corrected(self) -> Source:
        """The source with this network's tensors; a bias that it did not have is added to its layer."""
        for name, tensor in self.traced.state_dict().items():
            holder, _, last = name.rpartition(".")
            owner = self.module.get_submodule(holder)
            found = getattr(owner, last, None)
            if isinstance(found, Tensor):
                found.data = tensor.detach().clone()
            else:
                setattr(owner, last, nn.Parameter(tensor.detach().clone()))
        return replace(self.origin, module=self.module, memo={})

    def need_bias(self, layer: Layer) -> Layer:
        """The layer with a bias of its own: one of zeros is added where it had none."""
        if layer.bias is not None or layer.weight is None or layer.node.args[2:3] not in ((), (None,)):
            return layer
        weight = self.tensor(layer.weight)
        name = f"{layer.weight.rpartition('.')[0]}.bias"
        size = weight.shape[1] * layer.groups if layer.transposed else weight.shape[0]
        holder = self.traced.get_submodule(name.rpartition(".")[0])
        if getattr(holder, "bias", None) is not None:
            return layer
        holder.bias = nn.Parameter(torch.zeros(size))
        with self.graph.inserting_before(layer.node):
            node = self.graph.get_attr(name)
        layer.node.args = (*layer.node.args[:2], node, *layer.node.args[3:])
        return replace(layer, bias=name)

    def evaluate(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """What a node gives, of what the nodes before it gave."""
        if node.op == "get_attr":
            found: Any = self.traced
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        args = fx.node.map_arg(node.args, lambda n: values[n])
        kwargs = fx.node.map_arg(node.kwargs, lambda n: values[n])
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def run(self, inputs: Sequence[Tensor], compute: Compute | None = None) -> list[Tensor]:
        """The outputs for these inputs; `compute` gives the value of a node, `evaluate` where it is left out."""
        compute = compute or self.evaluate
        values: dict[fx.Node, Any] = {}
        given, last = iter(inputs), last_uses(self.graph)
        for node in self.graph.nodes:
            if node.op == "output":
                return list(flat(fx.node.map_arg(node.args[0], lambda n: values[n])))
            values[node] = next(given) if node.op == "placeholder" else compute(node, values)
            for done in last.get(node, ()):
                del values[done]
        raise AssertionError("a graph ends in its output")

    def _layers(self) -> list[Layer]:
        named = {f.node: f for f in found(self.graph)}
        nodes = [node for node in self.graph.nodes if node.target in LAYERS]
        return [self._layer(node, named.get(node)) for node in nodes]

    def _layer(self, node: fx.Node, named: Found | None = None) -> Layer:
        bias = node.args[2] if len(node.args) > 2 else None
        weight, own = self.own(node.args[1]), self.own(bias)
        if named is None:
            return Layer(module_name(node), node, node, weight, own, rounds=False)
        return Layer(named.name, node, named.end, weight, own, rounds=not named.why)

    def own(self, node: Any) -> str | None:
        """The name of a tensor that one node alone uses."""
        if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
            return None
        same = [n for n in self.graph.nodes if n.op == "get_attr" and n.target == node.target]
        return str(node.target) if len(same) == 1 and isinstance(self.tensor(str(node.target)), Tensor) else None

    @torch.no_grad()
    def _fold(self) -> None:
        for norm in [n for n in self.graph.nodes if n.target is aten.batch_norm.default]:
            before = norm.args[0]
            if before.target not in (*CONVOLUTIONS, *TRANSPOSED) or len(before.users) != 1 or norm.args[5]:
                continue
            layer = self.need_bias(self._layer(before))
            names = [self.own(a) for a in norm.args[1:5]]
            if layer.weight is None or layer.bias is None or None in names[2:] or None in names[:2] != [None, None]:
                continue
            self._fold_into(layer, norm, names)

    def _fold_into(self, layer: Layer, norm: fx.Node, names: list[str | None]) -> None:
        """Move what the norm does into the layer, and leave the norm as the identity."""
        assert layer.weight is not None and layer.bias is not None
        gain, shift, mean, variance = (None if name is None else self.tensor(name) for name in names)
        assert mean is not None and variance is not None
        epsilon = float(norm.args[7])  # type: ignore[arg-type]  # a norm's eighth argument is a number
        factor = torch.rsqrt(variance + epsilon) * (1.0 if gain is None else gain)
        scale_outputs(self, layer, factor)
        self.tensor(layer.bias).sub_(mean * factor).add_(0.0 if shift is None else shift)
        for tensor, value in ((gain, 1.0), (shift, 0.0), (mean, 0.0), (variance, 1.0 - epsilon)):
            if tensor is not None:
                tensor.fill_(value)
        norm.replace_all_uses_with(layer.node)
        self.graph.erase_node(norm)


def scale_outputs(network: Network, layer: Layer, factor: Tensor) -> None:
    """Multiply a layer's output channels, in its weight and its bias."""
    assert layer.weight is not None
    weight = network.tensor(layer.weight)
    if layer.transposed:
        by_group = weight.view(layer.groups, -1, *weight.shape[1:])
        by_group.mul_(factor.view(layer.groups, 1, weight.shape[1], *[1] * (weight.ndim - 2)))
    else:
        weight.mul_(factor.view(-1, *[1] * (weight.ndim - 1)))
    if layer.bias is not None:
        network.tensor(layer.bias).mul_(factor)


def scaled_inputs(layer: Layer, weight: Tensor, factor: Tensor) -> Tensor:
    """A layer's weight for inputs whose channels were divided by `factor`."""
    if layer.transposed:
        return weight * factor.view(-1, *[1] * (weight.ndim - 1))
    by_group = weight.reshape(layer.groups, -1, *weight.shape[1:])
    shaped = factor.view(layer.groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (by_group * shaped).reshape(weight.shape)


def last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """What need not be kept after each node."""
    final: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for used in node.all_input_nodes:
            final[used] = node
    freed: dict[fx.Node, list[fx.Node]] = {}
    for used, node in final.items():
        if node.op != "output":
            freed.setdefault(node, []).append(used)
    return freed


def flat(value: Any) -> Iterator[Tensor]:
    """The tensors of a result, whatever they lie in."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from flat(part)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of what a node gives; empty where it is no tensor."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def tensors_of(arrays: Sequence[Array]) -> list[Tensor]:
    """Arrays as tensors of their own."""
    return [torch.from_numpy(a.copy()) for a in arrays]


def spread(calibration: Sequence[tuple[Array, ...]], count: int) -> list[list[Tensor]]:
    """At most `count` of the inputs, evenly spread: neighbours are much alike."""
    stride = max(1, math.ceil(len(calibration) / count))
    return [tensors_of(arrays) for arrays in calibration[::stride]]
