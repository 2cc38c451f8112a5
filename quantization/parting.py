"""Parting: the operator behind which two engines no longer hold the same int8 values, in static int8 files.

Both run with the values of their roundings made visible. A rounded tensor is known in every file by its scale, its
zero point and its size; its values are compared sorted, for each format has an order of axes of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.exporters.quiet import quiet
from edgekit.manifest import Component
from edgekit.tensors import Array, axes

ROUNDS, LEAVES = "QuantizeLinear", "DequantizeLinear"
KERNELS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FUSED = {*KERNELS, "Relu", "Clip", "Add"}  # what an int8 kernel computes in one
MOVES = {"Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Identity", "Concat", "Gather", "Resize"}
PLAIN = 0.03  # of a tensor's values, by which LiteRT's plain kernels round otherwise than those that it really uses
Files = Mapping[str, tuple[Path, str]]
Key = tuple[float, int, int]  # scale, zero point, number of values
Steps = dict[Key, Array]  # sorted


@dataclass(frozen=True)
class Rounding:
    """A rounded activation of an ONNX graph: where its value is seen, its steps, and what computed it of others."""

    output: str
    scale: float
    zero_point: int
    operators: tuple[tuple[str, str], ...]

    @property
    def told(self) -> str:
        """What computed it, in words."""
        kinds = {kind: name for kind, name in self.operators if kind not in MOVES}
        if not kinds:
            return "an input is rounded otherwise"
        if set(kinds) <= FUSED:
            kind, name = next(((k, n) for k, n in kinds.items() if k in KERNELS), next(iter(kinds.items())))
            return f"{kind} '{name}': sums halfway between two steps are rounded up by one and down by the other"
        rest = [f"{kind} '{name}'" for kind, name in kinds.items() if kind not in KERNELS]
        return f"float remainder: the last bits of {', '.join(rest[:3])} are others"


def parting(files: Files, component: Component, inputs: Sequence[tuple[Array, ...]]) -> str:
    """Behind which operator two engines part first, in words; empty where the files do not show it.

    Args:
        files: by engine, its file and format; at least one of them ONNX.
        inputs: of the component, in its layout.
    """
    path = next((path for path, format in files.values() if format == "onnx"), None)
    if path is None or any(format not in ("onnx", "tflite") for _, format in files.values()):
        return ""
    model = onnx.load(path)
    roundings = _roundings(model)
    with tempfile.TemporaryDirectory(prefix="edgekit-parting-") as scratch, quiet():
        shown = Path(scratch, "shown.onnx")
        model.graph.output.extend(onnx.ValueInfoProto(name=rounding.output) for rounding in roundings)
        onnx.save_model(model, shown, save_as_external_data=path.with_name(f"{path.name}.data").exists())
        for arrays in inputs:
            first, second = (
                STEPS[engine](shown if format == "onnx" else file, component, arrays, roundings)
                for engine, (file, format) in files.items()
            )
            if told := _first(roundings, first, second, PLAIN if "litert" in files else 0.0):
                return told
    return ""


def _first(roundings: Sequence[Rounding], first: Steps, second: Steps, allowed: float) -> str:
    """What is to be said of the first rounding of which more values than `allowed`, as a part, are others."""
    for index, rounding in enumerate(roundings):
        keys = [key for key in first if key[:2] == (rounding.scale, rounding.zero_point) and key in second]
        if len(keys) != 1 or not (off := np.abs(first[keys[0]] - second[keys[0]])).any():
            continue
        part = float(np.count_nonzero(off)) / off.size
        if part <= allowed and off.max() == 1:
            continue
        more = len(roundings) - 1 - index
        behind = f", and {more} roundings behind it make more of that" if more else ""
        return f"{rounding.told}; {part:.2%} of the values there are {int(off.max())} int8 step(s) apart{behind}"
    return ""


def _roundings(model: onnx.ModelProto) -> list[Rounding]:
    """The rounded activations in the order they are computed."""
    constants = {i.name: i for i in model.graph.initializer}
    made = {output: node for node in model.graph.node for output in node.output}
    read: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            read.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        leaves = [n for n in read.get(node.output[0], ()) if n.op_type == LEAVES] if node.op_type == ROUNDS else []
        if not leaves or node.input[0] in constants or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]])
        zero = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.zeros(1)
        if scale.size == 1:
            operators = tuple(_computing(node.input[0], made, constants))
            found.append(Rounding(leaves[0].output[0], float(scale.item()), int(zero.item()), operators))
    return found


def _computing(name: str, made: Mapping[str, onnx.NodeProto], constants: Mapping[str, object]) -> list[tuple[str, str]]:
    """Kind and name of the operators between a value and the rounded ones before it, the last first."""
    waiting, seen, found = [name], set(), []
    while waiting:
        node = made.get(waiting.pop(0))
        if node is None or node.output[0] in seen or node.op_type == LEAVES:
            continue
        seen.add(node.output[0])
        if node.op_type != "Constant":
            found.append((node.op_type, node.output[0]))
        waiting += [n for n in node.input if n not in constants]
    return found


def _of_onnxruntime(path: Path, component: Component, arrays: Sequence[Array], roundings: Sequence[Rounding]) -> Steps:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [rounding.output for rounding in roundings]
    feeds = {spec.name: array for spec, array in zip(component.inputs, arrays, strict=True)}
    return _steps(roundings, session.run(names, feeds))


def _of_openvino(path: Path, component: Component, arrays: Sequence[Array], roundings: Sequence[Rounding]) -> Steps:
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled({spec.name: array for spec, array in zip(component.inputs, arrays, strict=True)})
    return _steps(roundings, [results[rounding.output] for rounding in roundings])


def _of_litert(path: Path, component: Component, arrays: Sequence[Array], roundings: Sequence[Rounding]) -> Steps:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate keeps what lies between to itself
    interpreter = Interpreter(
        str(path), num_threads=1, experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain
    )
    interpreter.allocate_tensors()
    for spec, array, detail in zip(component.inputs, arrays, interpreter.get_input_details(), strict=True):
        array = array.transpose(axes("NCHW", "NHWC")) if spec.layout == "NCHW" else array
        scale, zero = detail["quantization"]
        if detail["dtype"] == np.int8:  # the file takes steps
            array = np.clip(np.round(array / np.float32(scale)) + zero, -128, 127)
        interpreter.set_tensor(detail["index"], np.ascontiguousarray(array.astype(detail["dtype"])))
    interpreter.invoke()
    found: Steps = {}
    for detail in interpreter.get_tensor_details():
        scale, zero = detail["quantization"]
        if detail["dtype"] == np.int8 and scale:
            values = interpreter.get_tensor(detail["index"])
            found.setdefault((float(scale), int(zero), values.size), np.sort(values.astype(np.int32), axis=None))
    return found


def _steps(roundings: Sequence[Rounding], values: Sequence[Array]) -> Steps:
    found: Steps = {}
    for rounding, value in zip(roundings, values, strict=True):
        steps = np.round(np.asarray(value) / rounding.scale).astype(np.int32) + rounding.zero_point
        found.setdefault((rounding.scale, rounding.zero_point, steps.size), np.sort(steps, axis=None))
    return found


STEPS: dict[str, Callable[[Path, Component, Sequence[Array], Sequence[Rounding]], Steps]] = {
    "onnxruntime": _of_onnxruntime,
    "openvino": _of_openvino,
    "litert": _of_litert,
}
