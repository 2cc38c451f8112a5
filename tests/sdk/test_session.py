"""Opening sessions: what is asked for is kept to, what cannot be had is refused with the remedy."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdk.doubles import INPUT, OUTPUT, write_double

import edgekit
from edgekit.bundle import Bundle, find
from edgekit.errors import (
    BundleError,
    BundleNotFound,
    DeviceUnavailable,
    EngineError,
    InputError,
    NotInstalled,
    SessionClosed,
    TensorError,
)
from edgekit.exporters.formats.openvino_ import from_onnx
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.runtimes.litert import LiteRtOptions
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.runtimes.reference import Function
from edgekit.session import Session

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino", "litert": "litert"}
IMAGE = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)


@pytest.fixture
def double(tmp_path: Path) -> Bundle:
    return write_double(tmp_path / "double")


@pytest.fixture
def lone(tmp_path: Path) -> Callable[[str], Path]:
    """Copies a shipped fp32 file out of its bundle, by ending."""

    def copied(ending: str) -> Path:
        folder = find("sr-x2")
        if ending == ".xml":
            return tmp_path / from_onnx(folder / "model-fp32.onnx", tmp_path, "model-fp32")[0]
        files = sorted(p for p in folder.iterdir() if p.suffix == ending and "fp32" in p.name)
        shutil.copy(files[0], tmp_path)
        return tmp_path / files[0].name

    return copied


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes engines look as if they were not installed."""

    def block(*engines: str) -> None:
        for engine in engines:
            monkeypatch.setitem(sys.modules, PACKAGES[engine], None)
            if engine == "litert":
                monkeypatch.setitem(sys.modules, "tflite_runtime", None)

    return block


# What is opened


def test_a_session_of_a_bundle_has_its_tensors(double: Bundle) -> None:
    with open_session(double, "reference", precision="fp32") as session:
        assert (session.inputs, session.outputs) == ((INPUT,), (OUTPUT,))
        result = session.run({"image": IMAGE})
        np.testing.assert_array_equal(result["upscaled"], IMAGE.repeat(2, axis=2).repeat(2, axis=3))
        assert session.placement().why == "asked for"


@pytest.mark.parametrize("source", ["folder", "text", "zip"])
def test_a_bundle_opens_from_wherever_it_lies(double: Bundle, tmp_path: Path, source: str) -> None:
    archive = double.pack(tmp_path / "double.zip")
    with open_session({"folder": double.folder, "text": str(double.folder), "zip": archive}[source], "reference") as s:
        assert s.run({"image": IMAGE})["upscaled"].shape == (1, 3, 8, 10)


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".tflite"])
def test_lone_files_open_and_run(lone: Callable[[str], Path], ending: str) -> None:
    with open_session(lone(ending)) as session:
        (spec,) = session.inputs
        shape = [d if isinstance(d, int) else 32 for d in spec.shape]
        (result,) = session.run({spec.name: np.zeros(shape, spec.dtype)}).values()
        assert result.size == 4 * np.prod(shape)
        assert session.placement().precision == "fp32"


def test_auto_says_what_it_chose_and_why() -> None:
    with open_session("sr-x2", threads=1) as session:
        placement = session.placement()
    assert placement.runtime in PACKAGES
    assert "default order" in placement.why
    assert placement.threads == 1


@pytest.mark.parametrize(("engine", "precision"), [(e, p) for e in PACKAGES for p in ("fp32", "int8")])
def test_what_is_asked_for_is_what_runs(engine: str, precision: str) -> None:
    with open_session("sr-x2", engine, precision=precision, threads=1) as session:
        placement = session.placement()
    assert (placement.runtime, placement.device, placement.precision) == (
        engine,
        "cpu",
        find_runtime(engine).computes(precision),
    )
    assert sum(placement.operators.values()) > 0


def test_sizes_pick_the_file_of_these_sizes() -> None:
    variants = Bundle.open("sr-x2").component().variants
    for sizes in (v.sizes for v in variants if v.format == "tflite"):
        with open_session("sr-x2", "litert", sizes=sizes, threads=1) as session:
            assert session.inputs[0].shape == (1, sizes["height"], sizes["width"], 3)


# What is refused


def test_unknown_runtime_lists_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no runtime 'tensorrt': expected one of .*openvino.*onnxruntime.*litert"):
        open_session("sr-x2", "tensorrt")


@pytest.mark.parametrize("runtime", ["auto", "onnxruntime"])
def test_unknown_precision_lists_what_there_is(runtime: str) -> None:
    with pytest.raises(DeviceUnavailable, match=r"no int4 file.*onnx fp32, onnx int8.*tflite fp32"):
        open_session("sr-x2", runtime, precision="int4")


def test_a_bundle_without_a_file_for_the_engine_says_what_it_has(double: Bundle) -> None:
    with pytest.raises(
        DeviceUnavailable, match="double has no int8 or fp32 file that onnxruntime opens: it has reference"
    ):
        open_session(double, "onnxruntime")


@pytest.mark.parametrize("engine", [*PACKAGES, "auto"])
@pytest.mark.parametrize("device", ["npu", "gpu:7", "cpu:7", "tpu", ""])
def test_a_device_that_is_absent_is_refused_with_the_remedy(engine: str, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match="use device='cpu'"):
        open_session("sr-x2", engine, device=device)


def test_options_of_another_engine_are_refused() -> None:
    with pytest.raises(InputError, match="got options OpenVinoOptions: onnxruntime takes OnnxRuntimeOptions"):
        open_session("sr-x2", "onnxruntime", options=OpenVinoOptions())
    with pytest.raises(InputError, match="got options dict: litert takes LiteRtOptions"):
        open_session("sr-x2", "litert", options={})
    with open_session("sr-x2", "litert", options=LiteRtOptions()) as session:
        assert session.placement().runtime == "litert"


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_threads_out_of_bounds_are_refused(double: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads={threads}: expected 1 to 1024"):
        open_session(double, "reference", threads=threads)


def test_sizes_that_no_file_has_are_refused_with_those_there_are() -> None:
    with pytest.raises(DeviceUnavailable, match=r"no file for litert of the sizes .*'height': 100.*it has") as refused:
        open_session("sr-x2", "litert", sizes={"height": 100, "width": 100})
    for variant in Bundle.open("sr-x2").component().variants:
        assert all(str(size) in str(refused.value) for size in variant.sizes.values())


def test_a_component_that_is_not_there_is_refused(double: Bundle) -> None:
    with pytest.raises(BundleError, match="no component 'decoder'"):
        open_session(double, "reference", component="decoder")


@pytest.mark.parametrize("name", ["nowhere.onnx", "nowhere.xml", "nowhere.tflite"])
def test_a_lone_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleNotFound, match=f"no model file at '.*{name}'"):
        open_session(tmp_path / name)


def test_a_lone_file_has_the_precision_it_has(lone: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="precision 'int8'.*the precision it has"):
        open_session(lone(".onnx"), precision="int8")


def test_a_lone_file_of_another_engine_is_refused(lone: Callable[[str], Path]) -> None:
    with pytest.raises(DeviceUnavailable, match="litert cannot open .*onnxruntime can"):
        open_session(lone(".onnx"), "litert")


@pytest.mark.parametrize("name", ["a.onnx", "a.xml", "a.tflite", "a.safetensors"])
def test_a_lone_file_of_rubbish_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"rubbish " * 20)
    with pytest.raises(EngineError, match=name):
        open_session(tmp_path / name)


# Engines that are not installed


@pytest.mark.parametrize("engine", PACKAGES)
def test_a_missing_engine_names_its_extra(without: Callable[..., None], engine: str) -> None:
    without(engine)
    with pytest.raises(NotInstalled, match=rf"{engine} needs .*pip install 'edgekit\[{EXTRAS[engine]}\]'"):
        open_session("sr-x2", engine)


def test_auto_passes_over_a_missing_engine(without: Callable[..., None]) -> None:
    without("openvino", "litert")
    with open_session("sr-x2") as session:
        assert session.placement().runtime == "onnxruntime"


def test_auto_without_any_engine_names_every_extra(without: Callable[..., None]) -> None:
    without(*PACKAGES)
    with pytest.raises(NotInstalled) as refused:
        open_session("sr-x2")
    assert all(f"edgekit[{extra}]" in str(refused.value) for extra in EXTRAS.values())


@pytest.mark.parametrize(("ending", "extra"), [(".onnx", "onnx"), (".xml", "openvino"), (".tflite", "litert")])
def test_a_lone_file_without_its_engine_names_the_extra(
    lone: Callable[[str], Path], without: Callable[..., None], ending: str, extra: str
) -> None:
    path = lone(ending)
    without(*PACKAGES)
    with pytest.raises(NotInstalled, match=rf"edgekit\[{extra}\]"):
        open_session(path)


def test_devices_lists_every_engine() -> None:
    rows = edgekit.devices()
    usable = {(row.runtime, row.name) for row in rows if row.usable}
    assert usable >= {(engine, "cpu") for engine in PACKAGES}
    assert all(row.title for row in rows if row.usable)


@pytest.mark.parametrize("engine", PACKAGES)
def test_devices_lists_missing_engines_with_the_remedy(without: Callable[..., None], engine: str) -> None:
    without(engine)
    (row,) = (row for row in edgekit.devices() if row.runtime == engine)
    assert not row.usable
    assert f"pip install 'edgekit[{EXTRAS[engine]}]'" in row.why


# Running and closing


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, r"got the inputs \[\], expected \{image: float32"),
        ({"picture": IMAGE}, r"\['picture'\], expected \{image"),
        ({"image": IMAGE, "mask": IMAGE}, r"\['image', 'mask'\]"),
        ({"image": IMAGE[0]}, r"image: got shape \(3, 4, 5\)"),
        ({"image": IMAGE.astype(np.float64)}, "image: got dtype float64"),
        ({"image": IMAGE * np.float32("nan")}, "60 of 60 values are NaN"),
    ],
)
def test_run_refuses_wrong_inputs(double: Bundle, inputs: dict[str, Any], words: str) -> None:
    with open_session(double, "reference") as session, pytest.raises(TensorError, match=words):
        session.run(inputs)


def test_submit_gives_a_future_of_what_run_gives(double: Bundle) -> None:
    with open_session(double, "reference") as session:
        futures = [session.submit({"image": IMAGE}) for _ in range(3)]
        for future in futures:
            np.testing.assert_array_equal(future.result(10)["upscaled"], session.run({"image": IMAGE})["upscaled"])


def test_submit_carries_errors(tmp_path: Path) -> None:
    broken = write_double(tmp_path / "broken", Function((INPUT,), (OUTPUT,), fail="on purpose"))
    with open_session(broken, "reference") as session:
        assert isinstance(session.submit({"image": IMAGE}).exception(10), EngineError)
        assert isinstance(session.submit({}).exception(10), TensorError)


def test_close_finishes_what_was_submitted(tmp_path: Path) -> None:
    slow = write_double(tmp_path / "slow", Function((INPUT,), (OUTPUT,), repeat=2, delay_s=0.05))
    session = open_session(slow, "reference")
    futures = [session.submit({"image": IMAGE}) for _ in range(3)]
    session.close()
    assert all(future.done() and future.exception() is None for future in futures)


@pytest.mark.parametrize("engine", ["reference", *PACKAGES])
def test_a_closed_session_says_so(double: Bundle, engine: str) -> None:
    session = open_session(double if engine == "reference" else "sr-x2", engine, threads=1)
    session.close()
    session.close()
    inputs = {s.name: np.zeros([d if isinstance(d, int) else 16 for d in s.shape], s.dtype) for s in session.inputs}
    calls: list[Callable[[], object]] = [
        lambda: session.run(inputs),
        lambda: session.submit(inputs),
        session.placement,
    ]
    for call in calls:
        with pytest.raises(SessionClosed, match="open another"):
            call()


def test_with_closes_also_after_an_error(double: Bundle) -> None:
    opened: list[Session] = []
    with pytest.raises(KeyError), open_session(double, "reference") as session:
        opened.append(session)
        raise KeyError
    with pytest.raises(SessionClosed):
        opened[0].run({"image": IMAGE})


def test_closing_while_others_run_ends_in_results_or_session_closed(tmp_path: Path) -> None:
    slow = write_double(tmp_path / "slow", Function((INPUT,), (OUTPUT,), repeat=2, delay_s=0.002))
    session = open_session(slow, "reference")
    errors: list[BaseException] = []

    def run_until_closed() -> None:
        try:
            while True:
                session.run({"image": IMAGE})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run_until_closed) for _ in range(3)]
    for thread in threads:
        thread.start()
    session.close()
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in errors] == [SessionClosed] * 3
