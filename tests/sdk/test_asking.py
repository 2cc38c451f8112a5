"""Wrong input at the border: each says what was given, what was expected and what to do, and none reaches an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdk.doubles import write_double

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import BundleNotFound, DeviceUnavailable, EdgekitError, InputError, TensorError
from edgekit.opening import open_session
from edgekit.runtimes.reference import ReferenceRuntime, ReferenceSession
from edgekit.session import Session

X = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)


@pytest.fixture
def double(tmp_path: Path) -> Bundle:
    return write_double(tmp_path / "double")


@pytest.fixture
def session(double: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """One whose engine must not be reached."""

    def reached(*arguments: Any) -> Any:
        raise AssertionError("the engine was reached")

    with open_session(double, "reference") as session:
        monkeypatch.setattr(ReferenceSession, "_run", reached)
        yield session


# Runs

CALLS: dict[str, Callable[[Session, Any], Any]] = {
    "run": lambda session, inputs: session.run(inputs),
    "submit": lambda session, inputs: session.submit(inputs).result(30),
    "borrow": lambda session, inputs: session.borrow(inputs).__enter__(),
    "map": lambda session, inputs: list(session.map([inputs])),
}
INPUTS: dict[str, tuple[Any, str]] = {
    "None": (None, "inputs of type NoneType"),
    "a list": ([X], "inputs of type list"),
    "an array": (X, "inputs of type ndarray"),
    "a text": ("image", "inputs of type str"),
    "a set": ({"image"}, "inputs of type set"),
    "a generator": ((x for x in [X]), "inputs of type generator"),
    "numbers for names": ({1: X}, r"the inputs \[1\]"),
    "names of several kinds": ({1: X, "image": X}, r"the inputs \[1, 'image'\]"),
}
VALUES: dict[str, tuple[Any, str]] = {
    "None": (None, "got NoneType.*np.asarray"),
    "a list": (X.tolist(), "got list"),
    "a number": (1.0, "got float"),
    "a NumPy number": (np.float32(1), "got float32"),
    "of no axes": (np.array(1, np.float32), r"got shape \(\)"),
    "of no values": (X[:, :, :0], r"got shape \(1, 3, 0, 5\)"),
    "an axis less": (X[0], r"got shape \(3, 4, 5\)"),
    "an axis more": (X[None], r"got shape \(1, 1, 3, 4, 5\)"),
    "float64": (X.astype(np.float64), "got dtype float64.*astype"),
    "uint8": (X.astype(np.uint8), "got dtype uint8"),
    "big-endian": (X.astype(">f4"), "got dtype >f4"),
    "objects": (X.astype(object), "got dtype object"),
    "texts": (X.astype(str), "got dtype <U"),
    "complex": (X.astype(np.complex64), "got dtype complex64"),
    "dates": (np.zeros(X.shape, "M8[s]"), "got dtype datetime64"),
    "records": (np.zeros(X.shape, [("a", "f4")]), "got dtype"),
    "masked": (np.ma.masked_less(X, 0.5), "got a masked array.*filled"),
    "huge": (np.broadcast_to(np.float32(0), (1, 3, 200_000, 200_000)), "got 120000000000 values"),
    "NaN": (np.where(X > 0.9, np.float32("nan"), X), "NaN, the first at"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_are_no_arrays_by_name(session: Session, call: str, kind: str) -> None:
    inputs, words = INPUTS[kind]
    with pytest.raises(TensorError, match=f"got {words}, expected .*image: float32"):
        CALLS[call](session, inputs)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", VALUES)
def test_values_that_do_not_fit(session: Session, call: str, kind: str) -> None:
    value, words = VALUES[kind]
    with pytest.raises(TensorError, match=f"image: .*{words}|{words}"):
        CALLS[call](session, {"image": value})


def test_tensors_of_pytorch_and_pictures_of_pillow(session: Session) -> None:
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    for value, kind in [(torch.from_numpy(X), "Tensor"), (image.new("RGB", (5, 4)), "Image")]:
        with pytest.raises(TensorError, match=f"got {kind}, expected a NumPy array.*np.asarray"):
            session.run({"image": value})


@pytest.mark.parametrize(
    "array",
    [X[:, :, ::-1], X[..., ::2], np.asfortranarray(X), np.broadcast_to(np.float32(0.5), X.shape), X.view(np.recarray)],
    ids=["reversed", "strided", "columns first", "broadcast, read-only", "a subclass"],
)
def test_any_layout_in_memory_is_taken(double: Bundle, array: Any) -> None:
    with open_session(double, "reference") as session:
        expected = session.run({"image": np.array(array)})["upscaled"]
        np.testing.assert_array_equal(session.run({"image": array})["upscaled"], expected)


@pytest.mark.parametrize("stream", [None, 3, {"image": X}])
def test_what_is_no_stream(session: Session, stream: Any) -> None:
    with pytest.raises(InputError, match="got a stream of type"):
        session.map(stream)


@pytest.mark.parametrize("ahead", [-1, "2", 1.5])
def test_what_is_not_so_many_ahead(session: Session, ahead: Any) -> None:
    with pytest.raises(InputError, match="got ahead="):
        session.map([{"image": X}], ahead=ahead)


# Opening

OPENED = [open_session, edgekit.load]


def refused(kind: type[EdgekitError], words: str, source: Any, *arguments: Any, **asked: Any) -> None:
    for opened in OPENED:
        if opened is edgekit.load and set(asked) & {"sizes", "floats", "component"}:
            continue
        with pytest.raises(kind, match=words):
            opened(source, *arguments, **asked)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "session" not in request.fixturenames and "double" not in request.fixturenames:

        def reached(*arguments: Any) -> Any:
            raise AssertionError("an engine was reached")

        monkeypatch.setattr(ReferenceRuntime, "open", reached)
        monkeypatch.setattr("edgekit.opening._opened", reached)


@pytest.mark.parametrize("source", [None, 3, b"sr-x2", ["sr-x2"], X])
def test_what_is_no_source(source: Any) -> None:
    refused(InputError, "got a source of type .*expected a bundle", source)


@pytest.mark.parametrize("source", ["", "a\0b", "x" * 5000])
def test_what_is_no_path(source: str) -> None:
    refused(BundleNotFound, "characters.: expected a bundle's folder", source)


@pytest.mark.parametrize("runtime", [None, 3, ["openvino"]])
def test_what_is_no_runtime(runtime: Any) -> None:
    refused(InputError, "got runtime=.*expected a name, or 'auto'", "digits-cnn", runtime)


@pytest.mark.parametrize(
    ("typed", "meant"), [("openvno", "openvino"), ("OpenVINO", "openvino"), ("OnnxRuntime", "onnxruntime")]
)
def test_a_misspelt_runtime(typed: str, meant: str) -> None:
    refused(InputError, f"did you mean '{meant}'", "digits-cnn", typed)


@pytest.mark.parametrize("device", [None, 0, ["cpu"]])
def test_a_device_of_another_kind(device: Any) -> None:
    refused(InputError, "got device=.*expected a name", "digits-cnn", device=device)


@pytest.mark.parametrize(
    "device", ["GPU", "CPU", "gpu:x", "gpu:", "gpu:-1", "gpu:1:2", " cpu", "", "gpu:0x1", "gpu:10000"]
)
def test_a_device_that_is_written_as_none_is(device: str) -> None:
    refused(DeviceUnavailable, "got device=.*use device='cpu', 'gpu', 'npu'", "digits-cnn", device=device)


@pytest.mark.parametrize("device", ["cuda", "cpu:7", "tpu"])
def test_a_device_that_is_not_there(device: str) -> None:
    refused(DeviceUnavailable, "use device='cpu'", "digits-cnn", device=device)


@pytest.mark.parametrize("threads", [0, -1, "2", 1.5, True, 1025, float("nan")])
@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_threads_that_are_no_number_of_them(threads: Any, runtime: str) -> None:
    refused(InputError, "got threads=.*expected 1 to 1024, or None", "digits-cnn", runtime, threads=threads)


@pytest.mark.parametrize("precision", ["int9", "INT8", "fp23", "float32"])
def test_a_misspelt_precision_lists_what_there_is(precision: str) -> None:
    refused(DeviceUnavailable, f"no {precision} file .*onnx fp32, onnx int8", "digits-cnn", precision=precision)


@pytest.mark.parametrize("precision", [None, 8, ""])
def test_what_is_no_precision(precision: Any) -> None:
    refused(InputError, "got precision=", "digits-cnn", precision=precision)


@pytest.mark.parametrize(
    "sizes",
    [{"height": "8"}, {"height": 0}, {"height": -3}, {"height": 8.5}, {"height": True}, {3: 3}, [("height", 8)], 3],
)
def test_what_are_no_sizes(sizes: Any) -> None:
    refused(InputError, "got sizes=.*by name", "sr-x2", sizes=sizes)


@pytest.mark.parametrize("switch", ["isolate", "check", "floats"])
@pytest.mark.parametrize("value", ["yes", 1, None])
def test_what_is_no_switch(switch: str, value: Any) -> None:
    refused(InputError, f"got {switch}=.*expected True, False", "digits-cnn", **{switch: value})


def test_numbers_of_numpy_are_numbers(double: Bundle) -> None:
    with open_session(double, "reference", threads=np.int64(2), sizes={"height": np.int32(4)}) as session:
        assert session.outputs
