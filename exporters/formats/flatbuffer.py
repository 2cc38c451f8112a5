"""Flatbuffer: what is mended in a .tflite file after litert-torch has written it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHAPE, SIGNATURE = 4, 18  # fields of a Tensor in TFLite's schema (schema.fbs), as offsets in its table
BIAS = 3  # which input of a transposed convolution


def mended(path: Path) -> None:
    """Give biases of transposed convolutions the one axis that engines expect; the file is changed in its place.

    A batch norm behind a transposed convolution is folded to a bias of 1 × 1 × 1 × channels. LiteRT's fast
    kernels then leave the operator alone, and an int8 file does not load at all.
    """
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for tensor in list(_wide_biases(data)):
            for field in (SHAPE, SIGNATURE):
                _shorten(data, tensor, field)


def _wide_biases(data: mmap.mmap) -> Iterator[Any]:
    """Tensors of 1 × 1 × 1 × channels that are the bias of a transposed convolution and nothing else."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
        uses = [(op, place, op.Inputs(place)) for op in operators for place in range(op.InputsLength())]
        for operator, place, index in uses:
            code = model.OperatorCodes(operator.OpcodeIndex())
            transposed = code.BuiltinCode() == schema.BuiltinOperator.TRANSPOSE_CONV
            if transposed and place == BIAS and index >= 0 and sum(i == index for _, _, i in uses) == 1:
                tensor = graph.Tensors(index)
                if tensor.ShapeLength() == 4 and list(tensor.ShapeAsNumpy()[:3]) == [1, 1, 1]:
                    yield tensor


def _shorten(data: mmap.mmap, tensor: Any, field: int) -> None:
    """Begin a vector of four numbers, 1, 1, 1 and n, at the third 1: it is then the length of a vector of n alone."""
    offset = tensor._tab.Offset(field)
    if offset:
        place = tensor._tab.Pos + offset
        (to_vector,) = struct.unpack_from("<I", data, place)
        struct.pack_into("<I", data, place, to_vector + 12)
