"""Model files: finished .onnx, .tflite and OpenVINO files become bundles that load, run and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, EngineError, ExportError, InputError
from edgekit.exporters import ExportOptions
from edgekit.exporters.readers.inspection import inspect
from edgekit.exporters.readers.model_files import is_model_file, wrap
from edgekit.exporters.readers.reading import Asked
from edgekit.manifest import Task
from edgekit.opening import open_session
from edgekit.verify import verify

ZOO = Path(edgekit.Bundle.open("sr-x2").folder).parent
OPTIONS = ExportOptions()


def enlarging(
    shape: list[Any] | None = None, half: bool = False, external: str = "", domain: str = ""
) -> onnx.ModelProto:
    """A ×2 network as another tool would write it: convolution, ReLU, depth to space; sizes free and named."""
    random = np.random.default_rng(0)
    dtype, kind = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    weights = [random.standard_normal((12, 3, 3, 3)) * 0.1, random.standard_normal(12) * 0.1]
    tensors = [numpy_helper.from_array(w.astype(dtype), n) for w, n in zip(weights, ("w", "b"), strict=True)]
    nodes = [
        helper.make_node("Conv", ["input:0", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], domain=domain),
        helper.make_node("DepthToSpace", ["r"], ["output:0"], blocksize=2, mode="CRD"),
    ]
    ends = [
        helper.make_tensor_value_info("input:0", kind, shape or ["N", 3, "h", "w_"]),
        helper.make_tensor_value_info("output:0", kind, ["N", 3, None, None] if shape is None else None),
    ]
    graph = helper.make_graph(nodes, "espcn", ends[:1], ends[1:], tensors)
    opsets = [helper.make_opsetid("", 13), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="other", producer_version="1.2")


def saved(folder: Path, model: onnx.ModelProto, name: str = "net.onnx", **settings: Any) -> Path:
    onnx.save(model, folder / name, **settings)
    return folder / name


def image(height: int = 10, width: int = 12) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


def all_right(bundle: Bundle) -> list[tuple[str, str]]:
    verdicts = list(verify(bundle))
    assert all(v.ok for v in verdicts), verdicts
    return [(v.runtime, v.variant.format) for v in verdicts]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("files")
    return wrap(saved(folder, enlarging()), folder / "espcn", OPTIONS, Asked(task="upscale"))


def test_an_onnx_file_is_inspected(bundle: Bundle) -> None:
    told = bundle.manifest.provenance["files"]["model"]
    assert told["file"] == "net.onnx" and told["producer"] == "other 1.2"
    assert told["ir_version"] == 8 and told["opsets"] == {"ai.onnx": 13}
    assert told["operators"] == {"Conv": 1, "Relu": 1, "DepthToSpace": 1}
    assert told["parameters"] == 12 * 27 + 12
    assert told["engines"]["onnxruntime"] == "the reference" and "largest error" in told["engines"]["openvino"]


def test_its_tensors_are_described(bundle: Bundle) -> None:
    component = bundle.component()
    assert component.inputs[0].name == "input_0" and component.inputs[0].shape == (1, 3, "h", "w_")
    assert component.outputs[0].shape == (1, 3, "2*h", "2*w_") and component.inputs[0].layout == "NCHW"


def test_it_is_verified_between_engines_and_becomes_openvino(bundle: Bundle) -> None:
    first, second = bundle.component().variants
    assert (first.format, first.precision, second.format) == ("onnx", "fp32", "openvino")
    for variant in (first, second):
        assert variant.parity is not None and variant.parity.reference == "onnxruntime"
        assert variant.parity.max_error < 1e-5 and variant.parity.inputs == 3
    assert all_right(bundle) == [("openvino", "openvino"), ("onnxruntime", "onnx")]


def test_it_loads_as_its_task_with_measured_settings(bundle: Bundle) -> None:
    assert bundle.manifest.task is not None
    assert bundle.manifest.task.settings == {"scale": 2, "halo": 1, "step": 1}
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    with edgekit.load(bundle) as upscale:
        assert upscale(picture).shape == (40, 62, 3)


def test_export_takes_the_path(tmp_path: Path) -> None:
    path = saved(tmp_path, enlarging())
    assert is_model_file(path) and is_model_file(str(path)) and not is_model_file("net.py:factory")
    options = ExportOptions(formats=["onnx"], task=Task("upscale"), summary="mine")
    bundle = edgekit.export(path, tmp_path / "b", options=options)
    assert [v.format for v in bundle.component().variants] == ["onnx"] and bundle.manifest.summary == "mine"
    assert bundle.folder.joinpath("model-fp32.onnx").read_bytes() == path.read_bytes()  # the user's own bytes


def test_examples_names_and_free_dimensions_that_the_caller_states(tmp_path: Path) -> None:
    asked = Asked(example_inputs=[image()], names=["photo"], dynamic={"photo": {2: "height", 3: "width"}})
    bundle = wrap(saved(tmp_path, enlarging()), tmp_path / "b", OPTIONS, asked)
    assert bundle.component().inputs[0].shape == ("N", 3, "height", "width")
    golden = bundle.golden()["photo"]
    assert golden.shape == image().shape and np.abs(golden - image()).max() < 1e-3
    with open_session(bundle, "onnxruntime") as session:
        assert session.run({"photo": image(7, 9)})["output_0"].shape == (1, 3, 14, 18)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (Asked(example_inputs=[image().astype(np.float64)]), "dtype float64"),
        (Asked(example_inputs=[image()[:, :2]]), "shape"),
        (Asked(example_inputs=[image(), image()]), "got 2 example inputs"),
        (Asked(names=["a", "b"]), "got the names"),
        (Asked(weights=Path("w.pth")), "got weights for the finished model file"),
        (Asked(layouts={"nothing": "NHWC"}), r"\['nothing'\]: the tensors are input_0, output_0"),
        (Asked(dynamic={"input_0": {1: "c"}}), "has them fixed"),
    ],
)
def test_what_does_not_fit_the_file_is_refused(tmp_path: Path, asked: Asked, word: str) -> None:
    with pytest.raises(EdgekitError, match=word):
        wrap(saved(tmp_path, enlarging()), tmp_path / "b", OPTIONS, asked)
    assert not (tmp_path / "b").exists()


def test_a_free_size_that_must_be_a_multiple_is_found(tmp_path: Path) -> None:
    """A file that takes 224 × 224 alone although it states free sizes."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, None, None]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10]),
    ]
    held = [numpy_helper.from_array(np.array([1, 3 * 224 * 224]), "s")]
    held.append(numpy_helper.from_array(np.random.default_rng(0).random((3 * 224 * 224, 10), np.float32) / 1e5, "w"))
    nodes = [helper.make_node("Reshape", ["x", "s"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bundle = wrap(saved(tmp_path, model), tmp_path / "b", ExportOptions(formats=["onnx"]), Asked())
    assert bundle.golden()["x"].shape == (1, 3, 224, 224) and all_right(bundle)
    assert bundle.component().inputs[0].shape == (1, 3, "height", "width")


def test_tokens_are_drawn_small(tmp_path: Path) -> None:
    ends = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 4]),
    ]
    table = numpy_helper.from_array(np.random.default_rng(0).random((9, 4), np.float32), "t")
    graph = helper.make_graph([helper.make_node("Gather", ["t", "ids"], ["y"])], "g", ends[:1], ends[1:], [table])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bundle = wrap(saved(tmp_path, model), tmp_path / "b", OPTIONS, Asked())
    assert bundle.component().outputs[0].shape == ("batch", "length", 4)
    assert len(all_right(bundle)) == 2


# Precisions and formats


def test_an_int8_file_is_recognised(tmp_path: Path) -> None:
    bundle = wrap(ZOO / "sr-x2" / "model-int8.onnx", tmp_path / "b", OPTIONS, Asked(task="upscale"))
    assert [(v.format, v.precision) for v in bundle.component().variants] == [("onnx", "int8"), ("openvino", "int8")]
    assert len(all_right(bundle)) == 2


def test_a_half_precision_file_is_recognised_and_chosen(tmp_path: Path) -> None:
    bundle = wrap(saved(tmp_path, enlarging(half=True)), tmp_path / "b", OPTIONS, Asked())
    assert {v.precision for v in bundle.component().variants} == {"fp16"}
    with open_session(bundle) as session:
        (answer,) = session.run({"input_0": image().astype(np.float16)}).values()
    assert answer.shape == (1, 3, 20, 24) and answer.dtype == np.float16
    assert len(all_right(bundle)) == 2


@pytest.mark.parametrize(
    ("nodes", "precision"),
    [
        (["DynamicQuantizeLinear", "MatMulInteger"], "int8-dynamic"),
        (["QLinearConv"], "int8"),
        (["DequantizeLinear", "MatMul"], "int8-weights"),
        (["com.microsoft:MatMulNBits"], "int4-weights"),
        (["MatMul"], "fp32"),
    ],
)
def test_precisions_are_told_from_operators(tmp_path: Path, nodes: list[str], precision: str) -> None:
    made = [helper.make_node(n.rpartition(":")[2], ["x"], ["y"], domain=n.rpartition(":")[0]) for n in nodes]
    graph = helper.make_graph(made, "g", [], [])
    facts = inspect(saved(tmp_path, helper.make_model(graph)))
    assert facts.precision == precision and set(facts.operators) == set(nodes)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_tflite_file(tmp_path: Path, precision: str) -> None:
    path = ZOO / "sr-x2" / f"model-{precision}-64x64.tflite"
    bundle = wrap(path, tmp_path / "b", OPTIONS, Asked(task="upscale"))
    (variant,) = bundle.component().variants
    assert (variant.format, variant.precision) == ("tflite", precision)
    assert bundle.component().inputs[0].layout == "NHWC"
    assert variant.parity is not None and variant.parity.snr_db > 40  # XNNPACK beside the plain kernels
    assert all_right(bundle) == [("litert", "tflite")]
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    with edgekit.load(bundle) as upscale:
        assert upscale(picture).shape == (140, 180, 3)


@pytest.mark.parametrize("half", [False, True])
def test_an_openvino_file(tmp_path: Path, half: bool) -> None:
    model = openvino.Core().read_model(saved(tmp_path, enlarging()))
    openvino.save_model(model, tmp_path / "net.xml", compress_to_fp16=half)
    bundle = wrap(tmp_path / "net.xml", tmp_path / "b", OPTIONS, Asked(task="upscale"))
    (variant,) = bundle.component().variants
    assert variant.precision == ("fp16" if half else "fp32") and len(variant.files) == 2
    assert bundle.component().inputs[0].shape == (1, 3, "height", "width")
    assert bundle.component().outputs[0].shape == (1, 3, "2*height", "2*width")
    assert "OpenVINO 20" in bundle.manifest.provenance["files"]["model"]["producer"]
    assert all_right(bundle) == [("openvino", "openvino")]


def test_several_files_are_components(tmp_path: Path) -> None:
    one, two = (saved(tmp_path, enlarging(), f"{name}.onnx") for name in ("encoder", "decoder"))
    bundle = wrap({"encoder": one, "decoder": two}, tmp_path / "b", OPTIONS, Asked())
    assert list(bundle.manifest.components) == ["encoder", "decoder"] and len(all_right(bundle)) == 4


def test_a_normalisation_goes_before_an_onnx(tmp_path: Path) -> None:
    path = saved(tmp_path, enlarging())
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    bundle = wrap(path, tmp_path / "b", OPTIONS, Asked(mean=mean, std=std))
    x = image()
    shaped = [np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (mean, std)]
    with open_session(path, "onnxruntime") as plain, open_session(bundle, "openvino") as folded:
        (expected,) = plain.run({"input:0": (x - shaped[0]) / shaped[1]}).values()
        (answer,) = folded.run({folded.inputs[0].name: x}).values()
    np.testing.assert_allclose(answer, expected, atol=1e-4)
    with pytest.raises(InputError, match="mean and std"):
        wrap(ZOO / "sr-x2" / "model-fp32-64x64.tflite", tmp_path / "c", OPTIONS, Asked(mean=mean, std=std))


def test_a_normalisation_keeps_the_name_also_in_branches(tmp_path: Path) -> None:
    """An If whose branches read the image; its own name stays for ranges."""
    end = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 4, 4]) for n in ("image", "y", "z")]
    branches = [
        helper.make_graph([helper.make_node(kind, ["image"], ["z"])], kind, [], end[2:]) for kind in ("Identity", "Neg")
    ]
    nodes = [
        helper.make_node("If", ["positive"], ["i"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["i", "image"], ["y"]),
    ]
    held = [numpy_helper.from_array(np.array(True), "positive"), numpy_helper.from_array(np.ones(1), "image_mean")]
    graph = helper.make_graph(nodes, "g", end[:1], end[1:2], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    asked = Asked(mean=[0.5] * 3, std=[0.25] * 3, ranges={"image": (0.0, 1.0)})
    options = ExportOptions(formats=["onnx"])
    bundle = wrap(saved(tmp_path, model), tmp_path / "b", options, asked)
    assert bundle.component().inputs[0].name == "image" and bundle.component().inputs[0].range == (0.0, 1.0)
    x = np.random.default_rng(0).random((1, 3, 4, 4), np.float32)
    with open_session(bundle, "onnxruntime") as session:
        np.testing.assert_allclose(session.run({"image": x})["y"], 2 * (x - 0.5) / 0.25, atol=1e-5)
    with pytest.raises(InputError, match="give both"):
        wrap(tmp_path / "net.onnx", tmp_path / "c", options, Asked(mean=[0.5] * 3))
    with pytest.raises(InputError, match="mean of 2 channels"):
        wrap(tmp_path / "net.onnx", tmp_path / "c", options, Asked(mean=[0.5] * 2, std=[1.0] * 2))


def plain(folder: Path, name: str, shapes: tuple[list[Any], list[Any]], ends: tuple[str, str]) -> Path:
    """A network that doubles and takes means over the last two axes, or keeps its shape."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(ends, shapes, strict=True)]
    kind = "Neg" if shapes[0] == shapes[1] else "GlobalAveragePool"
    graph = helper.make_graph([helper.make_node(kind, [ends[0]], [ends[1]])], "g", values[:1], values[1:])
    return saved(folder, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), name)


def test_what_is_said_of_several_files_goes_by_component(tmp_path: Path) -> None:
    files = {
        "encoder": plain(tmp_path, "a.onnx", (["N", 3, "h", "w"], ["N", 3, 1, 1]), ("image", "code")),
        "decoder": plain(tmp_path, "b.onnx", ([1, 5], [1, 5]), ("code", "result")),
    }
    asked = Asked(
        example_inputs=[image(), np.ones((1, 5), np.float32)],
        names=["encoder/photo", "decoder/code"],
        dynamic={"encoder/photo": {2: "height", 3: "width"}},
        ranges={"encoder/photo": (0.0, 1.0), "result": (-1.0, 1.0)},
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.3, 0.4],
    )
    bundle = wrap(files, tmp_path / "b", ExportOptions(formats=["onnx"]), asked)
    first, second = (bundle.component(name) for name in files)
    assert first.inputs[0].name == "photo" and first.inputs[0].shape == ("N", 3, "height", "width")
    assert first.inputs[0].range == (0.0, 1.0) and first.outputs[0].range is None
    assert second.outputs[0].range == (-1.0, 1.0) and bundle.golden("decoder")["code"].shape == (1, 5)
    with open_session(bundle, "onnxruntime", component="encoder") as session:
        expected = (image() - np.reshape(asked.mean, (1, 3, 1, 1))) / np.reshape(asked.std, (1, 3, 1, 1))
        answer = session.run({"photo": image()})["code"]
    np.testing.assert_allclose(answer, expected.mean((2, 3), keepdims=True), atol=1e-5)
    for wrong, word in (
        (Asked(ranges={"code": (0.0, 1.0)}), "encoder and decoder have: say 'encoder/code'"),
        (Asked(ranges={"other": (0.0, 1.0)}), "which no component has: expected encoder/code, encoder/image"),
        (Asked(ranges={"encoder/other": (0.0, 1.0)}), "of \\['other'\\]"),
        (Asked(names=["x"]), "'x', which no component has"),
        (Asked(example_inputs=[image()]), "name each 'encoder/image'"),
        (Asked(mean=[0.5] * 2, std=[0.5] * 2), "mean of 2 channels for the components encoder, decoder"),
    ):
        with pytest.raises(InputError, match=word):
            wrap(files, tmp_path / "c", ExportOptions(formats=["onnx"]), wrong)


def test_external_data_is_taken_along(tmp_path: Path) -> None:
    settings = {"save_as_external_data": True, "location": "net.weights", "size_threshold": 0}
    bundle = wrap(saved(tmp_path, enlarging(), **settings), tmp_path / "b", OPTIONS, Asked())
    assert [f.path for f in bundle.component().variants[0].files] == ["model-fp32.onnx", "net.weights"]
    assert len(all_right(bundle)) == 2
    packed = bundle.pack(tmp_path / "b.zip")
    assert len(all_right(Bundle.open(packed))) == 2
    (bundle.folder / "net.weights").unlink()
    with pytest.raises(BundleError, match=r"net\.weights' is missing"):
        open_session(bundle, "onnxruntime")


@pytest.mark.parametrize("location", ["bundle.json", "golden/x.bin", "../x.bin", "model-fp32.onnx"])
def test_external_data_in_the_bundles_way_is_refused(tmp_path: Path, location: str) -> None:
    model = enlarging()
    for tensor in model.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.raw_data = b""
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        (folder / location).parent.mkdir(exist_ok=True)
        (folder / location).write_bytes(b"\0" * 2000)
    path = tmp_path / "in" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EdgekitError, match="names that a bundle needs|inside the bundle"):
        wrap(path, tmp_path / "b", OPTIONS, Asked())


# What is refused


def test_damaged_and_wrong_files(tmp_path: Path) -> None:
    data = enlarging().SerializeToString()
    lite = (ZOO / "sr-x2" / "model-fp32-64x64.tflite").read_bytes()
    bad = {
        "empty.onnx": (b"", "is empty"),
        "half.onnx": (data[: len(data) // 2], r"half\.onnx"),
        "rubbish.onnx": (b"rubbish " * 20, "is not an ONNX model"),
        "lite.onnx": (lite, r"looks like a \.tflite flatbuffer: name it \*\.tflite"),
        "onnx.tflite": (data, r"looks like an ONNX model"),
        "half.tflite": (lite[: len(lite) // 2], r"half\.tflite"),
        "empty.tflite": (b"", "is empty"),
        "alone.xml": (b"<?xml version='1.0'?><net></net>", r"expected 'alone\.bin' beside it"),
        "text.xml": (b"hello", "is not an OpenVINO"),
    }
    for name, (content, word) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EdgekitError, match=word):
            wrap(tmp_path / name, tmp_path / "b", OPTIONS, Asked())
    (tmp_path / "bad.xml").write_bytes(b"<?xml version='1.0'?><net></net>")
    (tmp_path / "bad.bin").write_bytes(b"")
    with pytest.raises(InputError, match="damaged"):
        wrap(tmp_path / "bad.xml", tmp_path / "b", OPTIONS, Asked())
    with pytest.raises(InputError, match="no model file"):
        wrap(tmp_path / "none.onnx", tmp_path / "b", OPTIONS, Asked())
    assert not (tmp_path / "b").exists()


def test_an_operator_that_no_engine_knows(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="onnxruntime cannot open.*Relu|Relu"):
        wrap(saved(tmp_path, enlarging(domain="own.ops")), tmp_path / "b", OPTIONS, Asked())


def test_an_operator_that_one_engine_knows(tmp_path: Path) -> None:
    """ONNX Runtime's own operators: the bundle is written with the file, and the error names the other format."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 8]) for n in "xy"]
    node = helper.make_node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")
    held = [numpy_helper.from_array(np.ones(8, np.float32), "b")]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], held), opset_imports=opsets, ir_version=8
    )
    path = saved(tmp_path, model)
    try:
        bundle = wrap(path, tmp_path / "b", OPTIONS, Asked())
    except ExportError as error:
        assert "openvino" in str(error) and "written to" in str(error)
        bundle = Bundle.open(tmp_path / "b")
        assert "cannot read it" in bundle.manifest.provenance["files"]["model"]["engines"]["openvino"]
    assert "onnx" in {v.format for v in bundle.component().variants}
    with open_session(bundle, "onnxruntime") as session:
        assert session.run({"x": np.zeros((2, 8), np.float32)})["y"].shape == (2, 8)


def test_a_format_that_cannot_be_made_is_said_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"tflite.*export the PyTorch module, or a \.pt2"):
        wrap(saved(tmp_path, enlarging()), tmp_path / "b", ExportOptions(formats=["onnx", "tflite"]), Asked())
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["onnx"]


def test_a_task_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgekitError, match=r"upscale|enlargement|image"):
        wrap(ZOO / "digits-cnn" / "model-fp32.onnx", tmp_path / "b", OPTIONS, Asked(task="upscale"))
    assert not (tmp_path / "b").exists()
