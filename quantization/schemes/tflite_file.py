"""A .tflite file → int8 by ai-edge-quantizer, whose calibration is told to take the least and the largest value."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import NotInstalled, QuantizationError
from edgekit.exporters.formats.flatbuffer import mended
from edgekit.exporters.quiet import quiet
from edgekit.quantization.schemes.float_file import FloatFile, Inputs
from edgekit.quantization.schemes.scheme import Layer
from edgekit.tensors import Array

LAYERS = {  # as files name them: as the quantizer does
    "CONV_2D": "CONV_2D",
    "DEPTHWISE_CONV_2D": "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED": "FULLY_CONNECTED",
    "TRANSPOSE_CONV": "CONV_2D_TRANSPOSE",
}
THREADS = 2  # its own default are 16
UNKNOWN = ("CONV_3D", "SVDF", "LSTM", "GRU", "RNN", "CUSTOM", "CONV_3D_TRANSPOSE")


class TfliteFile(FloatFile):
    """Layers are called after the tensor that they give. Ranges are kept from one quantization to the next."""

    tool = "ai-edge-quantizer"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self.precision == "fp16":
            raise QuantizationError(
                f"'{path.name}' holds float16 weights: int8 is made from the float32 file, name that"
            )
        self._ranges: Any = None

    def layers(self) -> list[Layer]:
        found = []
        for kind, name, weights in self._operators:
            seen = (self._ranges or {}).get(name)
            if kind in LAYERS:
                low, high = (float(seen[key].flat[0]) if seen else None for key in ("min", "max"))
                found.append(Layer(name, None, low, high, "its weights are computed" if weights is None else ""))
            elif any(word in kind for word in UNKNOWN):
                found.append(Layer(name, kept=f"ai-edge-quantizer knows no int8 {kind}"))
        return found

    def weights(self) -> dict[str, Array]:
        return {name: weights for kind, name, weights in self._operators if kind in LAYERS and weights is not None}

    def quantize(self, inputs: Inputs, keep: Collection[str], folder: Path, stem: str) -> tuple[str, ...]:
        try:
            with quiet():
                from ai_edge_quantizer import quantizer
        except ImportError as error:
            raise NotInstalled.named("int8 of a .tflite file", "ai-edge-quantizer", "export") from error
        with quiet():
            try:
                if self._ranges is None:
                    self._ranges = self._calibrated(inputs)
                recipe = self._recipe(keep).get_quantization_recipe()
                made = quantizer.Quantizer(self._content, recipe).quantize(self._ranges, enable_progress_report=False)
                made.export_model(folder / f"{stem}.tflite", overwrite=True)
            except Exception as error:  # ValueError, RuntimeError, KeyError, and those of LiteRT
                raise self.refused(error) from error
        return (f"{stem}.tflite",)

    @cached_property
    def _content(self) -> memoryview:
        """The file as the quantizer needs it: biases of transposed convolutions mended, or what it writes does not
        load; with a signature.
        """
        with tempfile.TemporaryDirectory(prefix="edgekit-tflite-") as scratch:
            copy = Path(scratch, "model.tflite")
            copy.write_bytes(self.path.read_bytes())
            mended(copy)
            return memoryview(_signed(copy.read_bytes()))

    @cached_property
    def _operators(self) -> list[tuple[str, str, Array | None]]:
        """Kind, name of the first result, and weights where they are constant, in the order they run."""
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAs(self._content, 0)
        kinds = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
        graph, found = model.Subgraphs(0), []
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            code = model.OperatorCodes(operator.OpcodeIndex())
            kind = kinds[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
            name = graph.Tensors(operator.Outputs(0)).Name().decode() if operator.OutputsLength() else ""
            weights = _held(model, graph.Tensors(operator.Inputs(1))) if operator.InputsLength() > 1 else None
            found.append((kind, name, weights))
        return found

    def _recipe(self, keep: Collection[str]) -> Any:
        """What becomes int8; the last that matches an operator counts, and its results' names are what is matched."""
        from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager

        recipe = recipe_manager.RecipeManager()
        for name in LAYERS.values():
            recipe.add_static_config(".*", qtyping.TFLOperationName(name), 8, 8)
        for name in sorted({*keep, *(layer.name for layer in self.layers() if layer.kept)}):
            recipe.add_quantization_config(
                f"^{re.escape(name)};",
                qtyping.TFLOperationName.ALL_SUPPORTED,
                algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
            )
        return recipe

    def _calibrated(self, inputs: Inputs) -> Any:
        from ai_edge_quantizer import calibrator
        from ai_edge_quantizer.utils import qsv_utils

        # its own rule, a moving average, cuts what few inputs reach: 11 dB were lost on super-resolution
        calibration = calibrator.Calibrator(self._content, THREADS, qsv_update_func=qsv_utils.min_max_update)
        key, names = self._signature
        calibration.calibrate({key: [dict(zip(names, arrays, strict=True)) for arrays in inputs]}, self._recipe(()))
        return calibration.get_model_qsvs()

    @property
    def _signature(self) -> tuple[str, list[str]]:
        """The signature's name, and the names that it has for the inputs, in the order of the file's."""
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=bytes(self._content), num_threads=1)
        key = next(iter(interpreter.get_signature_list()))
        details = interpreter.get_signature_runner(key).get_input_details()
        places = [detail["index"] for detail in interpreter.get_input_details()]
        return key, sorted(details, key=lambda name: places.index(details[name]["index"]))


def _signed(content: bytes) -> bytes:
    """The same file with a signature, where it has none, as those of old converters."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    if schema.Model.GetRootAs(content, 0).SignatureDefsLength():
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    signature, graph = schema.SignatureDefT(), model.subgraphs[0]
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs = [_named(schema, f"input{i}", index) for i, index in enumerate(graph.inputs)]
    signature.outputs = [_named(schema, f"output{i}", index) for i, index in enumerate(graph.outputs)]
    model.signatureDefs = [signature]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _named(schema: Any, name: str, index: int) -> Any:
    """A tensor's name in a signature."""
    mapped = schema.TensorMapT()
    mapped.name, mapped.tensorIndex = name.encode(), index
    return mapped


def _held(model: Any, tensor: Any) -> Array | None:
    """A tensor's values, float32, where they lie in the file."""
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength() or tensor.Type() != 0:
        return None
    values: Array = np.frombuffer(buffer.DataAsNumpy().tobytes(), np.float32)
    return values
