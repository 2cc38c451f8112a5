"""Weights of OpenVINO's files: small constants that are unfolded in the graph, as its plug-ins look for them.

Its kernels multiply with int8 and int4 weights as they are (CPU: weights decompression of FullyConnected), and round
the inputs to int8 as well where DYNAMIC_QUANTIZATION_GROUP_SIZE says so (runtimes/openvino_.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops
from openvino._offline_transformations import apply_moc_transformations

from edgekit.exporters.quiet import quiet
from edgekit.quantization.schemes.rounding import Form, rounded
from edgekit.quantization.schemes.weight_files import (
    OTHER,
    SMALL,
    Constant,
    Use,
    WeightFile,
    by_channel,
    constant_of,
    refuse_quantized,
)
from edgekit.tensors import Array

CONVOLUTIONS = {"Convolution": 0, "ConvolutionBackpropData": 1}


class OpenVinoWeights(WeightFile):
    """An .xml file and its .bin, which is mapped, not read; or an .onnx file, which OpenVINO reads as well."""

    format = "openvino"

    def constants(self) -> list[Constant]:
        with quiet():
            model = _read(self.path)  # held: its nodes do not know their users without it
            places = {node.get_friendly_name(): place for place, node in enumerate(model.get_ordered_ops())}
            return [_constant(node, places) for node in _nodes(model)]

    def write(self, forms: Mapping[str, Form], folder: Path, stem: str) -> Sequence[str]:
        with quiet():
            model = _read(self.path)
            for node in _nodes(model):
                constant = _constant(node, {})
                if constant.key in forms:
                    _replace(node, _unfolded(node.data, constant, forms[constant.key]))
            openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)
        return f"{stem}.xml", f"{stem}.bin"


def _read(path: Path) -> Any:
    model = openvino.Core().read_model(path)
    if path.suffix == ".onnx":
        apply_moc_transformations(model, cf=False)
    found = {o.get_type_name() for o in model.get_ops()} & {"FakeQuantize", "FakeConvert"}
    small = {"i8", "u8", "i4", "u4"} & {
        o.output(0).element_type.get_type_name() for o in model.get_ops() if o.get_type_name() == "Constant"
    }
    if found or small:
        refuse_quantized(path, ", ".join(sorted(found | small)))
    return model


def _nodes(model: Any) -> list[Any]:
    """The float32 constants of matrices and more, in the order of the graph."""
    constants = (o for o in model.get_ordered_ops() if o.get_type_name() == "Constant")
    return [
        o
        for o in constants
        if o.output(0).element_type == openvino.Type.f32 and len(o.shape) >= 2 and np.prod(o.shape) >= SMALL
    ]


def _constant(node: Any, places: Mapping[str, int]) -> Constant:
    """A constant; `places` are those of the operators, and are counted where they are left out."""
    targets = list(node.output(0).get_target_inputs())
    names = [target.get_node().get_friendly_name() for target in targets]
    uses = {places.get(name, at): _use(t) for at, (name, t) in enumerate(zip(names, targets, strict=True))}
    return constant_of(node.get_friendly_name(), node.shape, node.data, uses)


def _use(target: Any) -> Use:
    """What an operator does with a constant at one of its inputs, and the axis of its output channels."""
    node, index = target.get_node(), target.get_index()
    kind = node.get_type_name()
    if kind == "MatMul" and index == 1 and len(node.input(1).get_shape()) == 2:
        return "linear", 0 if node.get_attributes()["transpose_b"] else 1
    if kind == "Gather" and index == 0 and _axis(node) == 0:
        return "embedding", 0
    if kind in CONVOLUTIONS and index == 1:
        return "convolution", CONVOLUTIONS[kind]
    return OTHER


def _axis(gather: Any) -> int | None:
    given = gather.input_value(2).get_node()
    return int(given.data.reshape(-1)[0]) if given.get_type_name() == "Constant" else None


def _unfolded(array: Array, constant: Constant, form: Form) -> Any:
    """The output of nodes that give a constant again, from a smaller one."""
    if form.bits == 16:
        return _floats(openvino.Tensor(array.astype(np.float16)))
    found = rounded(by_channel(array, constant.axis), form)
    if form.group:
        return _of_groups(found.values, found.scales, constant)
    turned = np.moveaxis(array, constant.axis, 0).shape
    values = np.ascontiguousarray(np.moveaxis(found.values.reshape(turned), 0, constant.axis))
    scales = found.scales.reshape([-1 if a == constant.axis else 1 for a in range(array.ndim)])
    return ops.multiply(_floats(openvino.Tensor(values)), ops.constant(scales)).output(0)


def _of_groups(values: Any, scales: Array, constant: Constant) -> Any:
    """4-bit values, two to a byte with the low one first, in groups with a scale each."""
    channels, groups = scales.shape
    grouped, scaled = values.reshape(channels, groups, -1), scales[:, :, None]
    if constant.axis == 1:
        grouped, scaled = grouped.transpose(1, 2, 0), scaled.transpose(1, 2, 0)
    nibbles = np.ascontiguousarray(grouped).reshape(-1).view(np.uint8) & 15
    packed = nibbles[0::2] | (nibbles[1::2] << 4)
    tensor = openvino.Tensor(packed, openvino.Shape(grouped.shape), openvino.Type.i4)
    product = ops.multiply(_floats(tensor), ops.constant(np.ascontiguousarray(scaled)))
    return ops.reshape(product, ops.constant(np.array(constant.shape, np.int64)), False).output(0)


def _floats(tensor: Any) -> Any:
    return ops.convert(ops.constant(tensor, shared_memory=False), "f32").output(0)


def _replace(node: Any, output: Any) -> None:
    """Give what used a constant another output, under the constant's name."""
    output.get_node().set_friendly_name(node.get_friendly_name())
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(output)
