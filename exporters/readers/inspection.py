"""Inspection: what a finished model file says of itself: operators, parameters, precision, who made it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.exporters.proof.places import last_line
from edgekit.manifest import Precision

STARTS = {".onnx": b"\x08", ".xml": b"<", ".tflite": b"TFL3"}
NAMES = {".onnx": "an ONNX model", ".xml": "an OpenVINO .xml", ".tflite": "a .tflite flatbuffer"}
HEAVY = ("CONV", "FULLY_CONNECTED", "BATCH_MATMUL")


@dataclass(frozen=True)
class Facts:
    """`operators` counts by kind, `parameters` the numbers in constants; `origin` is what goes into provenance."""

    precision: Precision
    operators: dict[str, int]
    parameters: int
    origin: dict[str, Any] = field(default_factory=dict)

    def provenance(self) -> dict[str, Any]:
        return {**self.origin, "operators": self.operators, "parameters": self.parameters}


def inspect(path: Path) -> Facts:
    """The facts of an .onnx, .tflite or OpenVINO .xml file.

    Raises:
        InputError: nothing there, empty, of another format than its name says, or damaged. NotInstalled.
    """
    require_format(path)
    return INSPECT[path.suffix](path)


def require_format(path: Path) -> None:
    """Refuse what is not a file of the format that its name says, going by its first bytes.

    Raises:
        InputError.
    """
    if not path.is_file():
        raise InputError(f"no model file at '{path}'")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise InputError(f"'{path}' is empty: expected {NAMES[path.suffix]}")
    seen = next((suffix for suffix in STARTS if _begins(head, suffix)), None)
    if seen != path.suffix:
        found = f"looks like {NAMES[seen]}: name it *{seen}" if seen else f"begins with {head[:8]!r}"
        raise InputError(f"'{path}' is not {NAMES[path.suffix]}: it {found}")
    if path.suffix == ".xml" and not path.with_suffix(".bin").is_file():
        raise InputError(f"'{path}' has no weights: expected '{path.with_suffix('.bin').name}' beside it")


def _begins(head: bytes, suffix: str) -> bool:
    if suffix == ".xml":
        return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<") and (b"<net" in head or b"<?xml" in head)
    return head[4:8] == STARTS[suffix] if suffix == ".tflite" else head.startswith(STARTS[suffix])


def _onnx(path: Path) -> Facts:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own types
        raise InputError(f"'{path}' is damaged or no ONNX model: {last_line(error)}") from error
    parts = list(graphs(model.graph))
    operators = Counter(f"{n.domain}:{n.op_type}".lstrip(":") for g in parts for n in g.node)
    tensors = [t for g in parts for t in g.initializer]
    tensors += [a.t for g in parts for n in g.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    half = sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.FLOAT16)
    whole = sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.FLOAT)
    origin = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opsets": {o.domain or "ai.onnx": o.version for o in model.opset_import},
    }
    parameters = sum(math.prod(t.dims) for t in tensors)
    return Facts(_onnx_precision(operators, half > whole), dict(operators.most_common()), parameters, origin)


def graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from graphs(inner)


def _onnx_precision(operators: Iterable[str], half: bool) -> Precision:
    kinds = {name.rpartition(":")[2] for name in operators}
    if "MatMulNBits" in kinds:
        return "int4-weights"
    if kinds & {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"}:
        return "int8-dynamic"
    if "QuantizeLinear" in kinds or any(k.startswith("QLinear") for k in kinds):
        return "int8"
    if "DequantizeLinear" in kinds:
        return "int8-weights"
    return "fp16" if half else "fp32"


def _openvino(path: Path) -> Facts:
    import openvino

    try:
        model = openvino.Core().read_model(path)
    except Exception as error:  # RuntimeError and others, from C++
        raise InputError(f"'{path}' is damaged or no OpenVINO model: {last_line(error)}") from error
    nodes = model.get_ordered_ops()
    operators = Counter(
        n.get_type_name() for n in nodes if n.get_type_name() not in ("Constant", "Parameter", "Result")
    )
    sizes: Counter[str] = Counter()
    for node in nodes:
        if node.get_type_name() == "Constant":
            sizes[node.get_output_element_type(0).get_type_name()] += math.prod(node.get_output_shape(0))
    text = path.read_bytes()
    version = re.search(rb'<net[^>]*\bversion="(\d+)"', text)
    maker = re.search(rb'<info name="OpenVINO Runtime" value="([^"]*)"', text)
    origin = {
        "producer": f"OpenVINO {maker[1].decode(errors='replace')}" if maker else "",
        "ir_version": int(version[1]) if version else None,
    }
    return Facts(_openvino_precision(operators, sizes), dict(operators.most_common()), sum(sizes.values()), origin)


def _openvino_precision(operators: Counter[str], sizes: Counter[str]) -> Precision:
    most = max((name for name in sizes), key=lambda name: sizes[name], default="f32")
    if most in ("u4", "i4", "nf4"):
        return "int4-weights"
    if operators["FakeQuantize"]:
        return "int8"
    if most in ("u8", "i8"):
        return "int8-weights"
    return "fp16" if most == "f16" else "fp32"


def _tflite(path: Path) -> Facts:
    from edgekit.runtimes.litert import LiteRtOptions, LiteRtRuntime
    from edgekit.session import Model

    runtime = LiteRtRuntime()
    try:
        session: Any = runtime.open(Model(path, "tflite", "file"), "cpu", 1, LiteRtOptions(xnnpack=False))
    except RuntimeError as error:
        raise InputError(str(error)) from error
    with session:
        details, tensors = session._engine._get_ops_details(), session._engine.get_tensor_details()
    operators = Counter(op["op_name"] for op in details)
    dtypes = {t["index"]: t["dtype"].__name__ for t in tensors}
    made = {int(i) for op in details for i in op["outputs"]} | {d["index"] for d in session._in}
    read = {int(i) for op in details for i in op["inputs"]}
    constants = [t for t in tensors if t["index"] in read - made]
    heavy = [
        [dtypes.get(int(i), "") for i in op["inputs"][:2]] for op in details if any(h in op["op_name"] for h in HEAVY)
    ]
    half = any(t["dtype"].__name__ == "float16" for t in constants)
    precision: Precision = "fp16" if half else "fp32"
    if any(kinds[0] == "int8" for kinds in heavy):
        precision = "int8"
    elif any("int8" in kinds for kinds in heavy):
        precision = "int8-dynamic"
    parameters = sum(math.prod(int(n) for n in t["shape"]) for t in constants)
    return Facts(precision, dict(operators.most_common()), parameters, {"producer": ""})


INSPECT: dict[str, Callable[[Path], Facts]] = {".onnx": _onnx, ".xml": _openvino, ".tflite": _tflite}
