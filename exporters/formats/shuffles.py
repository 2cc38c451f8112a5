"""Pixel shuffles for TFLite: in four axes at most, which is what GPUs and NPUs take.

Written out, a pixel shuffle is a transposition of six axes (Shi et al. 2016). Where the channels come in the order in
which their pixels lie in a row, one of four axes is left; and that order costs nothing where a convolution computes
the channels, for its weights can lie in any.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

SHUFFLE = aten.pixel_shuffle.default
SINGLY = {  # what gives each value by itself, so that the order of channels passes through
    aten.relu.default, aten.relu_.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default,
    aten.leaky_relu.default, aten.sigmoid.default, aten.tanh.default, aten.silu.default, aten.gelu.default,
}  # fmt: skip
PAIRS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
CONVOLUTIONS = {aten.conv2d.default, aten.conv2d.padding}
ROUNDS = {f"quantized_decomposed::{kind}quantize_per_tensor" for kind in ("", "de")}
ROUNDS_WEIGHTS = {f"quantized_decomposed::{kind}quantize_per_channel" for kind in ("", "de")}
GROUPS = 6  # which argument of a convolution
NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


def in_four_axes(module: fx.GraphModule) -> fx.GraphModule:
    """The module with the pixel shuffles of its images written out, in place."""
    shuffles: list[Any] = [n for n in module.graph.nodes if n.target == SHUFFLE and _of_images(n)]
    for node in shuffles:
        x, factor = node.args
        with module.graph.inserting_before(node):
            if _reorderable(x, node):
                _reorder(module, x, order(x.meta["val"].shape[1], factor))
            else:
                x = _by_pixels(node, x, factor)
            node.replace_all_uses_with(_rows(node, x, factor))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _of_images(node: Any) -> bool:
    """Whether a node gives a batch of images of known sizes, which files for TFLite have."""
    value = node.meta["val"]
    return value.ndim == 4 and all(isinstance(size, int) for size in value.shape)


def order(channels: int, factor: int) -> Tensor:
    """The channels that a pixel shuffle takes, in the order of the pixels that they become: those of one beside each other."""
    return torch.arange(channels).view(-1, factor**2).T.flatten()


def _reorderable(node: Any, user: Any) -> bool:
    """Whether the channels of what a node gives to one user alone can come in another order."""
    if not isinstance(node, fx.Node) or set(node.users) != {user}:
        return False
    if _singly(node):
        return _reorderable(node.args[0], node)
    if node.target in PAIRS:
        parts = [part for part in node.args if isinstance(part, fx.Node)]  # the others are numbers
        shapes = {part.meta["val"].shape for part in parts}
        return len(shapes) == 1 and len(set(parts)) == len(parts) and all(_reorderable(p, node) for p in parts)
    if node.target == aten.cat.default:
        joined: Any = node.args[0]
        return node.args[1:] == (1,) and all(part.meta["val"].shape[1] == 1 for part in joined)
    plain = node.target in CONVOLUTIONS and node.args[GROUPS:] in ((), (1,)) and not node.kwargs
    return plain and all(part is None or _constant(part) for part in node.args[1:3])


def _singly(node: Any) -> bool:
    return node.target in SINGLY or _name(node) in ROUNDS


def _constant(node: Any) -> bool:
    """Whether a node is a weight or a bias, as it is or with steps of its own for each output channel."""
    rounded = _name(node) in ROUNDS_WEIGHTS and node.args[3] == 0
    return node.op == "get_attr" or (rounded and all(map(_constant, node.all_input_nodes)))


def _name(node: Any) -> str:
    """The operator's name; those of quantization are defined by torchao, which need not be there."""
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else ""


def _reorder(module: fx.GraphModule, node: Any, places: Tensor) -> None:
    """Have the channels of what a node gives come in another order."""
    if _singly(node):
        _reorder(module, node.args[0], places)
    elif node.target in PAIRS:
        for part in node.args:
            if isinstance(part, fx.Node):
                _reorder(module, part, places)
    elif node.target == aten.cat.default:
        node.update_arg(0, [node.args[0][place] for place in places])
    else:
        for place, part in enumerate(node.args[1:3], start=1):
            node.update_arg(place, part and _ordered(module, part, places))


def _ordered(module: fx.GraphModule, node: Any, places: Tensor) -> Any:
    """A weight or a bias in another order; what else uses it keeps the one that it has."""
    with module.graph.inserting_before(node):
        if node.op != "get_attr":
            made = module.graph.node_copy(node, lambda part: _ordered(module, part, places))
        else:
            name = f"_{node.name}_by_pixel"
            while hasattr(module, name):  # another shuffle's, which may have another order
                name += "_"
            module.register_buffer(name, operator.attrgetter(str(node.target))(module).detach()[places])
            made = module.graph.get_attr(name)
        made.meta = dict(node.meta)
    return made


def _rows(at: Any, x: Any, factor: int) -> Any:
    """Channels in the order of their pixels → the pixels, rows below each other."""
    batch, channels, height, width = x.meta["val"].shape
    strips = _call(at, aten.permute.default, x, NHWC)
    strips = _call(at, aten.reshape.default, strips, [batch * height, width, factor, channels // factor])
    rows = _call(at, aten.permute.default, strips, [0, 2, 1, 3])
    rows = _call(at, aten.reshape.default, rows, [batch, height * factor, width * factor, channels // factor**2])
    return _call(at, aten.permute.default, rows, NCHW)


def _by_pixels(at: Any, x: Any, factor: int) -> Any:
    """Channels as a pixel shuffle takes them → in the order of their pixels."""
    batch, channels, height, width = x.meta["val"].shape
    cells = _call(at, aten.permute.default, x, NHWC)
    cells = _call(at, aten.reshape.default, cells, [batch, height * width, channels // factor**2, factor**2])
    cells = _call(at, aten.permute.default, cells, [0, 1, 3, 2])
    cells = _call(at, aten.reshape.default, cells, [batch, height, width, channels])
    return _call(at, aten.permute.default, cells, NCHW)


def _call(at: Any, target: Any, *args: Any) -> Any:
    """A node before another one, which has its module and its source line."""
    node = at.graph.call_function(target, args)
    node.meta = {**at.meta, "val": target(*fx.node.map_arg(args, lambda part: part.meta["val"]))}
    return node
