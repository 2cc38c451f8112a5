"""Sizing: how the sizes of outputs follow the free dimensions of inputs, found by running at other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
import torch
from torch import nn

from edgekit.exporters.flat import flattened
from edgekit.tensors import Array, Dimension, TensorSpec

STEPS = (1, 2, 3, 4, 8, 16, 32, 64, -1, -2, -4, -8)  # to other sizes; a network may take even ones alone
RUNS = 3

Shapes = tuple[tuple[int, ...], ...]


def sized(
    module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], arrays: Sequence[Array]
) -> tuple[TensorSpec, ...]:
    """The outputs' specs with sizes in terms of the inputs' free dimensions.

    A size is "height", "2*height", "height/4", "height+2" or "2*height-1" where it follows one dimension in a
    straight line at every size that was tried; else it has a name of its own, such as "output_2".
    """
    base = {
        d: size
        for spec, array in zip(inputs, arrays, strict=True)
        for d, size in zip(spec.shape, array.shape, strict=True)
        if isinstance(d, str)
    }
    shapes = {name: _shapes_at(module, inputs, arrays, base, name) for name in base}
    return tuple(
        msgspec.structs.replace(
            spec,
            shape=tuple(
                _named(
                    f"{spec.name}_{axis}",
                    size,
                    {n: {at: s[i][axis] for at, s in shapes[n].items()} for n in base},
                    base,
                )
                for axis, size in enumerate(spec.shape)
                if isinstance(size, int)
            ),
        )
        for i, spec in enumerate(outputs)
    )


def _shapes_at(
    module: nn.Module, inputs: Sequence[TensorSpec], arrays: Sequence[Array], base: Mapping[str, int], name: str
) -> dict[int, Shapes]:
    """The outputs' shapes where one dimension has other sizes, by its size; those that the module refuses are left out."""
    found: dict[int, Shapes] = {}
    for step in STEPS:
        size = base[name] + step
        if len(found) == RUNS or size < 1:
            break
        try:
            found[size] = _shapes(module, [s.bound({**base, name: size}) for s in inputs], arrays)
        except Exception:  # a size that this network does not take
            continue
    ranks = {tuple(len(shape) for shape in shapes) for shapes in found.values()}
    return found if len(ranks) <= 1 else {}


def _shapes(module: nn.Module, inputs: Sequence[TensorSpec], arrays: Sequence[Array]) -> Shapes:
    tensors = [torch.from_numpy(fitted(a, s.shape)) for a, s in zip(arrays, inputs, strict=True)]
    with torch.inference_mode():
        return tuple(tuple(t.shape) for _, t in flattened(module(*tensors)))


def _named(own: str, size: int, followed: Mapping[str, Mapping[int, int]], base: Mapping[str, int]) -> Dimension:
    """A size at the base, and at other sizes of each free dimension, as an expression; `own` where there is none."""
    moving = [name for name, at in followed.items() if any(other != size for other in at.values())]
    untried = [name for name, at in followed.items() if not at]
    if not moving:
        return own if untried and size in base.values() else size
    if len(moving) > 1:
        return own
    (name,) = moving
    (first, other), *more = followed[name].items()
    slope = Fraction(other - size, first - base[name])
    offset = size - slope * base[name]
    if slope <= 0 or not more or any(slope * at + offset != found for at, found in more):
        return own
    return _written(name, slope, offset) or own


def _written(name: str, slope: Fraction, offset: Fraction) -> str:
    """ "2*height-1"; "" where it is neither a multiple nor a part."""
    if 1 not in (slope.numerator, slope.denominator) or offset.denominator != 1:
        return ""
    text = f"{slope.numerator}*{name}" if slope.numerator != 1 else name
    text += f"/{slope.denominator}" if slope.denominator != 1 else ""
    return text + (f"{int(offset):+d}" if offset else "")


def fitted(array: Array, shape: Sequence[Dimension], empty: int | None = None) -> Array:
    """An array cropped, or repeated, to the sizes that a shape fixes; filled up with `empty` rather, where that is given."""
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            own = array.shape[axis]
            array = np.take(array, np.arange(size) % own, axis=axis)
            if empty is not None:
                array[(slice(None),) * axis + (slice(own, None),)] = empty
    return np.array(array, order="C")
