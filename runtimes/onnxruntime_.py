"""ONNX Runtime: .onnx files on the providers of the installed wheel, never falling back in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.machine import architecture, int8_overflows, int8_units, processor
from edgekit.runtimes import onnx_borders
from edgekit.runtimes.external_data import require_inside
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array, Quantization, TensorSpec, border_spec

PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "CUDAExecutionProvider": "gpu",
    "ROCMExecutionProvider": "gpu",
    "DmlExecutionProvider": "gpu",
    "WebGpuExecutionProvider": "gpu",
}
PACKED = ("int8-dynamic", "int4-weights")
CPU_FACTS = Path("/proc/cpuinfo")  # where there is none, nothing is known of dot products
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

EXACT = "session.x64quantprecision"  # no overflow of int8 products on x86-64 without VNNI, at some cost in speed
NO_FALLBACK = "session.disable_cpu_ep_fallback"


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """`allow_spinning`: threads wait busily between runs, a little faster and much hotter."""

    allow_spinning: bool = False


class OnnxRuntime(Runtime):
    """Runs .onnx files through onnxruntime.InferenceSession."""

    name = "onnxruntime"
    formats = ("onnx",)
    extra = "onnx"
    options = OnnxRuntimeOptions

    def version(self) -> str:
        return str(_engine().__version__)

    def devices(self) -> list[Device]:
        here = _engine().get_available_providers()
        rows = [Device(self.name, "cpu", processor(), ("fp32", "int8"))]
        for provider in here:
            if PROVIDERS.get(provider) == "gpu":
                why = "the wheel has this provider; whether the hardware is there shows when it is opened"
                rows.append(Device(self.name, "gpu", provider, ("fp32", "fp16"), usable=False, why=why))
        return rows

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        engine = _engine()
        provider = self._provider(device)
        require_inside(model.path, model.files)
        _require_dot_products(model, device)
        strict = provider[0] != "CPUExecutionProvider"
        exact = not strict and model.precision == "int8" and int8_overflows()
        # exact int8 products first; it refuses files in which two weights share a zero point, which then run all the same
        for entries in [{EXACT: "1"}, {}] if exact else [{NO_FALLBACK: "1"}] if strict else [{}]:
            settings = _settings(engine, threads, options, entries)
            try:
                session = engine.InferenceSession(str(model.path), settings, providers=[provider])
                break
            except Exception as error:  # the engine raises a dozen unrelated types of its own
                refused = error
        else:
            raise EngineError(
                f"onnxruntime cannot open '{model.path.name}' on {device}: {_first_line(refused)}"
            ) from refused
        return OnnxSession(session, model, device)

    def _provider(self, device: str) -> tuple[str, dict[str, str]]:
        kind, _, index = device.partition(":")
        here = _engine().get_available_providers()
        for provider in here:
            if PROVIDERS.get(provider) == kind and (kind != "cpu" or index in ("", "0")):
                return provider, {"device_id": index} if index else {}
        raise DeviceUnavailable(
            f"onnxruntime has no {device} here: the installed wheel brings {', '.join(here)}; "
            "use device='cpu', or install the onnxruntime wheel made for your hardware"
        )


class OnnxSession(Session):
    """One InferenceSession; ONNX Runtime runs concurrent calls itself."""

    _serial = False

    def __init__(self, session: Any, model: Model, device: str) -> None:
        super().__init__()
        self._engine = session
        self._model, self._device = model, device
        inputs, outputs = _specs(session, model.path)
        self.inputs = agreed(model.inputs, inputs, model.path)
        self.outputs = agreed(model.outputs, outputs, model.path)
        self._input_names = [i.name for i in session.get_inputs()]
        self._output_names = [o.name for o in session.get_outputs()]

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        try:
            results: list[Array] = self._engine.run(
                self._output_names, dict(zip(self._input_names, arrays, strict=True))
            )
        except AttributeError:
            self._refuse_closed()
            raise
        except Exception as error:
            raise EngineError(f"onnxruntime failed in '{self._model.path.name}': {_first_line(error)}") from error
        return results

    def placement(self) -> Placement:
        self._refuse_closed()
        operators: Counter[str] = Counter()
        for group in self._engine.get_provider_graph_assignment_info():
            unit = group.ep_name.removesuffix("ExecutionProvider")
            operators.update(f"{unit} {node.op_type}" for node in group.get_nodes())
        half = any(tensor.type == "tensor(float16)" for tensor in self._engine.get_inputs())
        units = {name.split()[0] for name in operators}
        return Placement(
            runtime="onnxruntime",
            version=str(_engine().__version__),
            requested=self._device,
            device="+".join(sorted(PROVIDERS.get(f"{unit}ExecutionProvider", unit.lower()) for unit in units)),
            precision=_precision(operators, self._model.precision) or ("fp16" if half else "fp32"),
            threads=self._engine.get_session_options().intra_op_num_threads or None,
            operators=dict(operators),
            why=self.why,
        )

    def _close(self) -> None:
        self._engine = None


def _settings(engine: Any, threads: int | None, options: OnnxRuntimeOptions, entries: Mapping[str, str]) -> Any:
    settings = engine.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads or 0
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.allow_spinning)))
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for name, value in entries.items():
        settings.add_session_config_entry(name, value)
    return settings


def _engine() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise NotInstalled.named("onnxruntime", "onnxruntime", "onnx") from error
    return onnxruntime


def _specs(session: Any, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of an opened file, with scale and zero point of those that are quantized."""
    ends = session.get_inputs(), session.get_outputs()
    small = [[t.name for t in tensors if DTYPES.get(t.type) in onnx_borders.QUANTIZED] for tensors in ends]
    known = onnx_borders.quantizations(path, *small) if any(small) else {}
    inputs, outputs = (tuple(_spec(path.name, t, known.get(t.name)) for t in tensors) for tensors in ends)
    return inputs, outputs


def _spec(file: str, tensor: Any, quantization: Quantization | None) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else str(d or f"{tensor.name}_dim{i}") for i, d in enumerate(tensor.shape))
    return border_spec(file, tensor.name, DTYPES.get(tensor.type, tensor.type), shape, quantization=quantization)


def _require_dot_products(model: Model, device: str) -> None:
    """Refuse packed weights on an Arm processor without dot products, such as the Raspberry Pi 4's: they are unpacked in
    every run there, which took 33 times the instructions of fp32 in 8 bits, and 6 times in 4.

    Raises:
        DeviceUnavailable.
    """
    packed = model.precision in PACKED and device.startswith("cpu")
    if packed and architecture() == "aarch64" and CPU_FACTS.is_file() and not int8_units():
        raise DeviceUnavailable(
            f"onnxruntime has no fast {model.precision} on this processor, which lacks dot products: use "
            "runtime='litert', or precision='int8-weights'"
        )


def _precision(operators: Iterable[str], stated: str) -> str:
    """What products are computed in, by the operators; empty where all is float, as with weights unfolded on opening.

    A product with packed weights tells nothing of their bits: what the manifest states is taken.
    """
    kinds = {name.partition(" ")[2] for name in operators}
    if any("MatMulNBits" in kind for kind in kinds):
        return "int4-weights" if stated == "int4-weights" else "int8-dynamic"
    if any("DynamicQuantize" in kind or "MatMulInteger" in kind for kind in kinds):
        return "int8-dynamic"
    return "int8" if any("QuantizeLinear" in kind or "QLinear" in kind for kind in kinds) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
