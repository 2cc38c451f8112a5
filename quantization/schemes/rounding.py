"""Rounding of weights, one for all formats: symmetric, a scale for each output channel, or for groups of a row."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edgekit.tensors import Array

GROUP = 32  # weights that share a scale in 4 bits; LiteRT's kernels have no smaller group
LIMITS = {8: 127, 4: 7}  # the largest value of a bit width; the one below −limit is left out


@dataclass(frozen=True)
class Form:
    """How the weights of a layer are kept: 16 bits are float16; `group` 0 is one scale for each output channel.

    `dynamic`: the layer's inputs are rounded to int8 as they come, and the product is one of whole numbers.
    """

    bits: int
    group: int = 0
    dynamic: bool = False


HALF = Form(16)
STORED = Form(8)
DYNAMIC = Form(8, dynamic=True)
GROUPS = Form(4, GROUP, dynamic=True)


@dataclass(frozen=True)
class Rounded:
    """`values` (int8, output channels × the rest) times `scales` (float32, output channels × groups)."""

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]


def rounded(rows: Array, form: Form) -> Rounded:
    """Round a matrix to whole numbers.

    Args:
        rows: float32, output channels × the rest, whose size `form.group` divides.

    Scales of groups are bfloat16 numbers, as LiteRT keeps them; all other engines hold these exactly.
    """
    limit = LIMITS[form.bits]
    grouped = rows.reshape(len(rows), -1, form.group or rows.shape[1])
    scales = np.maximum(np.abs(grouped).max(axis=2, keepdims=True), np.float32(1e-9)) / np.float32(limit)
    if form.group:
        scales = scales.astype(ml_dtypes.bfloat16).astype(np.float32)
    values = np.divide(grouped, scales)
    np.clip(np.rint(values, out=values), -limit, limit, out=values)
    return Rounded(values.astype(np.int8).reshape(rows.shape), scales[:, :, 0])
