"""Agreement: engines in pairs, and the operator behind which they part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.manifest import Component
from edgekit.quantization.parting import Rounding, parting
from edgekit.tensors import TensorSpec


def squared(folder: Path) -> Path:
    """x → rounded → squared → rounded → y."""
    constants = {
        "step": np.float32(0.01), "zero": np.int8(0), "wide": np.float32(0.02), "power": np.float32(2.0),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("Pow", ["d", "power"], ["raised"]),
        helper.make_node("QuantizeLinear", ["raised", "wide", "zero"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "wide", "zero"], ["y"]),
    ]
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8]) for name in ("x", "y")]
    held = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", border[:1], border[1:], held), opset_imports=[helper.make_opsetid("", 20)]
    )
    model.ir_version = 10
    path = folder / "squared.onnx"
    onnx.save(model, path)
    return path


def test_the_operator_is_named_where_values_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.quantization import parting as place

    run = place.STEPS["openvino"]

    def wrong(*given: Any) -> dict[Any, Any]:
        """An engine that rounds squares up."""
        return {key: values + (key[0] == np.float32(0.02)) for key, values in run(*given).items()}

    monkeypatch.setitem(place.STEPS, "openvino", wrong)
    x = np.linspace(0.1, 1.0, 8, dtype=np.float32)
    component = Component((TensorSpec("x", "float32", (8,)),), (TensorSpec("y", "float32", (8,)),))
    path = squared(tmp_path)
    files = {"onnxruntime": (path, "onnx"), "openvino": (path, "onnx")}
    told = parting(files, component, [(x,)])
    assert told.startswith("float remainder: the last bits of Pow 'raised' are others; 100.00% of the values")
    monkeypatch.setitem(place.STEPS, "openvino", run)
    assert parting(files, component, [(x,)]) == ""


def test_reasons_in_words() -> None:
    kernel = Rounding("y", 0.1, 0, (("Relu", "r"), ("Conv", "c")))
    assert kernel.told.startswith("Conv 'c': sums halfway between two steps")
    remainder = Rounding("y", 0.1, 0, (("MatMul", "m"), ("Softmax", "s"), ("Reshape", "v")))
    assert remainder.told == "float remainder: the last bits of Softmax 's' are others"


def test_files_without_onnx_tell_nothing() -> None:
    component = Component((TensorSpec("x", "float32", (8,)),), (TensorSpec("y", "float32", (8,)),))
    assert parting({"litert": (Path("a.tflite"), "tflite")}, component, []) == ""
