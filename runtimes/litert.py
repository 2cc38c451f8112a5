"""LiteRT (TensorFlow Lite): .tflite files through ai-edge-litert, or tflite-runtime where that is installed."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import numpy as np

from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.machine import cores, processor
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array, TensorSpec, dtype_named

MAGIC = b"TFL3"
_MUTING = threading.Lock()  # descriptor 2 is the process's: one at a time


@dataclass(frozen=True)
class LiteRtOptions:
    """`xnnpack`: False runs the plain kernels, for comparison."""

    xnnpack: bool = True


class LiteRtRuntime(Runtime):
    """Runs .tflite files; shapes are fixed, one file for each."""

    name = "litert"
    formats = ("tflite",)
    extra = "litert"
    options = LiteRtOptions

    def version(self) -> str:
        return _engine()[1]

    def devices(self) -> list[Device]:
        _engine()
        return [Device(self.name, "cpu", processor(), ("fp32", "int8"))]

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        module, _ = _engine()
        if device != "cpu":
            raise DeviceUnavailable(f"litert runs on the cpu here: got device='{device}'; use device='cpu'")
        with open(model.path, "rb") as file:  # a file that is no flatbuffer crashes the interpreter
            if file.read(8)[4:] != MAGIC:
                raise EngineError(f"litert cannot open '{model.path.name}': it is not a .tflite flatbuffer")
        plain = (
            {}
            if options.xnnpack
            else {"experimental_op_resolver_type": module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
        )
        try:
            with _muted():
                interpreter = module.Interpreter(model_path=str(model.path), num_threads=threads or cores(), **plain)
                interpreter.allocate_tensors()
        except Exception as error:  # ValueError and RuntimeError, from C++
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise EngineError(f"litert cannot open '{model.path.name}': {reason}") from error
        return LiteRtSession(interpreter, model, threads or cores())


class LiteRtSession(Session):
    """One interpreter, used by one caller at a time."""

    def __init__(self, interpreter: Any, model: Model, threads: int) -> None:
        super().__init__()
        self._engine = interpreter
        self._model, self._threads = model, threads
        self._in, self._out = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = agreed(model.inputs, _specs(self._in, model.inputs), model.path)
        self.outputs = agreed(model.outputs, _specs(self._out, model.outputs), model.path)
        self._input_scales = [_border(d, s) for d, s in zip(self._in, self.inputs, strict=True)]
        self._output_scales = [_border(d, s) for d, s in zip(self._out, self.outputs, strict=True)]

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        engine = self._engine
        try:
            for detail, array, scale in zip(self._in, arrays, self._input_scales, strict=True):
                engine.set_tensor(detail["index"], array if scale is None else _quantized(array, *scale))
            engine.invoke()
            # always copies: a view that is still alive makes the next invoke fail
            results = [engine.get_tensor(detail["index"]) for detail in self._out]
            return [
                r if s is None else (r.astype(np.float32) - s[1]) * np.float32(s[0])
                for r, s in zip(results, self._output_scales, strict=True)
            ]
        except Exception as error:
            raise EngineError(f"litert failed in '{self._model.path.name}': {error}") from error

    def placement(self) -> Placement:
        with self._lock:
            self._refuse_closed()
            operators, precision = _operators(self._engine)
        return Placement(
            runtime="litert",
            version=_engine()[1],
            requested="cpu",
            device="cpu",
            precision=precision,
            threads=self._threads,
            operators=operators,
            why=self.why,
        )

    def _close(self) -> None:
        self._engine = None


def _operators(engine: Any) -> tuple[dict[str, int], str]:
    """Operators by unit and name, and what convolutions and matrix products are computed in.

    A delegate node stands for all operators between its inputs and its outputs.
    """
    details = engine._get_ops_details()
    makers = {int(out): op for op in details if op["op_name"] != "DELEGATE" for out in op["outputs"]}
    delegated: set[int] = set()
    for node in (op for op in details if op["op_name"] == "DELEGATE"):
        edge = {int(i) for i in node["inputs"]}
        pending = [int(i) for i in node["outputs"]]
        while pending:
            op = makers.get(pending.pop())
            if op is not None and op["index"] not in delegated:
                delegated.add(op["index"])
                pending += [int(i) for i in op["inputs"] if int(i) not in edge]
    plain = [op for op in details if op["op_name"] != "DELEGATE"]
    counted = Counter(f"{'XNNPACK' if op['index'] in delegated else 'CPU'} {op['op_name']}" for op in plain)
    tensors = {t["index"]: t for t in engine.get_tensor_details()}
    heavy = [op for op in plain if "CONV" in op["op_name"] or op["op_name"] in ("FULLY_CONNECTED", "BATCH_MATMUL")]
    return dict(counted), _precision([[tensors.get(int(i), {}) for i in op["inputs"][:2]] for op in heavy])


def _precision(products: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What products are computed in, by their inputs and weights; groups of weights that share a scale have 4 bits."""
    if any(taken.get("dtype") is np.int8 for taken, *_ in products):
        return "int8"
    small = [own for _, own in products if own.get("dtype") is np.int8]
    if any(own["quantization_parameters"].get("block_size") for own in small):
        return "int4-weights"
    return "int8-dynamic" if small else "fp32"


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Keep the C++ line "INFO: Created TensorFlow Lite XNNPACK delegate" off stderr; no setting does."""
    with _MUTING:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _engine() -> tuple[Any, str]:
    """The interpreter module and its version."""
    try:
        from ai_edge_litert import interpreter

        return interpreter, f"ai-edge-litert {_package('ai-edge-litert')}"
    except ImportError:
        pass
    try:
        from tflite_runtime import interpreter

        return interpreter, f"tflite-runtime {_package('tflite-runtime')}"
    except ImportError as error:
        raise NotInstalled.named("litert", "ai-edge-litert", "litert") from error


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _specs(details: Any, stated: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """The file's tensors; an int8 one that knows its scale counts as the float32 that a manifest states."""
    found = [_spec(d) for d in details]
    if len(stated) != len(found):
        return tuple(found)
    return tuple(
        msgspec.structs.replace(f, dtype="float32") if _border(d, s) else f
        for d, f, s in zip(details, found, stated, strict=True)
    )


def _border(detail: Any, spec: TensorSpec) -> tuple[float, int] | None:
    """Scale and zero point between the session's float32 and the file's int8, None where they are of one dtype."""
    scale, zero = detail["quantization"]
    return (scale, zero) if spec.dtype == "float32" and detail["dtype"] is np.int8 and scale > 0 else None


def _quantized(array: Array, scale: float, zero: int) -> Array:
    return np.asarray(np.clip(np.rint(array / np.float32(scale)) + zero, -128, 127), dtype=np.int8)


def _spec(detail: Any) -> TensorSpec:
    name = detail["name"].removeprefix("serving_default_").split(":")[0]
    return TensorSpec(name, dtype_named(np.dtype(detail["dtype"]).name), tuple(int(n) for n in detail["shape"]))
