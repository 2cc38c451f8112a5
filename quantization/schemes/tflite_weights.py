"""Weights of .tflite files, by ai-edge-quantizer: a rule for each layer, found by the tensor that it gives."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import NotInstalled
from edgekit.exporters.quiet import quiet
from edgekit.quantization.schemes.rounding import Form
from edgekit.quantization.schemes.weight_files import (
    OTHER,
    SMALL,
    Constant,
    Use,
    WeightFile,
    constant_of,
    refuse_quantized,
)

USES: Mapping[tuple[str, int], Use] = {  # what an operator does with an input, and where channels lie
    ("FULLY_CONNECTED", 1): ("linear", 0),
    ("EMBEDDING_LOOKUP", 1): ("embedding", 0),
    ("CONV_2D", 1): ("convolution", 0),
    ("DEPTHWISE_CONV_2D", 1): ("convolution", 3),
    ("TRANSPOSE_CONV", 1): ("convolution", 0),
}


class TfliteWeights(WeightFile):
    """A .tflite file; tensors that share their bytes are one constant."""

    format = "tflite"

    def constants(self) -> list[Constant]:
        with open(self.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _model(data)
            try:
                self._refuse_quantized(model)
                found: dict[str, list[_Taken]] = {}
                for use in _uses(model):
                    found.setdefault(use.key, []).append(use)
                return [_constant(model, key, uses) for key, uses in found.items()]
            finally:
                del model  # which holds the mapped file

    def write(self, forms: Mapping[str, Form], folder: Path, stem: str) -> Sequence[str]:
        quantizer = _tool()
        name = f"{stem}.tflite"
        with quiet():
            made = quantizer.Quantizer(str(self.path), self._recipe(forms))
            made.quantize(serialize_to_path=str(folder / name), enable_progress_bar=False, enable_progress_report=False)
        return (name,)

    def _recipe(self, forms: Mapping[str, Form]) -> Any:
        """A rule for each operator that takes one of these constants."""
        from ai_edge_quantizer.recipe_manager import RecipeManager

        rules = RecipeManager()
        with open(self.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _model(data)
            uses = [use for use in _uses(model) if use.key in forms]
            del model
        for use in uses:
            _add_rule(rules, use, forms[use.key])
        return rules.get_quantization_recipe()

    def _refuse_quantized(self, model: Any) -> None:
        from ai_edge_litert.schema_py_generated import TensorType

        small = (TensorType.INT8, TensorType.UINT8, TensorType.INT4, TensorType.INT16)
        for number in range(model.SubgraphsLength()):
            graph = model.Subgraphs(number)
            for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
                scales = tensor.Quantization()
                if tensor.Type() in small and scales is not None and scales.ScaleLength():
                    refuse_quantized(self.path, "tensors with scales")


class _Taken:
    """A constant that an operator takes: `number` is the operator's, `place` the input, `given` what it gives."""

    def __init__(self, number: int, operator: str, place: int, tensor: Any, given: str) -> None:
        self.number, self.operator, self.place, self.given = number, operator, place, given
        self.key = str(tensor.Buffer())
        self.shape = tuple(int(n) for n in tensor.ShapeAsNumpy())


def _model(data: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(data, 0)


def _uses(model: Any) -> Iterator[_Taken]:
    """Each use of a float32 constant of SMALL numbers and more, of two axes and more, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for index, operator in enumerate(graph.Operators(i) for i in range(graph.OperatorsLength())):
            kind = names[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
            for place in range(operator.InputsLength()):
                if operator.Inputs(place) < 0:
                    continue
                tensor = graph.Tensors(operator.Inputs(place))
                large = tensor.ShapeLength() >= 2 and np.prod(tensor.ShapeAsNumpy()) >= SMALL
                if large and tensor.Type() == schema.TensorType.FLOAT32 and _bytes(model, tensor.Buffer()) is not None:
                    yield _Taken(index, kind, place, tensor, graph.Tensors(operator.Outputs(0)).Name().decode())


def _bytes(model: Any, index: int) -> Any:
    """The bytes of a buffer, which lie behind the flatbuffer in files of 2 GB and more; None where it has none."""
    buffer = model.Buffers(index)
    if buffer.DataLength():
        return buffer.DataAsNumpy()
    if buffer.Offset() > 1:
        return np.frombuffer(model._tab.Bytes, np.uint8, buffer.Size(), buffer.Offset())
    return None


def _constant(model: Any, key: str, uses: Sequence[_Taken]) -> Constant:
    done = {use.number: USES.get((use.operator, use.place), OTHER) for use in uses}
    return constant_of(key, uses[0].shape, _bytes(model, int(key)).view(np.float32), done)


def _add_rule(rules: Any, use: _Taken, form: Form) -> None:
    """Tell what becomes of one operator's weights."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

    place = f"^{re.escape(use.given)};"
    operator = TFLOperationName["CONV_2D_TRANSPOSE" if use.operator == "TRANSPOSE_CONV" else use.operator]
    if form.bits == 16:
        rules.add_weight_only_config(place, operator, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    elif form.dynamic or use.operator == "EMBEDDING_LOOKUP":  # which takes its rows from the small table
        sizes = QuantGranularity[f"BLOCKWISE_{form.group}" if form.group else "CHANNELWISE"]
        rules.add_dynamic_config(place, operator, form.bits, sizes)
    else:
        rules.add_weight_only_config(place, operator, form.bits)


def _tool() -> Any:
    try:
        from ai_edge_quantizer import quantizer
    except ImportError as error:
        raise NotInstalled.named("small .tflite files", "ai-edge-quantizer", "export") from error
    return quantizer
