"""The graph of a .tflite file that a session runs, and its tensors: names, free dimensions, scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from edgekit.errors import InputError
from edgekit.tensors import Array, Quantization, TensorSpec, border_spec

PREFIX = "serving_default_"
Details = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Graph:
    """What an interpreter tells of the inputs and outputs of a graph; `runner` is None for the main one.

    `names` are those of its signature, by the index of the tensor.
    """

    inputs: Details
    outputs: Details
    names: Mapping[int, str] = field(default_factory=dict)
    runner: Any = None


def graph(file: str, interpreter: Any, asked: str | None) -> Graph:
    """The graph of the signature `asked`, or the one that there is; files need no signature at all.

    Raises:
        InputError: the file has several and none was named, or none of that name.
    """
    have = list(interpreter.get_signature_list())
    if asked is not None and asked not in have:
        raise InputError(f"got the signature '{asked}': '{file}' has {', '.join(have) or 'none'}")
    if asked is None and len(have) > 1:
        raise InputError(
            f"'{file}' has the signatures {', '.join(have)}: name one with options=LiteRtOptions(signature='{have[0]}')"
        )
    main = Graph(interpreter.get_input_details(), interpreter.get_output_details())
    if not have:
        return main
    runner = interpreter.get_signature_runner(asked or have[0])
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    named = {int(d["index"]): name for ends in (outputs, inputs) for name, d in ends.items()}
    whole = {int(d["index"]) for d in (*main.inputs, *main.outputs)}
    if getattr(runner, "_subgraph_index", -1) == 0 and set(named) == whole:
        return Graph(main.inputs, main.outputs, named)
    return Graph(list(inputs.values()), list(outputs.values()), named, runner)


def specs(file: str, told: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a graph.

    Raises:
        TensorError: a tensor holds no numbers.
    """
    inputs, outputs = (
        tuple(
            _spec(file, detail, name) for detail, name in zip(details, _names(details, kind, told.names), strict=True)
        )
        for details, kind in ((told.inputs, "input"), (told.outputs, "output"))
    )
    return inputs, outputs


def as_stated(found: Sequence[TensorSpec], stated: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """A quantized tensor counts as the float32 that a manifest states for it; the session converts."""
    if len(found) != len(stated):
        return tuple(found)
    return tuple(
        msgspec.structs.replace(own, dtype="float32", quantization=None)
        if own.quantization is not None and said.dtype == "float32"
        else own
        for own, said in zip(found, stated, strict=True)
    )


def stored(array: Array, own: TensorSpec, spec: TensorSpec) -> Array:
    """What a session's input is in the file: integers, where the manifest states float32 for them."""
    return array if own.dtype == spec.dtype or own.quantization is None else own.quantization.stored(array, own.dtype)


def restored(array: Array, own: TensorSpec, spec: TensorSpec) -> Array:
    """What the file gives, as the session states it."""
    return array if own.dtype == spec.dtype or own.quantization is None else own.quantization.restored(array)


def _names(details: Details, kind: str, signed: Mapping[int, str]) -> list[str]:
    """One name for each tensor, as a caller passes arrays by name: that of the signature, else its own without what
    converters add, else "input_0"; the second "x" is "x_1".
    """
    taken: list[str] = []
    for place, detail in enumerate(details):
        own = detail["name"].removeprefix(PREFIX).split(":")[0] or f"{kind}_{place}"
        name = signed.get(int(detail["index"]), own)
        taken.append(name if name not in taken else f"{name}_{place}")
    return taken


def _spec(file: str, detail: Mapping[str, Any], name: str) -> TensorSpec:
    sizes = detail.get("shape_signature", detail["shape"])
    sizes = sizes if len(sizes) == len(detail["shape"]) else detail["shape"]
    shape = tuple(int(n) if n >= 0 else f"{name}_dim{i}" for i, n in enumerate(sizes))
    dtype = np.dtype(detail["dtype"])
    scale, zero = detail["quantization"]
    quantized = dtype.kind in "iu" and scale > 0
    return border_spec(
        file,
        name,
        "string" if dtype.kind in "SUO" else dtype.name,
        shape,
        quantization=Quantization(float(scale), int(zero)) if quantized else None,
    )
