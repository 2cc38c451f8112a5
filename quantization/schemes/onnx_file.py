"""An .onnx file → int8 by onnxruntime.quantization: quantize and dequantize nodes around layers (QDQ), S8S8."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto, version_converter

from edgekit.errors import QuantizationError
from edgekit.exporters.formats.onnx_ import EXTERNAL_FROM
from edgekit.exporters.proof.places import last_line
from edgekit.exporters.quiet import quiet
from edgekit.exporters.readers.inspection import graphs
from edgekit.quantization.schemes.float_file import FloatFile, Inputs
from edgekit.quantization.schemes.scheme import Layer
from edgekit.runtimes.external_data import require_inside
from edgekit.tensors import Array

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")  # belong to the layer before
OPSET = 13  # the first in which weights can be int8 per channel
RANGES = "ranges.json"
FLOAT = (TensorProto.FLOAT, TensorProto.FLOAT16)
TABLES = ("Gather",)


class OnnxFile(FloatFile):
    """Prepared once (shapes inferred, batch norms folded), calibrated once."""

    tool = "onnxruntime.quantization"
    without: ClassVar[Mapping[str, str]] = {
        "ConvTranspose": "ONNX Runtime has no int8 kernel for transposed convolutions"
    }

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self.precision == "fp16":
            raise QuantizationError(f"'{path.name}' is in float16: int8 is made from the float32 file, name that")
        self._scratch = tempfile.TemporaryDirectory(prefix="edgekit-onnx-")
        self._large = sum(p.stat().st_size for p in (path, *require_inside(path))) >= EXTERNAL_FROM

    def layers(self) -> list[Layer]:
        graph = self._model.graph
        shapes = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type in FLOAT}
        found, ranges = [], self._ranges()
        for node in graph.node:
            weights = [shapes[name] for name in node.input if name in shapes]
            if any(len(shape) >= 2 for shape in weights) and _computes(node, shapes):
                low, high = ranges.get(node.output[0], (None, None))
                found.append(Layer(self._name(node), None, low, high, self._reason(node)))
        return found + [Layer(self._name(node), kept="it lies in a branch or a loop") for node in _inner_layers(graph)]

    def weights(self) -> dict[str, Array]:
        if self._large:
            return {}
        held = {t.name: t for t in self._model.graph.initializer if t.data_type in FLOAT and len(t.dims) >= 2}
        found = {}
        for node in self._model.graph.node:
            own = [name for name in node.input if name in held]
            if node.op_type in LAYERS and own:
                found[self._name(node)] = onnx.numpy_helper.to_array(held[own[0]])
        return found

    def quantize(self, inputs: Inputs, keep: Collection[str], folder: Path, stem: str) -> tuple[str, ...]:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        target = folder / f"{stem}.onnx"
        layers = [node for node in self._model.graph.node if node.op_type in LAYERS]
        kept = [n.name for n in layers if n.op_type in self.without or self._name(n) in keep]
        with quiet():
            try:
                quantize_static(
                    str(self._prepared),
                    str(target),
                    _Reader(self._fed(inputs)),
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=[*LAYERS, *ACTIVATIONS],
                    nodes_to_exclude=kept,
                    per_channel=True,
                    activation_type=QuantType.QInt8,
                    weight_type=QuantType.QInt8,
                    use_external_data_format=self._large,
                    # linear layers give float: their kernels can, and 2 dB are won; a product of two activations,
                    # as in attention, is no layer
                    extra_options={
                        "MatMulConstBOnly": True,
                        "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
                    },
                    calibration_cache_path=self._folder / RANGES,
                )
            except Exception as error:  # ValueError, RuntimeError, and those of protobuf and of the engine
                raise self.refused(error) from error
        if not self._large:
            _clean(target)
        return tuple(sorted((p.name for p in folder.glob(f"{target.name}*")), key=len))

    def _reason(self, node: Any) -> str:
        """Why a node stays float; empty where it need not."""
        if node.op_type in self.without:
            return self.without[node.op_type]
        if node.op_type in LAYERS and node.domain in ("", "ai.onnx"):
            return ""
        if node.op_type in TABLES:
            return "a table of rows: nothing is multiplied"
        return f"{self.tool} knows no int8 {node.domain and node.domain + ':'}{node.op_type}"

    def _ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the largest value of every tensor that was calibrated; {} before."""
        path = self._folder / RANGES
        if not path.is_file():
            return {}
        from onnxruntime.quantization.calibrate import load_tensors_data

        found = {name: data.range_value for name, data in load_tensors_data(path).items()}
        return {name: (float(np.min(low)), float(np.max(high))) for name, (low, high) in found.items()}

    @property
    def _folder(self) -> Path:
        return Path(self._scratch.name)

    @cached_property
    def _model(self) -> Any:
        """The prepared graph, its weights left in their file where that is large."""
        return onnx.load(self._prepared, load_external_data=False)

    @cached_property
    def _prepared(self) -> Path:
        """The file with every node named, of an opset that has int8 per channel, shapes inferred and norms folded.

        Raises:
            QuantizationError: it cannot be brought to that opset, or onnxruntime cannot prepare it.
        """
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared, named = self._folder / "prepared.onnx", self._named()
        settings = {"save_as_external_data": True, "all_tensors_to_one_file": True} if self._large else {}
        with quiet(), contextlib.chdir(self._folder):  # where it gives up, onnxruntime leaves files where it works
            for symbolic in (True, False):  # the inference of shapes by name stumbles over some operators
                try:
                    quant_pre_process(named, str(prepared), skip_symbolic_shape=not symbolic, **settings)
                    return prepared
                except Exception as error:  # a bare Exception among them
                    reason = error
        raise self.refused(reason) from reason

    def _named(self) -> str:
        """The path of the model with names for the nodes that have none, that of their result; of a large one its own.

        A path, since onnxruntime 1.31 prepares a model in memory by way of external data, and loses them.
        """
        if self._large:
            return str(self.path.absolute())
        model = onnx.load(self.path)
        version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
        if version < OPSET:
            try:
                model = version_converter.convert_version(model, OPSET)
            except Exception as error:  # RuntimeError and others, from C++
                raise QuantizationError(
                    f"'{self.path.name}' is of opset {version} and cannot be brought to {OPSET}, the first with int8 per "
                    f"channel ({last_line(error, 200)}): export it anew"
                ) from error
        for node in model.graph.node:
            node.name = node.name or node.output[0]
        onnx.save(model, self._folder / "named.onnx")
        return str(self._folder / "named.onnx")

    @cached_property
    def _names(self) -> set[str]:
        """Names of the file itself: a fused node is called after its first part, and more."""
        own = onnx.load(self.path, load_external_data=False)
        return {node.name or node.output[0] for node in own.graph.node if node.output}

    def _name(self, node: Any) -> str:
        if node.name in self._names:
            return str(node.name)
        return next((n for n in sorted(self._names, key=len, reverse=True) if node.name.startswith(f"{n}/")), node.name)

    def _fed(self, inputs: Inputs) -> Iterator[dict[str, Array]]:
        graph = self._model.graph
        held = {t.name for t in graph.initializer}
        names = [i.name for i in graph.input if i.name not in held]
        return (dict(zip(names, arrays, strict=True)) for arrays in inputs)


class OnnxForOpenVino(OnnxFile):
    """The same for OpenVINO to read, which has int8 transposed convolutions."""

    without: ClassVar[Mapping[str, str]] = {}


def _computes(node: Any, shapes: Any) -> bool:
    """Whether a node multiplies by its weights: not a sum, nor a product with a table of numbers."""
    if node.op_type in LAYERS:
        return node.op_type != "MatMul" or any(name in shapes for name in node.input)
    return node.op_type not in ("Add", "Sub", "Mul", "Div", "Where", "Concat", "Pow", "Pad", "Max", "Min", "Slice")


def _inner_layers(graph: Any) -> list[Any]:
    """Layers inside nodes, as those of If and Loop."""
    return [node for inner in list(graphs(graph))[1:] for node in inner.node if node.op_type in LAYERS and node.name]


def _clean(path: Path) -> None:
    """Drop what tools noted in the file, and operator sets that no node is of."""
    model = onnx.load(path)
    used = {node.domain for graph in graphs(model.graph) for node in graph.node} | {""}
    kept = [o for o in model.opset_import if o.domain.replace("ai.onnx", "") in used or o.domain in used]
    del model.opset_import[:], model.metadata_props[:], model.graph.value_info[:]
    model.opset_import.extend(kept)
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    path.write_bytes(model.SerializeToString())


class _Reader:
    """What quantize_static reads calibration inputs from (its CalibrationDataReader)."""

    def __init__(self, inputs: Iterator[dict[str, Array]]) -> None:
        self._inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._inputs, None)
