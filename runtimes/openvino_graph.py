"""What OpenVINO made of a network: operators by unit and precision, what it added, what products are computed in.

Read from the runtime model (`CompiledModel.get_runtime_model`), the graph after all passes of the plugin, whose nodes
name the ones of the file that they come from: those that name none were added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

NOT_COMPUTE = {"Const", "Input", "Output"}
HEAVY = {"Convolution", "FullyConnected", "MatMul", "Deconvolution"}
ROUNDING = {"FullyConnected", "MatMul"}  # whose inputs may be rounded as they come, where weights are small
MOVES = {"Reorder", "Convert", "Transpose"}
BYTES, NIBBLES = {"i8", "u8"}, {"i4", "u4"}


@dataclass(frozen=True)
class Product:
    """What an operator with weights multiplies: its input's type, and its weights'."""

    kind: str
    taken: str
    own: str


@dataclass(frozen=True)
class Graph:
    """Operators by unit and precision, those of them that the engine added, and what is multiplied."""

    operators: dict[str, int]
    inserted: dict[str, int]
    products: frozenset[Product]


def read(compiled: Any, units: Collection[str]) -> Graph:
    """The runtime model of a CompiledModel that runs on these units."""
    nodes = list(compiled.get_runtime_model().get_ordered_ops())
    kinds = [_text(node, "layerType") for node in nodes]
    unit = "+".join(units)
    computing = [node for node, kind in zip(nodes, kinds, strict=True) if kind not in NOT_COMPUTE]
    added = [_moved(n, kind) for n, kind in zip(nodes, kinds, strict=True) if kind in MOVES and _added(n)]
    products = frozenset(
        Product(kind, _taken(n, 0), _taken(n, 1)) for n, kind in zip(nodes, kinds, strict=True) if kind in HEAVY
    )
    operators = Counter(f"{unit} {_text(node, 'runtimePrecision')}" for node in computing)
    return Graph(dict(operators), dict(Counter(added)), products)


def precision(products: Collection[Product], rounds: bool) -> str:
    """What products are computed in, by the types of their inputs and weights; empty where all is float.

    `rounds`: the plugin rounds inputs of matrix products with small weights as they come. A convolution of float inputs
    with small weights is computed in float, as of int8 files on processors whose int8 kernels do not work.
    """
    if any(product.taken in BYTES for product in products):
        return "int8"
    if any(product.own in NIBBLES for product in products):
        return "int4-weights"
    small = {product.kind for product in products if product.own in BYTES}
    if not small:
        return ""
    return "int8-dynamic" if rounds and small & ROUNDING else "int8-weights"


def _moved(node: Any, kind: str) -> str:
    """ "Convert f32 → bf16", or the kind alone where the type stays."""
    before, after = _taken(node, 0), str(node.get_output_element_type(0).get_type_name())
    return kind if before == after else f"{kind} {before} → {after}"


def _added(node: Any) -> bool:
    return not _text(node, "originalLayersNames")


def _taken(node: Any, index: int) -> str:
    return str(node.get_input_element_type(index).get_type_name())


def _text(node: Any, key: str) -> str:
    value = node.get_rt_info()[key]
    return str(getattr(value, "value", value))
