"""Rewrites: operators that a converter lacks, or gets wrong, put in other words before the conversion.

Each function takes the operator's own arguments and gives what it gives, or NotImplemented where the converter does
well with them. Every one comes from a row of docs/operators.md that failed without it, and is exact but for the order
of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.exporters.formats.resampling import Filter, cubic, cubic_taps, resized, triangle

aten = torch.ops.aten
Rewrite = Callable[..., Any]


def rewritten(program: torch.export.ExportedProgram, format: str) -> torch.export.ExportedProgram:
    """The program in words that the converter of a format understands; the same one where nothing is to be said.

    `format` may name a precision as well, "tflite int8".

    Free dimensions, names of modules and source lines are kept.
    """
    table = REWRITES[format]
    if not {node.target for node in program.graph.nodes} & set(table):
        return program
    changed: torch.export.ExportedProgram = program.run_decompositions(
        {target: _guarded(rewrite) for target, rewrite in table.items()}
    )
    return changed


def _guarded(rewrite: Rewrite) -> Rewrite:
    """The same; the operator itself where the rewrite calls it with other arguments."""
    within = False

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal within
        if within:
            return NotImplemented
        within = True
        try:
            return rewrite(*arguments, **named)
        finally:
            within = False

    return call


def transposed_convolution(rank: int) -> Rewrite:
    """output_padding as zeros at the kernel's end; with dilation, and in three dimensions, an ordinary convolution."""
    operator = {1: aten.conv_transpose1d.default, 2: aten.conv_transpose2d.input, 3: None}[rank]

    def rewrite(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Sequence[int] = (1,) * rank,
        padding: Sequence[int] = (0,) * rank, output_padding: Sequence[int] = (0,) * rank, groups: int = 1,
        dilation: Sequence[int] = (1,) * rank,
    ) -> Any:  # fmt: skip
        if operator is None or set(dilation) != {1}:
            ends = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
            return NotImplemented if groups > 1 else convolved(x, weight, bias, stride, ends, output_padding, dilation)
        if not any(output_padding):
            return NotImplemented
        weight = F.pad(weight, [n for end in reversed(output_padding) for n in (0, end)])
        return operator(x, weight, bias, stride, padding, [0] * rank, groups, [1] * rank)

    return rewrite


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], ends: Sequence[int], extra: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    """A transposed convolution as a convolution with the turned kernel over the input with zeros between its values."""
    around = [n for end, more in zip(reversed(ends), reversed(extra), strict=True) for n in (end, end + more)]
    turned = weight.flip(*range(2, weight.ndim)).transpose(0, 1)
    apply = {3: aten.conv1d.default, 4: aten.conv2d.default, 5: aten.conv3d.default}[x.ndim]
    ones, none = [1] * len(stride), [0] * len(stride)
    result: Tensor = apply(F.pad(spread(x, stride), around), turned, bias, ones, none, list(dilation))
    return result


def spread(x: Tensor, steps: Sequence[int]) -> Tensor:
    """batch × channels × …, with steps − 1 zeros between the values of each further axis."""
    for axis, step in enumerate(steps, start=2):
        if step > 1:
            shape, size = list(x.shape), x.shape[axis]
            cells = F.pad(x.reshape(-1, size, 1, math.prod(shape[axis + 1 :])), [0, 0, 0, step - 1])  # 4 axes at most
            rows = cells.flatten(1, 2).narrow(1, 0, (size - 1) * step + 1)
            x = rows.reshape(*shape[:axis], -1, *shape[axis + 1 :])
    return x


def circular_padding(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """The other end of each axis put before and behind it."""
    if mode != "circular" or any(n < 0 for n in pad):
        return NotImplemented
    for index, (before, behind) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = x.ndim - 1 - index
        parts = [x.narrow(axis, x.shape[axis] - before, before), x, x.narrow(axis, 0, behind)]
        x = torch.cat([p for p, n in zip(parts, (before, 1, behind), strict=True) if n], axis)
    return x


def max_pool_ceil(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """ceil_mode as padding: litert-torch leaves it out, and the last row and column are lost."""
    if not ceil_mode:
        return NotImplemented
    strides, ends = list(stride) or list(kernel), []
    for size, k, s, p, d in zip(x.shape[2:], kernel, strides, padding, dilation, strict=True):
        count = -(-(size + 2 * p - d * (k - 1) - 1) // s) + 1
        count -= (count - 1) * s >= size + p  # no window begins in the padding
        ends.append(max(0, (count - 1) * s + d * (k - 1) + 1 - size - 2 * p))
    x = F.pad(x, [0, ends[1], 0, ends[0]], value=-torch.finfo(x.dtype).max)
    return aten.max_pool2d.default(x, kernel, strides, padding, dilation, False)


def adaptive_max_pool(x: Tensor, size: Sequence[int]) -> Any:
    """A pooling of equal windows, where the input's sides are multiples of the output's."""
    if any(n % s for n, s in zip(x.shape[2:], size, strict=True)):
        return NotImplemented
    kernel = [n // s for n, s in zip(x.shape[2:], size, strict=True)]
    return max_pool_with_indices(x, kernel, kernel)


def max_pool_with_indices(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1), ceil_mode: bool = False,
) -> Any:  # fmt: skip
    """Indices from the largest of all shifted pictures: those that litert-torch writes are wrong."""
    if ceil_mode or x.ndim != 4:
        return NotImplemented
    (down, right), (high, wide) = list(stride) or kernel, kernel
    values = aten.max_pool2d.default(x, kernel, [down, right], padding, dilation, False)
    rows, columns = values.shape[2:]
    padded = F.pad(x, [padding[1], padding[1], padding[0], padding[0]], value=-torch.finfo(x.dtype).max)
    shifted = [
        padded[:, :, i * dilation[0] :, j * dilation[1] :][:, :, ::down, ::right][:, :, :rows, :columns]
        for i in range(high)
        for j in range(wide)
    ]
    largest = torch.stack(shifted).argmax(0)
    top = torch.arange(rows)[:, None] * down - padding[0] + largest // wide * dilation[0]
    left = torch.arange(columns) * right - padding[1] + largest % wide * dilation[1]
    return values, top * x.shape[3] + left


def nearest(x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None) -> Any:
    """Rows and columns picked by index: litert-torch rounds another way where the sizes are no multiples."""
    target = list(size) if size is not None else [int(n * f) for n, f in zip(x.shape[2:], factors or (), strict=True)]
    if not any(n % old for n, old in zip(target, x.shape[2:], strict=True)):
        return NotImplemented
    for axis, (old, new) in enumerate(zip(x.shape[2:], target, strict=True)):
        step = 1.0 / factors[axis] if factors is not None else old / new
        places = (torch.arange(new, dtype=torch.float32) * step).floor().clamp(max=old - 1)
        x = x.index_select(axis + 2, places.to(torch.int64))
    return x


def bicubic(x: Tensor, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None) -> Any:
    """Enlarging by whole numbers, as four weighted neighbours a phase: litert-torch gathers every one of 16 by index."""
    target = list(size) if size is not None else [int(n * f) for n, f in zip(x.shape[2:], factors or (), strict=True)]
    if align_corners or any(new % old for new, old in zip(target, x.shape[2:], strict=True)):
        return NotImplemented
    if factors is not None and any(f != int(f) for f in factors):
        return NotImplemented
    for axis, new in enumerate(target, start=2):
        old = x.shape[axis]
        around = F.pad(x, [0, 0, 2, 2] if axis == 2 else [2, 2, 0, 0], mode="replicate")
        phases = []
        for phase in range(new // old):
            first, taps = cubic_taps((phase + 0.5) * old / new - 0.5)
            parts = [tap * around.narrow(axis, 2 + first + i, old) for i, tap in enumerate(taps) if tap]
            phases.append(sum(parts[1:], parts[0]))
        x = torch.stack(phases, axis + 1).flatten(axis, axis + 1)
    return x


def antialiased(kernel: Filter) -> Rewrite:
    """A product with a matrix for each axis, where sizes are fixed: OpenVINO ignores the wish, TFLite lacks it."""

    def rewrite(
        x: Tensor, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
    ) -> Any:
        return resized(x, kernel, size, align_corners, factors)

    return rewrite


def reflected_samples(x: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool) -> Any:
    """Places beyond the border are reflected first, in coordinates of −1…1."""
    if padding != 2 or interpolation == 2:
        return NotImplemented
    inside = 1.0 - (torch.remainder(grid + 1.0, 4.0) - 2.0).abs()
    return aten.grid_sampler.default(x, inside, interpolation, 1, align_corners)


def column_to_image(
    x: Tensor, size: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:  # fmt: skip
    """F.fold as the transposed convolution that it is, each value of a block going to a place of its own."""
    area = kernel[0] * kernel[1]
    batched = x if x.ndim == 3 else x[None]
    channels = batched.shape[1] // area
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    ends = [
        n - ((count - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, count, s, p, d, k in zip(size, sides, stride, padding, dilation, kernel, strict=True)
    ]
    places = torch.arange(area)
    one_each = (places[:, None] == places).to(x.dtype).view(area, 1, *kernel).repeat(channels, 1, 1, 1)
    blocks = batched.reshape(batched.shape[0], channels * area, *sides)
    image = F.conv_transpose2d(
        blocks, one_each, None, tuple(stride), tuple(padding), tuple(ends), channels, tuple(dilation)
    )
    return image if x.ndim == 3 else image[0]


def bilinear_form(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """nn.Bilinear as two products."""
    result = torch.einsum("...i,kij,...j->...k", a, weight, b)
    return result if bias is None else result + bias


def topk(x: Tensor, k: int, axis: int = -1, largest: bool = True, ordered: bool = True) -> Any:
    """Values fetched by their places: where values alone are used, litert-torch writes a sort that LiteRT cannot run."""
    places = torch.topk(x if largest else -x, k, axis)[1]
    return x.gather(axis, places), places


def sorted_by_topk(x: Tensor, axis: int = -1, descending: bool = False) -> Any:
    """The k largest or smallest of k."""
    return torch.topk(x, x.shape[axis], axis, largest=descending)


def squeeze(x: Tensor, axis: int) -> Any:
    """Nothing, where the axis is longer than 1: ONNX Runtime refuses a Squeeze of it."""
    size = x.shape[axis] if x.ndim else 1
    return x if isinstance(size, int) and size != 1 else NotImplemented


def kth_value(x: Tensor, k: int, axis: int = -1, keep: bool = False) -> Any:
    """The last of the k smallest."""
    ends = [t.narrow(axis, k - 1, 1) for t in torch.topk(x, k, axis, largest=False)]
    return tuple(ends) if keep else tuple(t.squeeze(axis) for t in ends)


def median(x: Tensor, axis: int, keep: bool = False) -> Any:
    """The lower of the two in the middle, as PyTorch has it."""
    return kth_value(x, (x.shape[axis] + 1) // 2, axis, keep)


def running_product(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Any:
    """Products of two, four, eight, … neighbours (Hillis and Steele 1986), where the size is fixed."""
    size, ahead = x.shape[axis], 1
    if not isinstance(size, int) or dtype is not None:
        return NotImplemented
    while ahead < size:
        ones = torch.ones_like(x.narrow(axis, 0, ahead))
        x = x * torch.cat([ones, x.narrow(axis, 0, size - ahead)], axis)
        ahead *= 2
    return x


def bucketize(x: Tensor, borders: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many borders lie below."""
    below = borders <= x.unsqueeze(-1) if right else borders < x.unsqueeze(-1)
    return below.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def scatter_add(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Any:
    """A product with rows that are 1 where an index points: LiteRT runs no scatter that adds."""
    axis = axis % x.ndim
    alike = all(index.shape[a] == source.shape[a] == x.shape[a] for a in range(x.ndim) if a != axis)
    if not alike or index.shape[axis] != source.shape[axis] or not x.dtype.is_floating_point:
        return NotImplemented
    places, values = index.movedim(axis, -1), source.movedim(axis, -1)
    hot = (places.unsqueeze(-1) == torch.arange(x.shape[axis], dtype=index.dtype)).to(x.dtype)
    return x + (values.unsqueeze(-2) @ hot).squeeze(-2).movedim(-1, axis)


def one_hot(index: Tensor, classes: int = -1) -> Any:
    """A comparison with every class: litert-torch stumbles over the check that all indices are below."""
    if classes < 0:
        return NotImplemented
    return (index.unsqueeze(-1) == torch.arange(classes, dtype=index.dtype)).to(torch.int64)


def hard_swish(x: Tensor) -> Tensor:
    """In words of which LiteRT's converter makes no int8 operator between int8 layers: XNNPACK has none, and breaks off there."""
    return x * (x / 6 + 0.5).clamp(0, 1)


def eye(rows: int, columns: int | None = None, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """A comparison of places: litert-torch leaves an operator of StableHLO, which LiteRT does not run."""
    places = torch.arange(rows)[:, None] == torch.arange(rows if columns is None else columns)
    return places.to(dtype or torch.float32)


def distances(a: Tensor, b: Tensor, p: float = 2.0, mode: int | None = None) -> Any:
    """cdist as the norm of all differences, which ONNX's exporter has no word for."""
    if p != 2.0:
        return NotImplemented
    return (a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1).sqrt()


EVERYWHERE: Mapping[Any, Rewrite] = {
    aten._upsample_bilinear2d_aa.vec: antialiased(triangle),
    aten._upsample_bicubic2d_aa.vec: antialiased(cubic),
    aten.median.dim: median,
    aten.kthvalue.default: kth_value,
    aten.cumprod.default: running_product,
}
ONNX: Mapping[Any, Rewrite] = {  # OpenVINO reads the same files
    **EVERYWHERE,
    aten.pad.default: circular_padding,
    aten.cdist.default: distances,
    aten.squeeze.dim: squeeze,
}
TFLITE: Mapping[Any, Rewrite] = {
    **EVERYWHERE,
    aten.conv_transpose1d.default: transposed_convolution(1),
    aten.conv_transpose2d.input: transposed_convolution(2),
    aten.conv_transpose3d.input: transposed_convolution(3),
    aten.max_pool2d.default: max_pool_ceil,
    aten.max_pool2d_with_indices.default: max_pool_with_indices,
    aten.adaptive_max_pool2d.default: adaptive_max_pool,
    aten.upsample_nearest2d.vec: nearest,
    aten.upsample_bicubic2d.vec: bicubic,
    aten.grid_sampler.default: reflected_samples,
    aten.col2im.default: column_to_image,
    aten.bilinear.default: bilinear_form,
    aten.topk.default: topk,
    aten.sort.default: sorted_by_topk,
    aten.scatter_add.default: scatter_add,
    aten.one_hot.default: one_hot,
    aten.eye.default: eye,
    aten.eye.m: eye,
    aten.bucketize.Tensor: bucketize,
}
TFLITE_INT8: Mapping[Any, Rewrite] = {**TFLITE, aten.hardswish.default: hard_swish}
REWRITES: Mapping[str, Mapping[Any, Rewrite]] = {
    "onnx": ONNX,
    "openvino": ONNX,
    "tflite": TFLITE,
    "tflite int8": TFLITE_INT8,
}
