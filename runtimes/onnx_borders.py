"""Scale and zero point of an .onnx file's quantized inputs and outputs, which ONNX Runtime does not tell.

ONNX has no such field: an integer tensor is quantized by the operator beside it, whose scale and zero point are
constants (operators DequantizeLinear, QuantizeLinear, QLinearConv, QLinearMatMul of the ONNX specification).
"""

from __future__ import annotations

import mmap
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.runtimes.external_data import BYTES, VARINT, Scan
from edgekit.tensors import Array, Quantization

QUANTIZED = ("uint8", "int8", "uint16", "int16")
READS = {"DequantizeLinear": (1, 2), "QLinearConv": (1, 2), "QLinearMatMul": (1, 2)}  # where scale and zero point lie
WRITES = {"QuantizeLinear": (1, 2), "QLinearConv": (6, 7), "QLinearMatMul": (6, 7)}
MOVES = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # change no value
MODEL_GRAPH, GRAPH_NODE, GRAPH_TENSOR, ATTRIBUTE_TENSOR = 7, 1, 5, 5
TYPES = {1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 10: "<f2", 11: "<f8"}  # TensorProto.DataType
SMALL = 4096  # bytes of a tensor that may be a scale


@dataclass
class _Node:
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    value: Array | None = None


def quantizations(model: Path, inputs: Collection[str], outputs: Collection[str]) -> dict[str, Quantization]:
    """What the integers of these inputs and outputs mean, by name; those that no operator quantizes are left out."""
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = _Graph(data)
    found = {name: graph.read(name) for name in inputs} | {name: graph.written(name) for name in outputs}
    return {name: quantization for name, quantization in found.items() if quantization is not None}


class _Graph:
    """The nodes and small constants of the main graph."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._scan = data, Scan(data)
        self._nodes: list[_Node] = []
        self._constants: dict[str, Array] = {}
        for number, wire, start, end in self._scan.fields(0, len(data)):
            if number == MODEL_GRAPH and wire == BYTES:
                self._take(start, end)

    def read(self, name: str) -> Quantization | None:
        """By the operator that takes a tensor."""
        for node in self._nodes:
            if name in node.inputs[:1]:
                if node.kind in MOVES:
                    return self.read(node.outputs[0])
                return self._quantization(node, READS.get(node.kind))
        return None

    def written(self, name: str) -> Quantization | None:
        """By the operator that gives a tensor."""
        for node in self._nodes:
            if name in node.outputs:
                if node.kind in MOVES:
                    return self.written(node.inputs[0])
                return self._quantization(node, WRITES.get(node.kind))
        return None

    def _quantization(self, node: _Node, places: tuple[int, int] | None) -> Quantization | None:
        if places is None or len(node.inputs) <= places[0]:
            return None
        scale = self._constants.get(node.inputs[places[0]])
        named = node.inputs[places[1]] if len(node.inputs) > places[1] else ""
        zero = self._constants.get(named) if named else np.zeros(1, np.int8)
        if scale is None or zero is None or scale.size != 1 or zero.size != 1:
            return None
        return Quantization(float(scale.item()), int(zero.item()))

    def _take(self, start: int, end: int) -> None:
        for number, wire, first, last in self._scan.fields(start, end):
            if number == GRAPH_TENSOR and wire == BYTES and last - first < SMALL:
                name, value = self._tensor(first, last)
                if value is not None:
                    self._constants[name] = value
            elif number == GRAPH_NODE and wire == BYTES:
                node = self._node(first, last)
                self._nodes.append(node)
                if node.value is not None and node.outputs:
                    self._constants[node.outputs[0]] = node.value

    def _node(self, start: int, end: int) -> _Node:
        node = _Node()
        for number, wire, first, last in self._scan.fields(start, end):
            if wire != BYTES:
                continue
            if number in (1, 2):
                (node.inputs if number == 1 else node.outputs).append(self._text(first, last))
            elif number == 4:
                node.kind = self._text(first, last)
            elif number == 5 and last - first < SMALL:
                inner = [f for f in self._scan.fields(first, last) if f[0] == ATTRIBUTE_TENSOR and f[1] == BYTES]
                node.value = self._tensor(*inner[0][2:])[1] if inner else node.value
        return node if node.kind == "Constant" else _Node(node.kind, node.inputs, node.outputs)

    def _tensor(self, start: int, end: int) -> tuple[str, Array | None]:
        """Name and values of a TensorProto, which holds them raw, or as floats or varints."""
        name, kind, value = "", 0, None
        for number, wire, first, last in self._scan.fields(start, end):
            if number == 2 and wire == VARINT:
                kind = self._data[first]
            elif number == 8 and wire == BYTES:
                name = self._text(first, last)
            elif number == 9 and wire == BYTES and kind in TYPES:
                value = np.frombuffer(self._data[first:last], TYPES[kind])
            elif number == 4:
                value = np.frombuffer(self._data[first:last], "<f4")
            elif number == 5 and value is None:
                value = np.array([_signed(self._scan.varint(first, last)[0])])
        return name, value

    def _text(self, start: int, end: int) -> str:
        return self._data[start:end].decode(errors="replace")


def _signed(value: int) -> int:
    """A negative int32 is written as the ten bytes of its two's complement in 64 bits."""
    return value - 2**64 if value >= 2**63 else value
