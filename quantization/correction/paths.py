"""Paths: where channels lie behind the operators that keep their scale."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from edgekit.quantization.correction.network import aten, shape_of

SAME = (  # operators of one tensor, each channel by itself, for which f(s·x) = s·f(x)
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default, aten.prelu.default,
    aten.dropout.default, aten.dropout_.default, aten.contiguous.default, aten.clone.default, aten.alias.default,
    aten.neg.default, aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default,
    aten.avg_pool2d.default, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.detach_.default,
)  # fmt: skip
RESHAPES = (
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.squeeze.dim,
    aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default,
)  # fmt: skip
SWAPS = (aten.transpose.int, aten.permute.default, aten.movedim.int)
PRODUCTS = (aten.mul.Tensor, aten.mul_.Tensor)
GATES = (aten.sigmoid.default, aten.hardsigmoid.default)


@dataclass(frozen=True)
class Place:
    """Where the channels of a space lie in what a node gives.

    Along `axis`, from `offset` on, each `repeat` times running; `whole` where nothing else lies along it.
    """

    axis: int
    offset: int = 0
    repeat: int = 1
    whole: bool = True


def through(node: fx.Node, user: fx.Node, place: Place) -> Place | None:
    """Where channels lie behind an operator that keeps their scale; None where it does not."""
    target = user.target
    if target in SAME:
        return place if argument(user, 0) is node else None
    if target in RESHAPES:
        return reshaped(shape_of(node), shape_of(user), place)
    if target in SWAPS:
        return _swapped(user, place)
    if target is aten.mean.dim:
        return _meaned(user, place, len(shape_of(node)))
    if target is aten.pad.default:
        return _padded(user, place, len(shape_of(node)))
    if target is aten.cat.default:
        return _joined(node, user, place)
    if target in PRODUCTS or target is aten.div.Tensor:
        other = [a for a in user.args[:2] if a is not node]
        if len(other) == 1 and (not isinstance(other[0], fx.Node) or (_gate(other[0]) and target in PRODUCTS)):
            return place if user.args[0] is node or target in PRODUCTS else None
    return None


def reshaped(before: tuple[int, ...], after: tuple[int, ...], place: Place) -> Place | None:
    """Where channels lie in a new shape of the same values, where they lie along one axis there too."""
    lead, size = math.prod(before[: place.axis]), before[place.axis]
    inner = list(_products(before[place.axis + 1 :]))
    for axis, length in reversed(list(enumerate(after))):
        if math.prod(after[:axis]) == lead and length % size == 0 and length // size in inner:
            more = length // size
            return Place(axis, place.offset * more, place.repeat * more, place.whole)
    return None


def _products(sizes: tuple[int, ...]) -> Iterator[int]:
    return itertools.accumulate(sizes, operator.mul, initial=1)


def _swapped(user: fx.Node, place: Place) -> Place | None:
    rank = len(shape_of(user))
    order = list(range(rank))
    if user.target is aten.permute.default:
        order = [int(a) % rank for a in argument(user, 1)]
    elif user.target is aten.transpose.int:
        first, second = (int(argument(user, n)) % rank for n in (1, 2))
        order[first], order[second] = order[second], order[first]
    else:
        return None
    return Place(order.index(place.axis), place.offset, place.repeat, place.whole)


def _meaned(user: fx.Node, place: Place, rank: int) -> Place | None:
    axes = argument(user, 1)
    if axes is None:
        return None
    gone = sorted(int(a) % rank for a in ([axes] if isinstance(axes, int) else axes))
    keeps = len(user.args) > 2 and bool(user.args[2])
    if place.axis in gone:
        return None
    return (
        place
        if keeps
        else Place(place.axis - sum(a < place.axis for a in gone), place.offset, place.repeat, place.whole)
    )


def _padded(user: fx.Node, place: Place, rank: int) -> Place | None:
    pads = argument(user, 1)
    value = user.args[3] if len(user.args) > 3 else user.kwargs.get("value")
    return place if place.axis < rank - len(pads) // 2 and not value else None


def _joined(node: fx.Node, user: fx.Node, place: Place) -> Place | None:
    parts = argument(user, 0)
    axis = int(user.args[1]) if len(user.args) > 1 else int(user.kwargs.get("dim", 0))  # type: ignore[arg-type]
    if axis % len(shape_of(user)) != place.axis or sum(part is node for part in parts) != 1:
        return None
    before = sum(shape_of(part)[place.axis] for part in parts[: parts.index(node)])
    return Place(place.axis, place.offset + before, place.repeat, whole=False)


def _gate(node: Any) -> bool:
    """Whether a node is a factor that other layers made of what they took: squeeze and excitation."""
    return isinstance(node, fx.Node) and node.target in GATES


def argument(node: fx.Node, place: int) -> Any:
    """An argument of an operator, None where it keeps its default."""
    return node.args[place] if len(node.args) > place else None
