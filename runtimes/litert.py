"""LiteRT (TensorFlow Lite): .tflite files through ai-edge-litert, or tflite-runtime where that is installed."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.machine import cores, processor
from edgekit.runtimes import litert_tensors
from edgekit.runtimes.option_values import require_streams
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array, TensorSpec

MAGIC = b"TFL3"
UNKNOWN = {  # what the engine says of operators that it lacks → what it means
    r"\(edgetpu-custom-op\) failed to prepare": (
        "it was compiled for the Edge TPU: open it with device='npu' where one is plugged in"
    ),
    r"\(Flex(\w+)\) failed to prepare": (
        "it uses TensorFlow's own operator '{}', which this engine lacks: convert the model again with "
        "supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS], or replace that operator"
    ),
    r"unresolved custom op: (\S+?)\.? See": (
        "it uses the custom operator '{}', which this engine lacks: export the model without it"
    ),
    r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'": (
        "it uses {} in version {}, newer than this engine: update ai-edge-litert"
    ),
}
_MUTING = threading.Lock()  # descriptor 2 is the process's: one at a time


@dataclass(frozen=True)
class LiteRtOptions:
    """`xnnpack`: False runs the plain kernels, for comparison. `signature`: which graph of a file that has several.

    `streams`: how many runs `Session.map` keeps under way, each in an interpreter of its own; the threads are shared
    out among them, so that one run alone takes longer.
    """

    xnnpack: bool = True
    signature: str | None = None
    streams: int = 1

    def __post_init__(self) -> None:
        require_streams(self.streams)


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
        each = max(1, (threads or cores()) // options.streams)
        try:
            with _muted():
                interpreter = module.Interpreter(model_path=str(model.path), num_threads=each, **plain)
                interpreter.allocate_tensors()
        except Exception as error:  # ValueError and RuntimeError, from C++
            raise EngineError(f"litert cannot open '{model.path.name}': {_reason(error)}") from error
        session = LiteRtSession(interpreter, model, each, options.signature)
        if options.streams > 1:
            session.streams = options.streams
            session.again = lambda: self.open(model, device, each, replace(options, streams=1))
        return session


class LiteRtSession(Session):
    """One interpreter, used by one caller at a time."""

    def __init__(self, interpreter: Any, model: Model, threads: int, signature: str | None = None) -> None:
        super().__init__()
        self._engine = interpreter
        self._model, self._threads = model, threads
        graph = litert_tensors.graph(model.path.name, interpreter, signature)
        self._runner, self._in, self._out = graph.runner, graph.inputs, graph.outputs
        self._shapes = [tuple(int(n) for n in detail["shape"]) for detail in self._in]
        self._found = litert_tensors.specs(model.path.name, graph)
        self.inputs, self.outputs = (
            agreed(stated, litert_tensors.as_stated(found, stated), model.path)
            for found, stated in zip(self._found, (model.inputs, model.outputs), strict=True)
        )

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        given, made = self._found
        try:
            stored = [_stored(a, own, spec) for a, own, spec in zip(arrays, given, self.inputs, strict=True)]
            results = self._of_signature(stored) if self._runner else self._of_main(stored)
        except Exception as error:
            raise EngineError(f"litert failed in '{self._model.path.name}': {_reason(error)}") from error
        return [_restored(r, own, spec) for r, own, spec in zip(results, made, self.outputs, strict=True)]

    def _of_main(self, arrays: list[Array]) -> list[Array]:
        engine = self._engine
        for place, array in enumerate(arrays):
            if array.shape != self._shapes[place]:
                self._resize(place, array.shape)
            engine.set_tensor(self._in[place]["index"], array)
        engine.invoke()
        # always copies: a view that is still alive makes the next invoke fail
        return [np.asarray(engine.get_tensor(detail["index"])) for detail in self._out]

    def _of_signature(self, arrays: list[Array]) -> list[Array]:
        """Another graph than the main one, which a runner of the engine alone can reach; it sees to sizes itself."""
        given, made = self._found
        results = self._runner(**{own.name: array for own, array in zip(given, arrays, strict=True)})
        return [np.asarray(results[own.name]) for own in made]

    def _resize(self, place: int, shape: tuple[int, ...]) -> None:
        """Give a free dimension another size; strict, as a fixed one would keep its size in silence."""
        self._shapes[place] = shape
        self._engine.resize_tensor_input(self._in[place]["index"], shape, strict=True)
        self._engine.allocate_tensors()

    def placement(self) -> Placement:
        with self._lock:
            self._refuse_closed()
            operators, precision = _operators(self._engine) if self._runner is None else ({}, "unknown")
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
        self._engine = self._runner = None


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
    return dict(counted), _precision([[tensors.get(int(i), {}) for i in op["inputs"][:2]] for op in heavy or plain])


def _precision(products: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """What products are computed in, by their inputs and weights; groups of weights that share a scale have 4 bits."""
    taken = {kinds[0].get("dtype") for kinds in products if kinds and kinds[0].get("quantization", (0, 0))[0]}
    if taken & {np.int8, np.uint8, np.int16}:
        return "int16x8" if np.int16 in taken else "int8"
    small = [kinds[1] for kinds in products if len(kinds) > 1 and kinds[1].get("dtype") is np.int8]
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


def _stored(array: Array, own: TensorSpec, spec: TensorSpec) -> Array:
    """What a session's input is in the file: integers, where the manifest states float32 for them."""
    return array if own.dtype == spec.dtype or own.quantization is None else own.quantization.stored(array, own.dtype)


def _restored(array: Array, own: TensorSpec, spec: TensorSpec) -> Array:
    return array if own.dtype == spec.dtype or own.quantization is None else own.quantization.restored(array)


def _reason(error: Exception) -> str:
    """The engine's words, or what they mean where an operator is not known."""
    said = " ".join(str(error).split()) or type(error).__name__
    for pattern, meaning in UNKNOWN.items():
        if match := re.search(pattern, said):
            return meaning.format(*match.groups())
    return said[:300]
