"""A .tflite file as other tools may write it, made from TFLite's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "uint16": schema.TensorType.UINT16,
    "int32": schema.TensorType.INT32,
    "uint32": schema.TensorType.UINT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "string": schema.TensorType.STRING,
    "complex64": schema.TensorType.COMPLEX64,
}


@dataclass(frozen=True)
class T:
    """A tensor; -1 in `shape` is free, `scale` quantizes, `data` makes it a constant."""

    name: str
    dtype: str = "float32"
    shape: tuple[int, ...] = (1, 4)
    scale: float = 0.0
    zero: int = 0
    data: np.ndarray | None = None


@dataclass(frozen=True)
class Op:
    """An operator by its name in the schema, or `custom` by its own; tensors by their place in the graph."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = None
    custom: str = ""


@dataclass(frozen=True)
class Graph:
    """A subgraph: tensors, operators, and which tensors are its inputs and outputs."""

    tensors: tuple[T, ...]
    operators: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: str = ""
    names: dict[int, str] = field(default_factory=dict)  # in the signature, where not the tensor's own


def tflite(path: Path, *graphs: Graph) -> Path:
    """Write graphs as a .tflite file."""
    model = schema.ModelT()
    model.version, model.description = 3, "made by a test"
    model.buffers, model.operatorCodes, model.subgraphs, model.signatureDefs = [schema.BufferT()], [], [], []
    for place, graph in enumerate(graphs):
        model.subgraphs.append(_subgraph(model, graph))
        if graph.signature:
            model.signatureDefs.append(_signature(graph, place))
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def unary(path: Path, given: T, made: T, operator: str, options: Any = None) -> Path:
    """A file of one operator from one tensor to another."""
    return tflite(path, Graph((given, made), (Op(operator, (0,), (1,), options),), (0,), (1,)))


def options(name: str, **values: Any) -> Any:
    """Options of an operator: options("Add") is AddOptions."""
    made = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        setattr(made, key, value)
    return made


def _subgraph(model: Any, graph: Graph) -> Any:
    made = schema.SubGraphT()
    made.tensors = [_tensor(model, t) for t in graph.tensors]
    made.operators = [_operator(model, op) for op in graph.operators]
    made.inputs, made.outputs = list(graph.inputs), list(graph.outputs)
    return made


def _tensor(model: Any, given: T) -> Any:
    made = schema.TensorT()
    made.name, made.type, made.buffer = given.name, TYPES[given.dtype], 0
    made.shape = [1 if d < 0 else d for d in given.shape]
    if -1 in given.shape:
        made.shapeSignature = list(given.shape)
    if given.scale:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale, made.quantization.zeroPoint = [given.scale], [given.zero]
    if given.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(given.data).tobytes(), np.uint8)
        model.buffers.append(buffer)
        made.buffer = len(model.buffers) - 1
    return made


def _operator(model: Any, given: Op) -> Any:
    code = schema.OperatorCodeT()
    number = schema.BuiltinOperator.CUSTOM if given.custom else getattr(schema.BuiltinOperator, given.name)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    if given.custom:
        code.customCode = given.custom
    model.operatorCodes.append(code)
    made = schema.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs, made.outputs = list(given.inputs), list(given.outputs)
    if given.options is not None:
        kind = type(given.options).__name__.removesuffix("T")
        made.builtinOptionsType, made.builtinOptions = getattr(schema.BuiltinOptions, kind), given.options
    return made


def _signature(graph: Graph, place: int) -> Any:
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = graph.signature, place
    made.inputs, made.outputs = _mapped(graph, graph.inputs), _mapped(graph, graph.outputs)
    return made


def _mapped(graph: Graph, places: Sequence[int]) -> list[Any]:
    maps = []
    for place in places:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = graph.names.get(place, graph.tensors[place].name), place
        maps.append(entry)
    return maps
