"""FloatSession: quantized and half-precision borders of a model as float32, converted on the way in and out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import numpy as np

from edgekit.session import Placement, Session
from edgekit.tensors import Array, TensorSpec


class FloatSession(Session):
    """A session whose quantized, float16 and float64 tensors are float32 to the caller; others are as they are.

    A float goes in as round(value / scale) + zero point, clipped to the dtype, and comes out as
    scale · (stored − zero point): what a TFLite QUANTIZE or an ONNX QuantizeLinear operator computes.
    """

    _serial = False  # the session within keeps order

    def __init__(self, inner: Session) -> None:
        super().__init__()
        self._inner = inner
        self.inputs = tuple(_as_float(spec) for spec in inner.inputs)
        self.outputs = tuple(_as_float(spec) for spec in inner.outputs)
        self.why, self.others, self.streams = inner.why, inner.others, inner.streams

    @contextmanager
    def borrow(self, inputs: Mapping[str, Array], *, check: bool = True) -> Iterator[dict[str, Array]]:
        """As Session.borrow; outputs that are converted are the caller's own."""
        arrays = self._checked(inputs) if check else [inputs[spec.name] for spec in self.inputs]
        with self._inner.borrow(self._stored(arrays), check=check) as outputs:
            yield dict(zip(outputs, self._restored(outputs.values()), strict=True))

    def placement(self) -> Placement:
        return self._inner.placement()

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        return self._restored(self._inner.run(self._stored(arrays), copy=copy).values())

    def _stored(self, arrays: Iterable[Array]) -> dict[str, Array]:
        return {spec.name: _stored(array, spec) for spec, array in zip(self._inner.inputs, arrays, strict=True)}

    def _restored(self, arrays: Iterable[Array]) -> list[Array]:
        return [_restored(array, spec) for spec, array in zip(self._inner.outputs, arrays, strict=True)]

    def _close(self) -> None:
        self._inner.close()


def as_floats(session: Session) -> Session:
    """The session with float32 borders; itself where no tensor needs a conversion."""
    if any(_converted(spec) for spec in (*session.inputs, *session.outputs)):
        return FloatSession(session)
    return session


def _converted(spec: TensorSpec) -> bool:
    return spec.quantization is not None or spec.dtype in ("float16", "float64")


def _as_float(spec: TensorSpec) -> TensorSpec:
    return msgspec.structs.replace(spec, dtype="float32", quantization=None) if _converted(spec) else spec


def _stored(array: Array, spec: TensorSpec) -> Array:
    if spec.quantization is not None:
        return spec.quantization.stored(array, spec.dtype)
    if spec.dtype == "float16":  # beyond its reach it would be infinite
        return array.clip(-65504, 65504).astype(np.float16)
    return array.astype(spec.dtype, copy=False)


def _restored(array: Array, spec: TensorSpec) -> Array:
    if spec.quantization is not None:
        return spec.quantization.restored(array)
    return array.astype(np.float32) if _converted(spec) else array
