"""Sub-pixel form of a transposed convolution: an ordinary one whose channels are then dealt out as pixels.

Each of the stride² pixels that an input pixel makes room for has taps of its own, so that one convolution computes
all of them as channels (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"). It takes
as many products where the kernel is a multiple of the stride, gives the same but for the order of additions, and runs
in int8 everywhere, which transposed convolution does in OpenVINO alone.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
TRANSPOSED = aten.conv_transpose2d.input
PLAIN = (
    None,
    None,
    (1, 1),
    (0, 0),
    (0, 0),
    1,
    (1, 1),
)  # weight, bias, stride, padding, output_padding, groups, dilation


def rewritable(node: fx.Node) -> bool:
    """Whether a node is a transposed convolution that has a sub-pixel form here: no groups, no dilation."""
    if node.target != TRANSPOSED:
        return False
    weight, _, stride, _, _, groups, dilation = _settings(node)
    constant = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return constant and groups == 1 and set(dilation) == {1} and len(set(stride)) == 1


def rewrite(module: fx.GraphModule) -> fx.GraphModule:
    """The module with its transposed convolutions in sub-pixel form, in place."""
    for node in [node for node in module.graph.nodes if rewritable(node)]:
        _rewrite(module, node)
    module.recompile()
    return module


def _rewrite(module: fx.GraphModule, node: fx.Node) -> None:
    weight, bias, (step, _), padding, extra, _, _ = _settings(node)
    kernel = operator.attrgetter(str(weight.target))(module).detach()
    taps = [-(-(k + e) // step) for k, e in zip(kernel.shape[2:], extra, strict=True)]
    ends = [t * step - k - e + p for t, k, e, p in zip(taps, kernel.shape[2:], extra, padding, strict=True)]
    with module.graph.inserting_before(node):
        around = [taps[1] - 1] * 2 + [taps[0] - 1] * 2
        x = node.args[0] if not any(around) else _call(node, aten.constant_pad_nd.default, node.args[0], around, 0.0)
        parts: list[Any] = [_constant(module, node, "weight", phases(kernel, step, taps))]
        if isinstance(bias, fx.Node):
            every = operator.attrgetter(str(bias.target))(module).detach().repeat_interleave(step**2)
            parts.append(_constant(module, node, "bias", every))
        x = _call(node, aten.conv2d.default, x, *parts)
        x = x if step == 1 else _call(node, aten.pixel_shuffle.default, x, step)
        for axis, (before, behind) in enumerate(zip(padding, ends, strict=True), start=2):
            if before or behind:
                x = _call(node, aten.slice.Tensor, x, axis, before, -behind if behind else 2**63 - 1)
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)


def phases(kernel: Tensor, step: int, taps: list[int]) -> Tensor:
    """inputs × outputs × k × k of a transposed convolution → (outputs · step²) × inputs × taps of the ordinary one."""
    inputs, outputs = kernel.shape[:2]
    high, wide = (t * step for t in taps)
    whole = torch.nn.functional.pad(kernel, [0, wide - kernel.shape[3], 0, high - kernel.shape[2]])
    split = whole.view(inputs, outputs, taps[0], step, taps[1], step).flip(2, 4)
    return split.permute(1, 3, 5, 0, 2, 4).reshape(outputs * step**2, inputs, *taps).contiguous()


def _settings(node: fx.Node) -> tuple[Any, ...]:
    """The arguments behind the input, those left out as PyTorch has them."""
    given = node.args[1:]
    return (*given, *PLAIN[len(given) :])


def _call(at: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A node in the place of another, which has its module and its source line."""
    node = at.graph.call_function(target, args)
    node.meta = {key: value for key, value in at.meta.items() if key != "val"}
    values = fx.node.map_arg(args, lambda n: n.meta["val"])
    with at.meta["val"].fake_mode:
        node.meta["val"] = target(*values)
    return node


def _constant(module: fx.GraphModule, at: fx.Node, kind: str, value: Tensor) -> fx.Node:
    name = f"_subpixel_{at.name}_{kind}"
    module.register_buffer(name, value)
    node = module.graph.get_attr(name)
    node.meta["val"] = at.meta["val"].fake_mode.from_tensor(value)
    return node
