"""Inputs and outputs of an OpenVINO network: dtypes, free dimensions, and the scale of quantized ones.

OpenVINO keeps no scale beside a tensor: an integer input is quantized by Convert − zero point × scale, which
DequantizeLinear becomes, and an integer output by FakeQuantize, which QuantizeLinear becomes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.tensors import Quantization, TensorSpec, border_spec

DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "u32": "uint32",
    "i32": "int32",
    "u64": "uint64",
    "i64": "int64",
    "boolean": "bool",
}
QUANTIZED = ("u8", "i8", "u16", "i16")
MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze"}  # change no value

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def specs(file: str, network: Any) -> Specs:
    """The inputs and outputs of a network as it was read.

    Raises:
        TensorError: a tensor holds no numbers.
    """
    inputs = tuple(_spec(file, port, _taken(port)) for port in network.inputs)
    return inputs, tuple(_spec(file, port, _given(port)) for port in network.outputs)


def _spec(file: str, port: Any, quantization: Quantization | None) -> TensorSpec:
    name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
    sizes = enumerate(port.get_partial_shape())
    shape = tuple(d.get_length() if d.is_static else f"{name}_dim{i}" for i, d in sizes)
    kind = port.get_element_type().get_type_name()
    return border_spec(file, name, DTYPES.get(kind, kind), shape, quantization=quantization)


def _taken(port: Any) -> Quantization | None:
    """By what reads an input: Convert, then Subtract where the zero point is not 0, then Multiply."""
    if port.get_element_type().get_type_name() not in QUANTIZED:
        return None
    node, zero = _past(port, "Convert"), 0.0
    node = _past(node.output(0), None) if node else None
    if node and node.get_type_name() == "Subtract":
        zero = _number(node.input_value(1))
        node = _past(node.output(0), None)
    if not node or node.get_type_name() != "Multiply":
        return None
    return _quantization(_number(node.input_value(1)), zero)


def _past(port: Any, kind: str | None) -> Any:
    """The first node that reads a port and changes values, if it is of this kind."""
    readers = [taken.get_node() for taken in port.get_target_inputs()]
    while readers and readers[0].get_type_name() in MOVES:
        readers = [taken.get_node() for taken in readers[0].output(0).get_target_inputs()]
    return readers[0] if readers and kind in (None, readers[0].get_type_name()) else None


def _given(port: Any) -> Quantization | None:
    """By what makes an output: FakeQuantize, whose levels are the integers, then Convert."""
    if port.get_element_type().get_type_name() not in QUANTIZED:
        return None
    node = port.get_node().input_value(0).get_node()
    while node.get_type_name() in (*MOVES, "Convert"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high, first, last = (_number(node.input_value(place)) for place in (1, 2, 3, 4))
    scale = (high - low) / (last - first)
    return _quantization(scale, first - low / scale if scale else np.nan)


def _quantization(scale: float, zero: float) -> Quantization | None:
    """None where there is no one scale for all, or a zero point that is no integer: then it is another computation."""
    whole = np.isfinite(zero) and abs(zero - round(zero)) < 1e-3
    return Quantization(scale, round(zero)) if whole and np.isfinite(scale) and scale > 0 else None


def _number(port: Any) -> float:
    """The value of a constant of one element, NaN for anything else."""
    node = port.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_output_partial_shape(0).is_dynamic:
        return float("nan")
    values = node.get_data()
    return float(values.reshape(-1)[0]) if values.size == 1 else float("nan")
