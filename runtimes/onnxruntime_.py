"""ONNX Runtime: .onnx files on the providers of the installed wheel, never falling back in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import DeviceUnavailable, EngineError, InputError, NotInstalled
from edgekit.machine import architecture, cores, int8_units
from edgekit.runtimes import onnx_borders, onnx_devices
from edgekit.runtimes.external_data import require_inside
from edgekit.runtimes.onnx_devices import CPU, first_line
from edgekit.runtimes.onnx_opening import Opening, precision
from edgekit.runtimes.option_values import require_cache, require_one_of, require_processors, require_streams
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array, Quantization, TensorSpec, border_spec

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


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """How ONNX Runtime runs a file.

    `allow_spinning`: threads wait busily between runs, a little faster and much hotter. `provider`: which of several
    that serve the device, by the name that `edgekit devices` shows ("webgpu", "tensorrt"). `inference_precision`: what
    float operators compute in; f32 keeps providers from rounding on their own, as CUDA does to TF32 and OpenVINO to
    bf16. `provider_options`: the provider's own settings, as its documentation has them. `context`: a folder in which a
    provider that compiles (qnn, openvino, tensorrt, vitisai) keeps the compiled network, an EPContext of ONNX Runtime:
    made when it is opened first, or ahead of time on a host, and loaded from then on. `streams`: how many runs
    `Session.map` keeps under way; the threads are shared out among them, so that one run alone takes longer.
    `processors`: the logical processors, from 0, that the engine's own threads are held to, one each; the caller's
    thread is one more. `cache`: keep the optimised graph for the next load (see `edgekit.compiled`), True in the user's
    cache, or in a folder of the caller's; it spares the processor some milliseconds for a small network.
    """

    allow_spinning: bool = False
    provider: str = ""
    inference_precision: Literal["f32", "f16"] = "f32"
    provider_options: Mapping[str, str] = field(default_factory=dict)
    context: str | Path | None = None
    streams: int = 1
    processors: tuple[int, ...] = ()
    cache: bool | str = False

    def __post_init__(self) -> None:
        require_cache(self.cache)
        require_one_of("inference_precision", self.inference_precision, ("f32", "f16"))
        require_streams(self.streams)
        require_processors(self.processors)


class OnnxRuntime(Runtime):
    """Runs .onnx files through onnxruntime.InferenceSession."""

    name = "onnxruntime"
    formats = ("onnx",)
    extra = "onnx"
    options = OnnxRuntimeOptions

    def version(self) -> str:
        return str(_engine().__version__)

    def devices(self) -> list[Device]:
        return onnx_devices.rows(_engine())

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        engine = _engine()
        place = onnx_devices.find(engine, device, options.provider)
        require_inside(model.path, model.files)
        _require_dot_products(model, device)
        return OnnxSession(Opening(engine, model, place, device, _threads(threads, options), options))


class OnnxSession(Session):
    """One InferenceSession; ONNX Runtime runs concurrent calls itself."""

    _serial = False

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self._opening, self._model = opening, opening.model
        self.streams = opening.options.streams
        session = self._engine = opening.open()
        model = opening.fixed()
        inputs, outputs = _specs(session, model.path)
        self.inputs = agreed(model.inputs, inputs, model.path)
        self.outputs = agreed(model.outputs, outputs, model.path)
        self._input_names = [i.name for i in session.get_inputs()]
        self._output_names = [o.name for o in session.get_outputs()]
        self._call = _call(session) if opening.place.provider.name == CPU else session.run

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        call = self._call
        if call is None:
            self._refuse_closed()
        try:
            results: list[Array] = call(self._output_names, dict(zip(self._input_names, arrays, strict=True)), None)
        except Exception as error:
            raise EngineError(f"onnxruntime failed in '{self._model.path.name}': {first_line(error)}") from error
        return results

    def placement(self) -> Placement:
        engine = self._engine
        self._refuse_closed()
        opening, place = self._opening, self._opening.place
        operators, inserted = opening.operators(engine)
        half = any(tensor.type == "tensor(float16)" for tensor in engine.get_inputs()) or opening.half
        units = {name.partition(" ")[0] for name in operators}
        return Placement(
            runtime="onnxruntime",
            version=str(_engine().__version__),
            requested=opening.device,
            device="+".join(sorted(place.device_of(unit, engine) for unit in units)),
            precision=precision(operators, self._model.precision) or ("fp16" if half else "fp32"),
            threads=engine.get_session_options().intra_op_num_threads or None,
            operators=operators,
            why=self.why,
            kind=place.kind,
            inserted=inserted,
        )

    def _close(self) -> None:
        self._engine = self._call = None


def _call(session: Any) -> Any:
    """What InferenceSession.run comes to on the processor: it looks at every name and value before, which a Session has
    done, and has another provider to fall back to, which is switched off. That takes 5 µs a call and more.
    """
    return getattr(getattr(session, "_sess", None), "run", session.run)


def _threads(asked: int | None, options: OnnxRuntimeOptions) -> int | None:
    """Threads of one run, the caller's own counted; None leaves it to the engine.

    Raises:
        InputError: processors for another number of threads.
    """
    if options.streams > 1:
        asked = max(1, (asked or cores()) // options.streams)
    if options.processors and asked not in (None, len(options.processors) + 1):
        raise InputError(
            f"got processors={options.processors} with {asked} threads a run: expected {(asked or 1) - 1} processors, one "
            "for each thread beside the caller's own"
        )
    return asked or (len(options.processors) + 1 if options.processors else None)


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
