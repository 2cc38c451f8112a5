"""The operators of an .onnx file, and what ONNX Runtime added to them: reads ModelProto without the ONNX package."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import EngineError
from edgekit.runtimes.external_data import BYTES, Scan

MODEL_GRAPH, GRAPH_NODE, NODE_KIND = 7, 1, 4  # fields of onnx.proto
# What moves or converts values and computes nothing, as ONNX Runtime's optimisers and partitioner add it
MOVES = ("Transpose", "Cast", "ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost")


def operators(path: Path) -> Counter[str]:
    """How many of each kind the main graph has.

    Raises:
        EngineError: it is no .onnx file.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan = Scan(data)

        def inside(number: int, start: int, end: int) -> list[tuple[int, int]]:
            return [(a, b) for n, wire, a, b in scan.fields(start, end) if n == number and wire == BYTES]

        try:
            nodes = [node for graph in inside(MODEL_GRAPH, 0, len(data)) for node in inside(GRAPH_NODE, *graph)]
            return Counter(data[a:b].decode() for node in nodes for a, b in inside(NODE_KIND, *node)[:1])
        except (ValueError, IndexError) as error:
            raise EngineError(f"'{path.name}' is not a sound .onnx file: {error}") from error


def inserted(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """How many more of what only moves values there are after than before."""
    more = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in MOVES}
    return {kind: count for kind, count in more.items() if count > 0}
