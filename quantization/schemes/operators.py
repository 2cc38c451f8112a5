"""Operators: which of a network's become int8, what runs along with them, and why the others stay float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgekit.quantization.schemes.subpixel import rewritable

aten = torch.ops.aten

CHANNELS: Mapping[Any, int] = {  # operators that become int8, and the axis of their weights that is the output's
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.linear.default: 0,
}
CLIPS = (aten.relu.default, aten.relu_.default, aten.relu6.default, aten.relu6_.default)  # part of an int8 kernel
HARDTANH = (aten.hardtanh.default, aten.hardtanh_.default)  # of ReLU6
ARRANGES = (  # give the values that they take, at other places
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.permute.default,
    aten.transpose.int, aten.contiguous.default, aten.clone.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.unsqueeze.default, aten.expand.default, aten.slice.Tensor, aten.select.int, aten.chunk.default,
    aten.split.Tensor, aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default,
    aten.upsample_nearest2d.vec, aten.upsample_nearest1d.vec, aten.max_pool2d.default, aten.max_pool1d.default,
    aten.dropout.default, aten.constant_pad_nd.default, aten.pad.default, aten.alias.default, aten.detach_.default, aten.movedim.int,
)  # fmt: skip
NORM = "a norm: rounding its input to int8 costs most, and no engine computes its statistics in int8"
PRODUCT = "a product of two activations: no weights to make small"
KEPT: Mapping[Any, str] = {
    **dict.fromkeys(
        (
            aten.layer_norm.default,
            aten.group_norm.default,
            aten.instance_norm.default,
            aten.batch_norm.default,
            aten.rms_norm.default,
        ),
        NORM,
    ),
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), "softmax: its small values vanish in int8"),
    aten.scaled_dot_product_attention.default: "softmax and products of two activations",
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default, aten.einsum.default), PRODUCT),
    **dict.fromkeys(
        (aten.embedding.default, aten.embedding_bag.default), "a look-up: nothing is computed that int8 could speed up"
    ),
    **dict.fromkeys(
        (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input), "a loop over time within one operator: step it instead"
    ),
    **dict.fromkeys(
        (
            aten.conv3d.default,
            aten.conv_transpose1d.default,
            aten.conv_transpose2d.input,
            aten.conv_transpose3d.input,
        ),
        "ONNX Runtime and LiteRT have no int8 kernel for it",
    ),
}


@dataclass(frozen=True)
class Found:
    """A layer in an exported graph: its name in the source module, its node, and the node whose output it ends with.

    `why` says why it cannot be int8, empty where it can.
    """

    name: str
    node: fx.Node
    end: fx.Node
    why: str = ""

    @property
    def entering(self) -> fx.Node:
        """What it takes."""
        return self.node.args[0]  # type: ignore[return-value]  # a layer's first argument is a tensor

    @property
    def weight(self) -> fx.Node:
        """What it multiplies by; of layers that can be int8."""
        return self.node.args[1]  # type: ignore[return-value]


def found(graph: fx.Graph) -> list[Found]:
    """The layers of a graph in the order they run: those that can be int8, and those known to stay float.

    A layer is named after its module; where a module holds several, after their weights.
    """
    nodes = [node for node in graph.nodes if node.target in CHANNELS or node.target in KEPT]
    modules = [(module_name(node), not _why(node)) for node in nodes]
    names = [
        name[0] if name[0] and modules.count(name) == 1 and (name[1] or (name[0], True) not in modules) else _own(node)
        for node, name in zip(nodes, modules, strict=True)
    ]
    return [Found(name, node, _end(node), _why(node)) for name, node in zip(names, nodes, strict=True)]


def module_name(node: fx.Node) -> str:
    """The innermost module, in the source, that a node was called in; empty for the network itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(name) for name, _ in stack.values()]
    return names[-1] if names else ""


def root(node: fx.Node) -> fx.Node:
    """The node that computed the values which a node only arranges."""
    while node.target in ARRANGES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def lasts(layers: Sequence[Found]) -> list[Found]:
    """The layers from whose output no other of them is computed."""
    nodes = {layer.node for layer in layers}
    return [layer for layer in layers if not nodes & _after(layer.end)]


def _after(node: fx.Node) -> set[fx.Node]:
    """The nodes that are computed from what a node gives."""
    seen: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user not in seen:
            seen.add(user)
            waiting += list(user.users)
    return seen


def _own(node: fx.Node) -> str:
    """A name for one of several layers of a module: that of its weights, else of what it computes."""
    weight = node.args[1] if len(node.args) > 1 else None
    if not _why(node) and isinstance(weight, fx.Node) and weight.op == "get_attr":
        return str(weight.target).removesuffix("weight").rstrip("._") or node.name
    module = module_name(node)
    return f"{module}.{node.name}" if module else node.name


def _end(node: fx.Node) -> fx.Node:
    """The activation behind a layer that its int8 kernel computes with it, or the layer itself."""
    users = list(node.users)
    if len(users) != 1:
        return node
    user = users[0]
    clips = user.target in CLIPS or (user.target in HARDTANH and user.args[1:2] == (0.0,))
    return user if clips else node


def _why(node: fx.Node) -> str:
    """Why a node stays float, empty where it can be int8."""
    if rewritable(node):
        return ""
    if node.target in KEPT:
        return KEPT[node.target]
    weight = node.args[1]
    constant = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return "" if constant else "its weights are computed in the graph: nothing to round beforehand"
