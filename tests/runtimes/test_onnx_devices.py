"""ONNX Runtime's providers where the hardware is absent, or the engine says what is not so: doubles of the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.errors import DeviceUnavailable, InputError
from edgekit.opening import open_session
from edgekit.runtimes import onnx_devices, onnx_graph, providers
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
LEFT = "This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled"


@dataclass
class Options:
    """A SessionOptions that remembers."""

    entries: dict[str, str] = field(default_factory=dict)
    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


@dataclass
class Engine:
    """A wheel with CUDA; `where` is the provider that really gets the operators, `refuses` an error of opening."""

    where: str = CUDA
    refuses: Exception | None = None
    listed: Sequence[str] = (CUDA, CPU)
    opened: list[tuple[Any, Options]] = field(default_factory=list)
    __version__: str = "1.31.1"
    __file__: str = "/nowhere/onnxruntime/__init__.py"
    SessionOptions: type = Options

    __hash__ = object.__hash__

    def get_available_providers(self) -> list[str]:
        return list(self.listed)

    def get_ep_devices(self) -> list[Any]:
        return []

    def preload_dlls(self) -> None:
        print("Failed to load a library")

    def InferenceSession(  # noqa: N802
        self, model: Any, settings: Options, *, providers: Any, enable_fallback: int
    ) -> Any:
        assert enable_fallback == 0, "the engine would open the file again on the processor, without a word"
        self.opened.append((providers, settings))
        strict = settings.entries.get(onnx_devices.NO_FALLBACK) == "1"
        if self.refuses is not None and (strict or LEFT not in str(self.refuses)):
            raise self.refuses
        tensors = [SimpleNamespace(name="image", type="tensor(float)", shape=[1, 3, "height", "width"])]
        group = SimpleNamespace(ep_name=self.where, get_nodes=lambda: [SimpleNamespace(op_type="Conv")] * 6)
        return SimpleNamespace(
            get_providers=lambda: list(self.listed),
            get_provider_options=lambda: {CUDA: {"device_id": "1"}},
            get_provider_graph_assignment_info=lambda: [group],
            get_inputs=lambda: tensors,
            get_outputs=lambda: [SimpleNamespace(name="upscaled", type="tensor(float)", shape=[1, 3, "h2", "w2"])],
            get_session_options=lambda: settings,
            run=lambda *_: [],
        )


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    def put(**facts: Any) -> Engine:
        made = Engine(**facts)
        monkeypatch.setitem(sys.modules, "onnxruntime", made)  # type: ignore[arg-type]
        return made

    return put


def opened(**more: Any) -> Any:
    return open_session("sr-x2", "onnxruntime", precision="fp32", check=False, **{"device": "gpu", **more})


def test_a_provider_that_is_listed_and_gets_nothing_is_not_believed(engine: Callable[..., Engine]) -> None:
    engine(where=CPU)
    with pytest.raises(
        DeviceUnavailable, match="NVIDIA CUDA cannot run all of 'model-fp32.onnx': 6 × Conv would run on the"
    ):
        opened()


def test_an_engine_that_leaves_all_to_the_processor_is_refused(
    engine: Callable[..., Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    engine(refuses=RuntimeError(LEFT), where=CPU)
    with pytest.raises(DeviceUnavailable, match="no gpu here: cuda: .*leaves all operators.*needs an NVIDIA GPU"):
        opened()
    assert "Failed to load" not in capsys.readouterr().out


def test_a_library_that_is_missing_is_named(
    engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "capi").mkdir()
    for name in ("lib{}.so", "{}.dll"):
        (tmp_path / "capi" / name.format("onnxruntime_providers_cuda")).touch()

    def load(path: str) -> None:
        assert path.startswith(str(tmp_path / "capi"))
        raise OSError("libcublasLt.so.13: cannot open shared object file: No such file or directory")

    engine(refuses=RuntimeError(LEFT), where=CPU, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnx_devices.ctypes, "CDLL", load)
    with pytest.raises(
        DeviceUnavailable, match="cuda: libcublasLt.so.13: cannot open shared object.*needs an NVIDIA GPU"
    ):
        opened()
    (row,) = (row for row in edgekit.devices() if row.provider == "cuda")
    assert not row.usable and "libcublasLt.so.13" in row.why and "NVIDIA GPU" in row.remedy


def test_a_device_is_opened_by_its_index_and_exactly(engine: Callable[..., Engine]) -> None:
    double = engine()
    with opened(device="gpu:1") as session:
        placement = session.placement()
    assert double.opened[0][0] == [(CUDA, {"use_tf32": "0", "device_id": "1"})]
    assert (placement.requested, placement.device, placement.kind) == ("gpu:1", "gpu:1", "hardware")


def test_a_provider_is_named_where_several_serve_a_device(engine: Callable[..., Engine]) -> None:
    both = ("TensorrtExecutionProvider", CUDA, CPU)
    double = engine(listed=both)
    with pytest.raises(DeviceUnavailable, match="NVIDIA TensorRT"):  # for the double gives its operators to CUDA
        opened(options=OnnxRuntimeOptions(provider="tensorrt"))
    assert double.opened[0][0][0][0] == "TensorrtExecutionProvider"
    with pytest.raises(InputError, match="provider='vulkan': expected one of cpu, .*webgpu"):
        opened(options=OnnxRuntimeOptions(provider="vulkan"))
    with pytest.raises(DeviceUnavailable, match="'webgpu' has no 'cpu': use device='gpu'"):
        opened(device="cpu", options=OnnxRuntimeOptions(provider="webgpu"))


def test_what_a_provider_cannot_be_told_is_refused(engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine()
    with pytest.raises(DeviceUnavailable, match="cuda computes in the precision that the file has"):
        opened(options=OnnxRuntimeOptions(inference_precision="f16"))
    with pytest.raises(InputError, match="cuda compiles nothing to be kept"):
        opened(options=OnnxRuntimeOptions(context=tmp_path))
    with pytest.raises(InputError, match="names and values are strings"):
        opened(options=OnnxRuntimeOptions(provider_options={"device_id": 1}))  # type: ignore[dict-item]


def test_the_table_names_each_provider_of_a_device_once() -> None:
    keys = [(row.option, row.device) for row in providers.PROVIDERS]
    assert len(set(keys)) == len(keys)
    assert all(row.exact is not None or row.half is not None for row in providers.PROVIDERS)
    assert all(row.install and row.precisions and row.systems for row in providers.PROVIDERS)


def test_every_row_says_what_is_in_the_way_and_what_it_takes() -> None:
    rows = [row for row in edgekit.devices() if row.runtime == "onnxruntime"]
    assert len(rows) == len(providers.PROVIDERS)
    for row in rows:
        assert row.usable != bool(row.why)
        assert row.usable or row.remedy or "alone" in row.why or "leaves" in row.why


def test_what_the_optimiser_adds_is_counted() -> None:
    with open_session("sr-x2", "onnxruntime", precision="int8", threads=1) as session:
        placement = session.placement()
        assert placement.inserted.get("Transpose", 0) + placement.inserted.get("ReorderOutput", 0) >= 1
        assert {name.split()[0] for name in placement.operators} == {"CPU"}
        image = np.zeros((1, 3, 16, 16), np.float32)
        session.run({session.inputs[0].name: image})


def test_operators_of_a_file_are_counted_without_the_onnx_package(tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    path.write_bytes(onnx_devices.ONE_OPERATOR)
    assert onnx_graph.operators(path) == {"Relu": 1}
    assert onnx_graph.inserted({"Cast": 2}, {"Cast": 5, "Conv": 3, "Transpose": 1}) == {"Cast": 3, "Transpose": 1}


def test_runs_by_the_binding_where_there_is_one_and_else_as_documented() -> None:
    from edgekit.runtimes.onnxruntime_ import _call

    binding = SimpleNamespace(run=lambda *_: ["bound"])
    assert _call(SimpleNamespace(_sess=binding, run=None))([], {}, None) == ["bound"]
    assert _call(SimpleNamespace(run=lambda names, feeds, options=None: ["documented"]))([], {}, None) == ["documented"]
