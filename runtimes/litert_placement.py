"""What a LiteRT interpreter runs where, and in what precision, by the operators that it lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def operators(engine: Any, unit: str = "XNNPACK") -> dict[str, int]:
    """Operators by unit and name, for example {"XNNPACK CONV_2D": 6, "CPU CAST": 1}; `unit` is whose the delegate is.

    A delegate node stands for all operators between its inputs and its outputs.
    """
    details = engine._get_ops_details()
    makers = {int(out): op for op in details if op["op_name"] != "DELEGATE" for out in op["outputs"]}
    delegated: set[int] = set()
    for node in (op for op in details if op["op_name"] == "DELEGATE"):
        edge = {int(i) for i in node["inputs"]}
        pending = [int(i) for i in node["outputs"]]
        while pending:
            op = makers.get(pending.pop())
            if op is not None and op["index"] not in delegated:
                delegated.add(op["index"])
                pending += [int(i) for i in op["inputs"] if int(i) not in edge]
    plain = [op for op in details if op["op_name"] != "DELEGATE"]
    return dict(Counter(f"{unit if op['index'] in delegated else 'CPU'} {op['op_name']}" for op in plain))


def precision(engine: Any) -> str:
    """What convolutions and matrix products are computed in; of a graph without any, all operators."""
    plain = [op for op in engine._get_ops_details() if op["op_name"] != "DELEGATE"]
    tensors = {t["index"]: t for t in engine.get_tensor_details()}
    heavy = [op for op in plain if "CONV" in op["op_name"] or op["op_name"] in ("FULLY_CONNECTED", "BATCH_MATMUL")]
    return _precision([[tensors.get(int(i), {}) for i in op["inputs"][:2]] for op in heavy or plain])


def _precision(products: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What products are computed in, by their inputs and weights; groups of weights that share a scale have 4 bits."""
    taken = {kinds[0].get("dtype") for kinds in products if kinds and kinds[0].get("quantization", (0, 0))[0]}
    if taken & {np.int8, np.uint8, np.int16}:
        return "int16x8" if np.int16 in taken else "int8"
    small = [kinds[1] for kinds in products if len(kinds) > 1 and kinds[1].get("dtype") is np.int8]
    if any(own["quantization_parameters"].get("block_size") for own in small):
        return "int4-weights"
    return "int8-dynamic" if small else "fp32"
