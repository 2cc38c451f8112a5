"""LiteRT beside the processor: what is listed, what is refused and why; a delegate made here runs operators."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from runtimes.foreign import Graph, Op, T, tflite

from edgekit.errors import DeviceUnavailable, EngineError
from edgekit.opening import open_session
from edgekit.runtimes import litert_compiled, litert_delegates, vulkan
from edgekit.runtimes.litert import LiteRtOptions, LiteRtRuntime

ARRAY = np.array([[1.0, -2.0, 3.0, 0.0]], np.float32)
SELECTED = "Selected adapter: {}, arch=x, vendor=y, backend=Vulkan, adapterType={}\nInitializing WebGPU-based API from graph.\n"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The double in three forms, as libraries."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("delegate")
    source = Path(__file__).with_name("delegate.c")
    for form in ("present", "absent", "idle"):
        command = [compiler, "-shared", "-fPIC", "-w", f"-D{form.upper()}", "-o", f"{folder}/libdouble_{form}.so"]
        subprocess.run([*command, str(source)], check=True)
    return {form: f"{folder}/libdouble_{form}.so" for form in ("present", "absent", "idle")}


def negating(folder: Path, *operators: str) -> Path:
    """A file of these operators, one after the other."""
    tensors = tuple(T(f"t{i}") for i in range(len(operators) + 1))
    ops = tuple(Op(name, (i,), (i + 1,)) for i, name in enumerate(operators))
    return tflite(folder / "net.tflite", Graph(tensors, ops, (0,), (len(operators),)))


def open_npu(path: Path, library: str, **options: bool):  # type: ignore[no-untyped-def]
    return open_session(path, "litert", device="npu", options=LiteRtOptions(delegate=library, **options))


# Delegates


def test_a_delegate_runs_what_it_takes(built: dict[str, str], tmp_path: Path) -> None:
    with open_npu(negating(tmp_path, "NEG"), built["present"]) as session:
        np.testing.assert_array_equal(session.run({"t0": ARRAY})["t1"], -ARRAY)
        placement = session.placement()
    assert (placement.requested, placement.device) == ("npu", "npu")
    assert placement.operators == {"double_present NEG": 1}


def test_a_delegate_that_takes_a_part_is_refused_unless_told(built: dict[str, str], tmp_path: Path) -> None:
    path = negating(tmp_path, "NEG", "EXP", "ABS")
    with pytest.raises(DeviceUnavailable, match=r"leaves operators of 'net.tflite' .*1 EXP, 1 ABS.*partial=True"):
        open_npu(path, built["present"])
    with open_npu(path, built["present"], partial=True) as session:
        np.testing.assert_allclose(session.run({"t0": ARRAY})["t3"], np.exp(-ARRAY), rtol=1e-6)
        placement = session.placement()
    assert placement.device == "cpu+npu"
    assert placement.operators == {"double_present NEG": 1, "CPU EXP": 1, "CPU ABS": 1}


def test_a_delegate_that_takes_nothing_is_refused_even_so(built: dict[str, str], tmp_path: Path) -> None:
    for partial in (False, True):
        with pytest.raises(DeviceUnavailable, match="takes no operator of 'net.tflite': use device='cpu'"):
            open_npu(negating(tmp_path, "NEG"), built["idle"], partial=partial)


def test_a_delegate_without_its_device_says_so(built: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"libdouble_absent.so' cannot be used: no device is plugged in"):
        open_npu(negating(tmp_path, "NEG"), built["absent"])
    with pytest.raises(DeviceUnavailable, match="cannot load 'libnothing.so'.*install it"):
        open_npu(negating(tmp_path, "NEG"), "libnothing.so")


def test_a_file_compiled_for_the_edge_tpu_asks_for_its_library(
    built: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Graph((T("x"), T("y")), (Op("CUSTOM", (0,), (1,), custom="edgetpu-custom-op"),), (0,), (1,))
    path = tflite(tmp_path / "tpu.tflite", graph)
    with pytest.raises(EngineError, match="compiled for the Edge TPU: open it with device='npu'"):
        open_session(path, "litert")
    monkeypatch.setitem(litert_delegates.EDGE_TPU, "linux", "libedgetpu-of-no-machine.so")
    with pytest.raises(DeviceUnavailable, match=r"libedgetpu-of-no-machine.so.*install the Edge TPU runtime"):
        open_session(path, "litert", device="npu")
    monkeypatch.setitem(litert_delegates.EDGE_TPU, "linux", built["absent"])
    with pytest.raises(DeviceUnavailable, match=r"no device is plugged in; install the Edge TPU runtime"):
        open_session(path, "litert", device="npu")


# GPU and NPU of LiteRT itself


def test_an_npu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for options in (None, LiteRtOptions(partial=True)):
        with pytest.raises(DeviceUnavailable, match=r"net\.tflite.*npu.*device='cpu'"):
            open_session(negating(tmp_path, "NEG"), "litert", device="npu", options=options)


@pytest.mark.parametrize("device", ["gpu:1", "npu:1", "tpu", "cpu:1"])
def test_a_device_it_does_not_know(tmp_path: Path, device: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"litert has no device '{device}': .*use device='cpu'"):
        open_session(negating(tmp_path, "NEG"), "litert", device=device)


def test_free_sizes_are_refused_on_a_gpu(tmp_path: Path) -> None:
    graph = Graph((T("x", shape=(-1, 4)), T("y", shape=(-1, 4))), (Op("NEG", (0,), (1,)),), (0,), (1,))
    with pytest.raises(DeviceUnavailable, match="a gpu needs fixed sizes"):
        open_session(tflite(tmp_path / "free.tflite", graph), "litert", device="gpu")


@pytest.mark.parametrize(
    ("words", "error", "kind", "said"),
    [
        ("INTERNAL: No adapters found", "failed", DeviceUnavailable, "install the driver"),
        (
            'operations are not supported by GPU delegate:\nRESHAPE: Tensor "a;b" has bad input dims size: 6.\n'
            "IF: Operation is not supported.\n2 operations will",
            "Some ops are not accelerated.",
            DeviceUnavailable,
            "RESHAPE: a tensor has bad input dims size: 6; IF: Operation is not supported: .*partial=True",
        ),
        ("", "ERROR: [x.h:1]\n└ out of memory", EngineError, "out of memory"),
    ],
)
def test_why_a_gpu_refused_is_told(words: str, error: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        raise litert_compiled._refusal("net.tflite", "gpu", words, error)


def test_an_engine_that_puts_nothing_on_the_gpu_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert_compiled, "_compile", lambda *arguments: object())  # as GPU|CPU falls back
    with pytest.raises(DeviceUnavailable, match="put nothing of 'net.tflite' on the gpu"):
        open_session(negating(tmp_path, "NEG"), "litert", device="gpu", options=LiteRtOptions(partial=True))


def test_an_adapter_in_software_is_told_from_one_in_hardware() -> None:
    assert litert_compiled._kind(SELECTED.format("llvmpipe (LLVM 15.0.6, 256 bits)", "CPU / Software")) == "software"
    assert litert_compiled._kind(SELECTED.format("Intel Arc", "Discrete GPU")) == "hardware"


# What is listed


def test_what_is_not_usable_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "adapters", list)
    rows = {(row.name, row.provider): row for row in LiteRtRuntime().devices()}
    assert rows["cpu", ""].usable
    for key in (("gpu", "webgpu"), ("npu", "dispatch"), ("npu", "edgetpu")):
        assert not rows[key].usable and rows[key].why and rows[key].remedy
    assert "Vulkan" in rows["gpu", "webgpu"].why


def test_a_gpu_is_named_by_its_adapter_hardware_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [vulkan.Adapter("llvmpipe", "software"), vulkan.Adapter("Mali-G610", "hardware")]
    monkeypatch.setattr(vulkan, "adapters", lambda: found)
    (tmp_path / "libLiteRtWebGpuAccelerator.so").touch()
    row = litert_delegates.listed("litert", tmp_path)[0]
    assert (row.title, row.kind, row.usable) == ("Mali-G610", "hardware", True)
    assert "tflite-runtime has no GPU" in litert_delegates.listed("litert", None)[0].why
