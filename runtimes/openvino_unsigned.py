"""Signed int8 values between layers as unsigned ones, for processors on which OpenVINO would compute them in float.

A zero point beside signed values is what OpenVINO 2026.4 has no int8 kernel for on processors with AMX: convolutions then
run in float32, at no gain, or do not compile in bfloat16. Both, 128 higher, stand for the same numbers, and have one.
On other x86-64 processors OpenVINO makes this change itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.machine import int8_units

LEVELS, SHIFT = 256, 128


def needed() -> bool:
    """Whether this processor is one that it helps on."""
    return "AMX-INT8" in int8_units()


def make_unsigned(network: Any) -> int:
    """Change a network that was read from an .onnx file in place; returns how many quantizations were changed."""
    changed = 0
    for node in network.get_ordered_ops():
        restored = _restored(node)
        if restored:
            _change(node, restored)
            changed += 1
    if changed:
        network.validate_nodes_and_infer_types()
    return changed


def _restored(node: Any) -> list[Any]:
    """The Convert nodes in which a signed quantization becomes float again; none where it is another kind of node."""
    if node.get_type_name() != "FakeQuantize" or node.get_levels() != LEVELS or not _full_range(node):
        return []
    stored = list(_users(node))
    if any(one.get_type_name() != "Convert" or _kind(one) != "i8" for one in stored):
        return []
    floats = [user for one in stored for user in _users(one)]
    return floats if all(one.get_type_name() == "Convert" and _kind(one) == "f32" for one in floats) else []


def _full_range(node: Any) -> bool:
    low, high = (node.input_value(place).get_node() for place in (3, 4))
    constants = {low.get_type_name(), high.get_type_name()} == {"Constant"}
    return constants and bool((low.get_data() == -SHIFT).all() and (high.get_data() == SHIFT - 1).all())


def _change(node: Any, restored: list[Any]) -> None:
    """Quantize to 0…255, and take 128 more off where that becomes float again."""
    from openvino import opset13 as operators

    for place, value in ((3, 0), (4, LEVELS - 1)):
        node.input(place).replace_source_output(operators.constant(np.float32(value)).output(0))
    values = operators.convert(operators.convert(node, "u8"), "f32")
    shift = operators.constant(np.float32(SHIFT))
    for one in restored:
        for use in list(one.output(0).get_target_inputs()):
            user = use.get_node()
            if user.get_type_name() == "Subtract" and use.get_index() == 0:
                zero = user.input(1)
                zero.replace_source_output(operators.add(user.input_value(1), shift).output(0))
                use.replace_source_output(values.output(0))
            else:
                use.replace_source_output(operators.subtract(values, shift).output(0))


def _users(node: Any) -> Iterator[Any]:
    return (use.get_node() for use in node.output(0).get_target_inputs())


def _kind(node: Any) -> str:
    return str(node.get_output_element_type(0).get_type_name())
