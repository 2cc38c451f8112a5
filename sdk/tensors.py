"""TensorSpec: what a model expects of a tensor, and the check that a caller's array meets it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from edgekit.errors import TensorError

Array = npt.NDArray[Any]
Dimension = int | str
Layout = Literal["NCHW", "NHWC"]
TEXT = ("string", "tensor(string)", "bytes", "object")  # as engines name it
MOST_VALUES = 2**31 - 1  # what engines count in 32 bits
EXPRESSION = re.compile(r"(?:(?P<times>\d+)\*)?(?P<name>[A-Za-z_]\w*)(?:/(?P<by>[1-9]\d*))?(?P<plus>[+-]\d+)?")


Dtype = Literal[
    "float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool"
]  # fmt: skip


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How integers stand for real numbers: real = scale · (stored − zero_point), one scale for the whole tensor."""

    scale: float
    zero_point: int = 0

    def stored(self, array: Array, dtype: str) -> Array:
        """Floats as integers of `dtype`: rounded to the nearest, ties to even; what is out of reach is clipped."""
        limits = np.iinfo(dtype)
        exact = np.float32 if limits.bits <= 16 else np.float64
        rounded = np.rint(np.divide(array, self.scale, dtype=exact)) + exact(self.zero_point)
        return np.asarray(np.clip(rounded, limits.min, limits.max), dtype=dtype)

    def restored(self, array: Array) -> Array:
        """Stored integers as float32."""
        return np.asarray((array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale))

    def __str__(self) -> str:
        return f"scale {self.scale:.6g}, zero point {self.zero_point}"


NUMPY = {name: np.dtype(name) for name in get_args(Dtype)}


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Name, dtype, shape, layout and value range of one input or output.

    A dimension is an integer, or a name such as "height" where it is free (outputs may carry an
    expression such as "2*height", "height/4" or "height+2"). `layout` says which axis of an image is which; `range` is that of
    the values which stand for black and white. `quantization` tells what real numbers the integers of a quantized tensor mean.
    """

    name: str
    dtype: Dtype
    shape: tuple[Dimension, ...]
    layout: Layout | None = None
    range: tuple[float, float] | None = None
    quantization: Quantization | None = None

    def bound(self, sizes: Mapping[str, int]) -> TensorSpec:
        """The same spec with the free dimensions that `sizes` names fixed."""
        return msgspec.structs.replace(self, shape=tuple(_bound(d, sizes) for d in self.shape))

    def in_layout(self, layout: Layout) -> TensorSpec:
        """The same spec with its axes ordered as `layout`; unchanged where it has none of its own."""
        if self.layout is None or self.layout == layout:
            return self
        shape = tuple(self.shape[axis] for axis in axes(self.layout, layout))
        return msgspec.structs.replace(self, shape=shape, layout=layout)

    def check(self, array: object, sizes: dict[str, int]) -> Array:
        """Return the array, contiguous, if it fits this spec; `sizes` collects the free dimensions.

        Raises:
            TensorError: no array, another dtype or shape, or NaN in it.
        """
        if not isinstance(array, np.ndarray):
            if isinstance(array, np.generic) and not self.shape:
                return self.check(np.asarray(array), sizes)
            raise TensorError(
                f"{self.name}: got {type(array).__name__}, expected a NumPy array of {self}; "
                f"convert it with np.asarray(…, np.{self.dtype})"
            )
        if type(array) is not np.ndarray and isinstance(array, np.ma.MaskedArray):
            raise TensorError(
                f"{self.name}: got a masked array, expected plain values of {self}; fill it with .filled(…)"
            )
        if array.dtype != NUMPY[self.dtype]:
            raise TensorError(f"{self.name}: got dtype {array.dtype}, expected {self}; {self._remedy(array)}")
        if array.size > MOST_VALUES:
            raise TensorError(f"{self.name}: got {array.size} values ({array.shape}), expected {MOST_VALUES} at most")
        if array.shape != self.shape and not self._fits(array.shape, sizes):
            known = f" with {sizes}" if sizes else ""
            raise TensorError(f"{self.name}: got shape {array.shape}, expected {self}{known}")
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        if array.dtype.kind == "f":
            largest = np.maximum.reduce(array.reshape(-1))  # NaN if any is one: exact, at the speed of memory
            if largest != largest:
                self._refuse_nan(array)
        return array

    def _remedy(self, array: Array) -> str:
        if self.quantization is not None and array.dtype.kind == "f":
            return "quantize it by these, or open the session with floats=True, which does"
        return f"convert it with .astype(np.{self.dtype})"

    def _fits(self, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
        if len(shape) != len(self.shape) or 0 in shape:
            return False
        for size, expected in zip(shape, self.shape, strict=True):  # a loop: this runs before every call of an engine
            if size != expected and (isinstance(expected, int) or size != sizes.setdefault(expected, size)):
                return False
        return True

    def _refuse_nan(self, array: Array) -> None:
        nan = np.isnan(array)
        if nan.any():
            first = tuple(int(i) for i in np.unravel_index(int(nan.argmax()), array.shape))
            raise TensorError(
                f"{self.name}: {int(nan.sum())} of {array.size} values are NaN, the first at {first}; "
                "expected numbers: look at what made this input"
            )

    def __str__(self) -> str:
        shape = " × ".join(str(d) for d in self.shape)
        told = ", ".join(str(part) for part in (self.layout, self.quantization) if part)
        return f"{self.dtype} {shape or 'scalar'}{f' ({told})' if told else ''}"


def dtype_named(name: str) -> Dtype:
    """The dtype of this name.

    Raises:
        TensorError: no engine here has tensors of it.
    """
    if name not in get_args(Dtype):
        raise TensorError(f"got the dtype {name}: expected one of {', '.join(get_args(Dtype))}")
    return cast(Dtype, name)


def border_spec(
    file: str, name: str, dtype: str, shape: tuple[Dimension, ...], *, quantization: Quantization | None = None
) -> TensorSpec:
    """The spec of an input or output that an engine found in a model file.

    Raises:
        TensorError: it holds what NumPy arrays of numbers cannot, such as text; names file and tensor.
    """
    if dtype in get_args(Dtype):
        return TensorSpec(name, dtype_named(dtype), shape, quantization=quantization)
    held, remedy = f"values of the type {dtype}", "export the model with tensors of numbers"
    if dtype in TEXT:
        held, remedy = "text", "tokenize before the model, and export it without that part"
    expected = ", ".join(get_args(Dtype))
    raise TensorError(f"'{file}': the tensor '{name}' holds {held}, expected numbers ({expected}): {remedy}")


def axes(source: Layout, target: Layout) -> tuple[int, ...]:
    """The argument of `np.transpose` that takes `source` order to `target` order."""
    return tuple(source.index(letter) for letter in target)


def _bound(dimension: Dimension, sizes: Mapping[str, int]) -> Dimension:
    """An integer where `sizes` fixes the dimension; understands "height", "2*height", "height/4", "2*height-1"."""
    found = None if isinstance(dimension, int) else EXPRESSION.fullmatch(dimension)
    if found is None or found["name"] not in sizes:
        return dimension
    return int(found["times"] or 1) * sizes[found["name"]] // int(found["by"] or 1) + int(found["plus"] or 0)
