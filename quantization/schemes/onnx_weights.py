"""Weights of .onnx files: stored small and unfolded when the file is opened, or multiplied as they are (MatMulNBits).

ONNX Runtime computes `Cast · Mul` of constants once, when it opens a file; DequantizeLinear it computes anew in every
run. MatMulNBits with accuracy level 4 rounds its inputs to int8 in the blocks of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgekit.errors import QuantizationError
from edgekit.exporters.formats.onnx_ import EXTERNAL_FROM, save
from edgekit.quantization.schemes.rounding import Form, Rounded, rounded
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

BLOCK = 64  # of int8 weights: with many rows, blocks of 32 take up to 1.5 times as long, and those of 128 no less
CONTRIB = "com.microsoft"
COMPUTES_IN_INT8 = 4  # accuracy_level
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "MatMulNBits"}
SMALL_TYPES = {ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4}
FLOAT = ir.DataType.FLOAT


class OnnxWeights(WeightFile):
    """An .onnx file; weights that lie in another file beside it are read one at a time."""

    format = "onnx"

    def constants(self) -> list[Constant]:
        graph = _read(self.path).graph
        places = {node: place for place, node in enumerate(graph)}
        return [_constant(value, places) for value in graph.initializers.values() if _weighs(value)]

    def write(self, forms: Mapping[str, Form], folder: Path, stem: str) -> Sequence[str]:
        model = _read(self.path)
        for key, form in forms.items():
            value = model.graph.initializers[key]
            _Change(model.graph, value, form).make(_constant(value, {}).axis)
        if any(node.domain == CONTRIB for node in model.graph):
            model.graph.opset_imports[CONTRIB] = 1
        if sum(v.const_value.nbytes for v in model.graph.initializers.values()) < EXTERNAL_FROM:
            ir.external_data.load_to_model(model)
        return save(model, folder, f"{stem}.onnx")


def _read(path: Path) -> Any:
    model = ir.load(path)
    weights = [v.const_value for v in model.graph.initializers.values() if v.const_value is not None]
    small = {str(tensor.dtype) for tensor in weights if tensor.dtype in SMALL_TYPES and tensor.size >= SMALL}
    if found := {node.op_type for node in model.graph} & QUANTIZED | small:
        refuse_quantized(path, ", ".join(sorted(found)))
    return model


def _weighs(value: Any) -> bool:
    """Whether a value is a float32 constant of two axes and more, none of the border, and no small one."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != FLOAT or len(tensor.shape) < 2 or tensor.size < SMALL:
        return False
    return not value.is_graph_output() and not value.is_graph_input()


def _constant(value: Any, places: Mapping[Any, int]) -> Constant:
    """A constant; `places` are those of the nodes, and are counted where they are left out."""
    uses = [(user, _use(node, index)) for node, index in value.uses() for user in _products(node)]
    placed = {places.get(user, count): use for count, (user, use) in enumerate(uses)}
    return constant_of(value.name, value.const_value.shape, value.const_value.numpy(), placed)


def _use(node: Any, index: int) -> Use:
    """What a node does with a constant at one of its inputs, and the axis of its output channels."""
    match node.op_type, index:
        case "MatMul", 1:
            return "linear", 1
        case "Gemm", 1 if _plain(node):
            return "linear", 0 if _number(node, "transB") else 1
        case "Gather", 0 if not _number(node, "axis"):
            return "embedding", 0
        case "Conv", 1:
            return "convolution", 0
        case "ConvTranspose", 1:
            return "convolution", 1
        case "Transpose", 0:
            after = [_use(user, place) for user, place in node.outputs[0].uses()]
            if after and all(use == ("linear", 1) for use in after):
                return "linear", 0
    return OTHER


def _plain(node: Any) -> bool:
    """Whether a Gemm is a product and a sum, nothing more."""
    return _number(node, "alpha", 1) == _number(node, "beta", 1) == 1 and not _number(node, "transA")


def _number(node: Any, name: str, default: float = 0) -> float:
    return float(node.attributes[name].value) if name in node.attributes else default


class _Change:
    """One constant in another form, and the nodes that take it so."""

    def __init__(self, graph: Any, value: Any, form: Form) -> None:
        self.graph, self.value, self.form = graph, value, form
        self.place = graph[0]  # new nodes go before this one
        self.made = 0

    def make(self, axis: int) -> None:
        """Change all that uses the constant, whose output channels lie at `axis`."""
        array = self.value.const_value.numpy()
        if self.form.dynamic:
            self._multiply(by_channel(array, axis))
        elif self.form.bits == 16:
            self._unfold(self._constant("half", array.astype(np.float16)), None)
        else:
            found = rounded(by_channel(array, axis), self.form)
            turned = np.moveaxis(array, axis, 0).shape
            values = np.ascontiguousarray(np.moveaxis(found.values.reshape(turned), 0, axis))
            scales = found.scales.reshape([-1 if a == axis else 1 for a in range(array.ndim)])
            self._unfold(self._constant("int8", values), self._constant("scale", scales))
        if self.value.uses():
            raise QuantizationError(f"'{self.value.name}' is used in a way that no smaller form of it serves")
        del self.graph.initializers[self.value.name]

    def _unfold(self, small: Any, scale: Any) -> None:
        """Give float numbers to all users; where rows are gathered, of those rows alone."""
        whole = None
        for node, index in sorted(self.value.uses(), key=lambda use: use[0].op_type == "Gather"):
            if node.op_type == "Gather":
                with _Replacing(self, node):
                    rows = (self._rows(v, node.inputs[1]) for v in (small, scale) if v is not None)
                    self._substitute(node, self._floats(*rows))
                continue
            whole = self._floats(small, scale) if whole is None else whole
            node.replace_input_with(index, whole)

    def _floats(self, small: Any, scale: Any = None) -> Any:
        cast = self._node("Cast", [small], to=int(FLOAT))
        return cast if scale is None else self._node("Mul", [cast, scale])

    def _multiply(self, rows: Array) -> None:
        """Products with small weights; an embedding of the same constant takes its rows from them."""
        found, block = rounded(rows, self.form), self.form.group or BLOCK
        packed = self._constant("packed", _packed(found, self.form, block))
        single = self._constant("scale", found.scales)
        repeated = np.repeat(found.scales, packed.const_value.shape[1], 1)
        scale = single if self.form.group else self._constant("scales", repeated)
        sizes = {"K": rows.shape[1], "N": len(rows), "bits": self.form.bits, "block_size": block}
        for node, _ in list(self.value.uses()):
            if node.op_type == "Gather":
                with _Replacing(self, node):
                    self._substitute(node, self._unpacked(packed, single, node.inputs[1], rows.shape[1]))
                continue
            for user in _products(node):
                with _Replacing(self, user):
                    inputs = [user.inputs[0], packed, scale]
                    product = self._node("MatMulNBits", inputs, CONTRIB, **sizes, accuracy_level=COMPUTES_IN_INT8)
                    bias = user.inputs[2] if len(user.inputs) > 2 else None
                    self._substitute(user, product if bias is None else self._node("Add", [product, bias]))
            if node.op_type == "Transpose":
                self.graph.remove(node, safe=True)

    def _unpacked(self, packed: Any, scale: Any, indices: Any, width: int) -> Any:
        """Rows of packed int8 weights: the middle is taken off, blocks are joined, what fills up the last is cut."""
        raised = self._floats(self._rows(packed, indices))
        blocks = self._node("Sub", [raised, self._constant("middle", np.array([128], np.float32))])
        ends = self._constant("end", np.array([-1], np.int64))
        shape = self._node("Concat", [self._node("Shape", [indices]), ends], axis=0)
        joined = self._node("Reshape", [blocks, shape])
        if width % BLOCK:
            numbers = (self._constant(str(n), np.array([n], np.int64)) for n in (0, width))
            joined = self._node("Slice", [joined, *numbers, ends])
        return self._node("Mul", [joined, self._rows(scale, indices)])

    def _rows(self, table: Any, indices: Any) -> Any:
        return self._node("Gather", [table, indices], axis=0)

    def _node(self, kind: str, inputs: Sequence[Any], domain: str = "", **attributes: int) -> Any:
        """The output of a new node."""
        self.made += 1
        node = ir.node(kind, list(inputs), attributes, domain=domain, name=f"{self.value.name}/{kind}{self.made}")
        node.outputs[0].name = node.name
        self.graph.insert_before(self.place, node)
        return node.outputs[0]

    def _constant(self, suffix: str, array: Array) -> Any:
        """A new constant, or the one of that name."""
        name = f"{self.value.name}/{suffix}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.ascontiguousarray(array), name=name)
            self.graph.register_initializer(ir.val(name, tensor.dtype, array.shape, const_value=tensor))
        return self.graph.initializers[name]

    def _substitute(self, node: Any, new: Any) -> None:
        """A new value in the place and under the name of what a node gave."""
        old = node.outputs[0]
        name, old.name = old.name, f"{self.value.name}/replaced"
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, new.shape, new.type = name, old.shape, old.type


class _Replacing:
    """A block in which new nodes go before one, which is gone after it."""

    def __init__(self, change: _Change, node: Any) -> None:
        self.change, self.node = change, node

    def __enter__(self) -> None:
        self.change.place = self.node

    def __exit__(self, *raised: object) -> None:
        if raised == (None, None, None):
            self.change.graph.remove(self.node, safe=True)


def _products(node: Any) -> list[Any]:
    """The products that a constant goes into, itself or turned over."""
    return [user for user, _ in node.outputs[0].uses()] if node.op_type == "Transpose" else [node]


def _packed(found: Rounded, form: Form, block: int) -> Array:
    """Output channels × blocks × bytes as MatMulNBits has them: unsigned, two 4-bit values in a byte, low one first."""
    channels, width = found.values.shape
    middle = 1 << (form.bits - 1)
    raised = (found.values.astype(np.int16) + middle).astype(np.uint8)
    filled = np.pad(raised, ((0, 0), (0, -width % block)), constant_values=middle)
    blocks = filled.reshape(channels, -1, block)
    return blocks if form.bits == 8 else blocks[..., 0::2] | (blocks[..., 1::2] << 4)
