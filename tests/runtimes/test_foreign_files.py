"""Model files that nobody here made: odd dtypes, names, sizes, signatures, operators, and quantized borders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from runtimes.foreign import Graph, Op, T, options, tflite, unary

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, InputError, TensorError
from edgekit.manifest import decode
from edgekit.opening import open_session
from edgekit.runtimes.litert import LiteRtOptions
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.session import Session
from edgekit.tensors import Quantization, TensorSpec

FLOATS = np.array([[-3.0, -0.3, 0.4, 200.0]], np.float32)
EXP = (Op("EXP", (0,), (1,)),)


def run(session: Session, *arrays: np.ndarray) -> np.ndarray:
    """The one output for arrays in the order of the inputs."""
    outputs = session.run({spec.name: array for spec, array in zip(session.inputs, arrays, strict=True)})
    return outputs[session.outputs[0].name]


def doubling(folder: Path, dtype: str, zero: int = 3) -> Path:
    """x + x, with quantized borders."""
    given, made = T("x", dtype, (1, 4), 0.5, zero), T("y", dtype, (1, 4), 1.0, zero - 1 if zero else 0)
    added = options("Add", potScaleInt16=False)
    return tflite(folder / f"{dtype}.tflite", Graph((given, made), (Op("ADD", (0, 0), (1,), added),), (0,), (1,)))


def onnx_file(path: Path, nodes: list[Any], given: Any, made: Any, tensors: Any = (), domain: str = "") -> Path:
    """An .onnx file of one input and one output."""
    graph = helper.make_graph(nodes, "g", [given], [made], list(tensors))
    opsets = [helper.make_opsetid("", 21), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def quantized_onnx(folder: Path, **changes: Any) -> Path:
    """uint8 → Relu → int8, as quantizers write it."""
    constants = {"s": np.float32(0.5), "z": np.uint8(3), "s2": np.float32(0.25), "z2": np.int8(-5), **changes}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["t", "s", "z"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "s2", "z2"], ["q"]),
        helper.make_node("Transpose", ["q"], ["y"], perm=[1, 0]),
    ]
    ends = [
        helper.make_tensor_value_info(n, k, ["n", 4]) for n, k in (("x", TensorProto.UINT8), ("y", TensorProto.INT8))
    ]
    return onnx_file(folder / "quantized.onnx", nodes, *ends, tensors)


# Quantized borders


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_tflite_file_states_scale_and_zero_point(tmp_path: Path, dtype: str) -> None:
    with open_session(doubling(tmp_path, dtype)) as session:
        (given,), (made,) = session.inputs, session.outputs
        assert (given.dtype, given.quantization) == (dtype, Quantization(0.5, 3))
        assert made.quantization == Quantization(1.0, 2)
        assert str(given) == f"{dtype} 1 × 4 (scale 0.5, zero point 3)"
        np.testing.assert_array_equal(run(session, np.array([[3, 5, 7, 9]], dtype)), [[2, 4, 6, 8]])
        assert session.placement().precision == "int8"
        with pytest.raises(TensorError, match="floats=True"):
            run(session, FLOATS)


@pytest.mark.parametrize(("dtype", "highest"), [("int8", 125.0), ("uint8", 253.0)])
def test_floats_go_in_and_come_out_of_a_quantized_tflite_file(tmp_path: Path, dtype: str, highest: float) -> None:
    with open_session(doubling(tmp_path, dtype), floats=True) as session:
        assert session.inputs == (TensorSpec("x", "float32", (1, 4)),)
        signed = dtype == "int8"
        clipped = np.clip(FLOATS, -65.5 if signed else -1.5, 62.0 if signed else 126.0)  # what 0.5 and 3 reach
        expected = np.clip(np.rint(2 * (np.rint(clipped / 0.5) * 0.5)), -130, highest)
        result = run(session, FLOATS)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, atol=1)  # the engine rounds a half as it likes
        with session.borrow({"x": FLOATS}) as lent:
            np.testing.assert_array_equal(lent["y"], result)
        np.testing.assert_array_equal(session.submit({"x": FLOATS}).result(30)["y"], result)
    with pytest.raises(RuntimeError, match="closed"):
        run(session, FLOATS)


def test_sixteen_bits(tmp_path: Path) -> None:
    path = unary(tmp_path / "i16.tflite", T("x", "int16", (1, 4), 0.001), T("y", "float32"), "DEQUANTIZE")
    with open_session(path) as plain, open_session(path, floats=True) as floats:
        assert plain.inputs[0].quantization == Quantization(pytest.approx(0.001))
        np.testing.assert_allclose(run(floats, FLOATS * 0.1), FLOATS * 0.1, atol=6e-4)


def test_a_shipped_int8_file_answers_as_its_bundle_does() -> None:
    bundle = Bundle.open("digits-cnn")
    image = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    with open_session(bundle, "litert", precision="int8") as stated:
        with open_session(bundle.folder / "model-int8.tflite", floats=True) as lone:
            np.testing.assert_array_equal(run(lone, image), run(stated, image))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_onnx_file_tells_by_the_operators_beside_its_borders(tmp_path: Path, engine: str) -> None:
    path = quantized_onnx(tmp_path)
    with open_session(path, engine) as plain:
        assert plain.inputs[0].dtype == "uint8" and plain.inputs[0].quantization == Quantization(0.5, 3)
        assert plain.outputs[0].dtype == "int8" and plain.outputs[0].quantization == Quantization(0.25, -5)
        np.testing.assert_array_equal(run(plain, np.array([[1, 3, 5, 255]], np.uint8)), [[-5, -5, -1, 127]])
    with open_session(path, engine, floats=True) as floats:
        np.testing.assert_allclose(run(floats, FLOATS), [[0, 0, 0.5, 33]])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_one_scale_for_each_channel_is_no_border_scale(tmp_path: Path, engine: str) -> None:
    path = quantized_onnx(tmp_path, s=np.full(4, 0.5, np.float32), z=np.full(4, 3, np.uint8))
    model = onnx.load(path)
    model.graph.node[1].attribute.append(helper.make_attribute("axis", 0))
    onnx.save(model, path)
    with open_session(path, engine) as session:
        assert session.inputs[0].quantization is None and session.outputs[0].quantization is not None


def test_openvino_states_go_on_from_run_to_run_in_a_stream_too(tmp_path: Path) -> None:
    ov: Any = pytest.importorskip("openvino.opset13")
    given = ov.parameter([1], np.float32, "x")
    given.output(0).set_names({"x"})
    held = ov.read_value(ov.constant(np.zeros(1, np.float32)), "sum")
    added = ov.add(held, given)
    model = openvino.Model([ov.result(added)], [ov.assign(added, "sum")], [given], "sums")
    openvino.save_model(model, tmp_path / "sums.xml")
    one, options = {"x": np.ones(1, np.float32)}, OpenVinoOptions(performance_hint="THROUGHPUT", streams=2)
    with open_session(tmp_path / "sums.xml", options=options) as session:
        assert float(next(iter(session.run(one).values()))[0]) == 1
        mapped = [float(next(iter(result.values()))[0]) for result in session.map([one] * 5, ahead=3)]
        assert mapped == [2, 3, 4, 5, 6]
    with open_session(tmp_path / "sums.xml", options=options) as session:
        assert float(next(iter(session.run(one).values()))[0]) == 1


def test_openvino_ir_keeps_what_its_graph_says(tmp_path: Path) -> None:
    openvino.save_model(openvino.Core().read_model(quantized_onnx(tmp_path)), tmp_path / "ir.xml")
    with open_session(tmp_path / "ir.xml", floats=True) as session:
        np.testing.assert_allclose(run(session, FLOATS), [[0, 0, 0.5, 33]])


def test_a_manifest_can_state_quantization_and_old_ones_need_not() -> None:
    import msgspec

    spec = TensorSpec("x", "int8", (1, 4), quantization=Quantization(0.5, 3))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=TensorSpec) == spec
    assert b"quantization" not in msgspec.json.encode(TensorSpec("x", "int8", (1, 4)))
    folder = Bundle.open("sr-x2").folder
    assert decode((folder / "bundle.json").read_bytes(), "bundle.json").name == "sr-x2"


def test_a_bundle_of_a_quantized_file_converts_as_the_file_does(tmp_path: Path) -> None:
    bundle = edgekit.export(doubling(tmp_path, "uint8"), tmp_path / "bundle")
    with open_session(bundle, floats=True) as session, open_session(tmp_path / "uint8.tflite", floats=True) as lone:
        np.testing.assert_array_equal(run(session, FLOATS), run(lone, FLOATS))


def test_stored_rounds_clips_and_comes_back() -> None:
    quantization = Quantization(0.1, -2)
    values = np.array([-100.0, 0.05, 0.16, 100.0], np.float32)
    np.testing.assert_array_equal(quantization.stored(values, "int8"), [-128, -2, 0, 127])
    np.testing.assert_allclose(quantization.restored(np.array([-2, 0], np.int8)), [0, 0.2], rtol=1e-6)
    wide = Quantization(1e-3).stored(np.array([1e9], np.float32), "int32")
    np.testing.assert_array_equal(wide, [2**31 - 1])


# Dtypes, names, sizes


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint16", "float16"])
def test_a_tflite_file_takes_any_numbers(tmp_path: Path, dtype: str) -> None:
    cast = None if dtype == "float16" else options("Cast", outDataType=0)
    path = unary(tmp_path / "cast.tflite", T("x", dtype), T("y"), "CAST", cast)
    with open_session(path) as session:
        np.testing.assert_array_equal(run(session, np.array([[0, 1, 2, 3]], dtype)), [[0, 1, 2, 3]])


def test_half_precision_is_float32_on_request(tmp_path: Path) -> None:
    path = unary(tmp_path / "half.tflite", T("x", "float16"), T("y"), "CAST")
    with open_session(path, floats=True) as session:
        np.testing.assert_array_equal(run(session, np.array([[1e6, 0.5, 2, 3]], np.float32)), [[65504, 0.5, 2, 3]])


def test_bool(tmp_path: Path) -> None:
    with open_session(unary(tmp_path / "not.tflite", T("x", "bool"), T("y", "bool"), "LOGICAL_NOT")) as session:
        np.testing.assert_array_equal(run(session, np.array([[True, False] * 2])), [[False, True] * 2])


@pytest.mark.parametrize("kind", ["INT16", "UINT16", "INT32", "INT64", "UINT32", "UINT64", "FLOAT16", "DOUBLE", "BOOL"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_onnx_file_takes_any_numbers(tmp_path: Path, engine: str, kind: str) -> None:
    ends = [helper.make_tensor_value_info(n, getattr(TensorProto, kind), [1, 4]) for n in "xy"]
    with open_session(onnx_file(tmp_path / "a.onnx", [helper.make_node("Identity", ["x"], ["y"])], *ends), engine) as s:
        array = np.ones((1, 4), s.inputs[0].dtype)
        np.testing.assert_array_equal(run(s, array), array)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert"])
def test_a_scalar_is_an_array_without_axes_or_a_numpy_number(tmp_path: Path, engine: str) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, []) for n in "xy"]
    path = onnx_file(tmp_path / "e.onnx", [helper.make_node("Exp", ["x"], ["y"])], *ends)
    if engine == "litert":
        path = unary(tmp_path / "e.tflite", T("x", "float32", ()), T("y", "float32", ()), "EXP")
    with open_session(path, engine) as session:
        assert session.inputs[0].shape == () and str(session.inputs[0]) == "float32 scalar"
        for value in (np.float32(1), np.array(1, np.float32)):
            np.testing.assert_allclose(run(session, value), np.e, rtol=1e-5)
        with pytest.raises(TensorError, match="scalar"):
            run(session, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert"])
def test_a_free_batch_takes_any_size_one_after_the_other(tmp_path: Path, engine: str) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [-1, 4]) for n in "xy"]
    path = onnx_file(tmp_path / "e.onnx", [helper.make_node("Exp", ["x"], ["y"])], *ends)
    if engine == "litert":
        path = unary(tmp_path / "e.tflite", T("x", "float32", (-1, 4)), T("y", "float32", (-1, 4)), "EXP")
    with open_session(path, engine) as session:
        assert session.inputs[0].shape == ("x_dim0", 4)
        for batch in (3, 1, 3, 7):
            array = np.full((batch, 4), batch / 7, np.float32)
            np.testing.assert_allclose(run(session, array), np.exp(array), rtol=1e-5)
        with pytest.raises(TensorError, match="x_dim0 × 4"):
            run(session, np.ones((3, 5), np.float32))


def test_a_fixed_size_stays_fixed(tmp_path: Path) -> None:
    with open_session(unary(tmp_path / "e.tflite", T("x"), T("y"), "EXP")) as session:
        with pytest.raises(TensorError, match="1 × 4"):
            run(session, np.ones((2, 4), np.float32))


def test_tensors_without_names_get_some_and_alike_ones_are_told_apart(tmp_path: Path) -> None:
    with open_session(unary(tmp_path / "u.tflite", T(""), T(""), "EXP")) as session:
        assert [s.name for s in (*session.inputs, *session.outputs)] == ["input_0", "output_0"]
    twins = Graph((T("x"), T("x"), T("y")), (Op("SUB", (0, 1), (2,), options("Sub")),), (0, 1), (2,))
    with open_session(tflite(tmp_path / "twins.tflite", twins)) as session:
        assert [s.name for s in session.inputs] == ["x", "x_1"]
        np.testing.assert_array_equal(run(session, FLOATS, FLOATS * 2), -FLOATS)


# Signatures


def test_one_signature_names_the_tensors(tmp_path: Path) -> None:
    graph = Graph(
        (T("serving_default_a:0"), T("StatefulPartitionedCall:0")), EXP, (0,), (1,), "serve", {0: "a", 1: "b"}
    )
    with open_session(tflite(tmp_path / "one.tflite", graph)) as session:
        assert [s.name for s in (*session.inputs, *session.outputs)] == ["a", "b"]
        assert session.placement().operators == {"XNNPACK EXP": 1}


def test_of_several_signatures_one_is_named(tmp_path: Path) -> None:
    encode = Graph((T("a", shape=(-1, 4)), T("b", shape=(-1, 4))), EXP, (0,), (1,), "encode", {0: "image", 1: "code"})
    negate = (Op("NEG", (0,), (1,)),)
    decode = Graph(
        (T("a", shape=(-1, 4)), T("b", shape=(-1, 4))), negate, (0,), (1,), "decode", {0: "code", 1: "image"}
    )
    path = tflite(tmp_path / "several.tflite", encode, decode)
    with pytest.raises(InputError, match=r"encode, decode: name one with options=LiteRtOptions\(signature='encode'\)"):
        open_session(path)
    with pytest.raises(InputError, match="'train': 'several.tflite' has encode, decode"):
        open_session(path, options=LiteRtOptions(signature="train"))
    for name, function in (("encode", np.exp), ("decode", np.negative)):
        with open_session(path, options=LiteRtOptions(signature=name)) as session:
            for batch in (2, 1):
                array = np.full((batch, 4), 0.5, np.float32)
                np.testing.assert_allclose(run(session, array), function(array), rtol=1e-6)


# Operators


def test_control_flow_runs(tmp_path: Path) -> None:
    choice = options("If", thenSubgraphIndex=1, elseSubgraphIndex=2)
    main = Graph((T("c", "bool", ()), T("x"), T("y")), (Op("IF", (0, 1), (2,), choice),), (0, 1), (2,))
    path = tflite(
        tmp_path / "if.tflite",
        main,
        Graph((T("a"), T("b")), EXP, (0,), (1,)),
        Graph((T("a"), T("b")), (Op("NEG", (0,), (1,)),), (0,), (1,)),
    )
    with open_session(path) as session:
        np.testing.assert_allclose(
            run(session, np.array(True), FLOATS[:, :1].repeat(4, 1)), np.exp([[-3.0] * 4]), rtol=1e-5
        )
        np.testing.assert_array_equal(run(session, np.array(False), FLOATS), -FLOATS)
        assert session.placement().operators == {"CPU IF": 1}


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("MyGelu", "custom operator 'MyGelu', which this engine lacks"),
        ("FlexErf", "TensorFlow's own operator 'Erf'.*TFLITE_BUILTINS"),
        ("edgetpu-custom-op", "compiled for the Edge TPU: open it with device='npu'"),
    ],
)
def test_an_operator_that_litert_lacks_is_named(tmp_path: Path, operator: str, words: str) -> None:
    graph = Graph((T("x"), T("y")), (Op("CUSTOM", (0,), (1,), custom=operator),), (0,), (1,))
    with pytest.raises(EngineError, match=rf"odd\.tflite.*{words}"):
        open_session(tflite(tmp_path / "odd.tflite", graph))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_operator_that_an_onnx_engine_lacks_is_named(tmp_path: Path, engine: str) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    node = helper.make_node("MyGelu", ["x"], ["y"], domain="my.ops")
    with pytest.raises(EngineError, match=r"odd\.onnx.*my\.ops.MyGelu"):
        open_session(onnx_file(tmp_path / "odd.onnx", [node], *ends, domain="my.ops"), engine)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert"])
def test_text_is_refused_by_name(tmp_path: Path, engine: str) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.STRING, [1, 4]) for n in ("words", "same")]
    path = onnx_file(tmp_path / "text.onnx", [helper.make_node("Identity", ["words"], ["same"])], *ends)
    if engine == "litert":
        shape = options("Reshape", newShape=[4])
        path = unary(tmp_path / "text.tflite", T("words", "string", (4,)), T("y", "string", (4,)), "RESHAPE", shape)
    with pytest.raises(TensorError, match="'words' holds text, expected numbers.*tokenize"):
        open_session(path, engine)


def test_complex_numbers_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TensorError, match="'x' holds values of the type complex64"):
        open_session(unary(tmp_path / "c.tflite", T("x", "complex64"), T("y"), "REAL"))
