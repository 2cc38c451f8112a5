"""LiteRT (TensorFlow Lite): .tflite files through ai-edge-litert, or tflite-runtime where that is installed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.machine import cores, processor
from edgekit.runtimes import litert_compiled, litert_delegates, litert_placement, litert_tensors
from edgekit.runtimes.engine_words import captured
from edgekit.runtimes.option_values import require_cache, require_one_of, require_streams
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array

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


@dataclass(frozen=True)
class LiteRtOptions:
    """`xnnpack`: False runs the plain kernels, for comparison. `signature`: which graph of a file that has several.

    `streams`: how many runs `Session.map` keeps under way, each in an interpreter of its own; the threads are shared
    out among them, so that one run alone takes longer.

    `cache`: keep the weights that XNNPACK packs, for the next load (see `edgekit.compiled`): True in the user's cache, or in
    a folder of the caller's. It pays from some ten megabytes on, and is left aside with `streams`, with free sizes and
    without XNNPACK.

    On a GPU or an NPU: `partial` lets operators that do not fit run on the processor, else such a file is refused;
    `inference_precision` is what a GPU computes in, f16 by LiteRT's own default. `delegate` is the library of a board's
    delegate, for device="npu"; a file compiled for the Edge TPU finds its own. `dispatch` is the folder with the library
    by which LiteRT reaches a vendor's NPU.
    """

    xnnpack: bool = True
    signature: str | None = None
    streams: int = 1
    partial: bool = False
    inference_precision: Literal["f32", "f16"] = "f32"
    delegate: str | None = None
    dispatch: str | None = None
    cache: bool | str = False

    def __post_init__(self) -> None:
        require_streams(self.streams)
        require_cache(self.cache)
        require_one_of("inference_precision", self.inference_precision, ("f32", "f16"))


class LiteRtRuntime(Runtime):
    """Runs .tflite files; shapes are fixed but where the file leaves them free."""

    name = "litert"
    formats = ("tflite",)
    extra = "litert"
    options = LiteRtOptions

    def version(self) -> str:
        return _engine()[1]

    def devices(self) -> list[Device]:
        module, _ = _engine()
        package = Path(module.__file__).parent if module.__name__.startswith("ai_edge_litert") else None
        return [Device(self.name, "cpu", processor(), ("fp32", "int8")), *litert_delegates.listed(self.name, package)]

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        module, named = _engine()
        with open(model.path, "rb") as file:  # a file that is no flatbuffer crashes the interpreter
            if file.read(8)[4:] != MAGIC:
                raise EngineError(f"litert cannot open '{model.path.name}': it is not a .tflite flatbuffer")
        if device not in ("cpu", "gpu", "npu"):
            raise DeviceUnavailable(f"litert has no device '{device}': it knows cpu, gpu and npu; use device='cpu'")
        if device == "npu" and (library := options.delegate or litert_delegates.own(model.path)):
            return self._delegated(model, library, threads or cores(), options)
        if device != "cpu":
            return self._accelerated(model, device, threads or cores(), options)
        each = max(1, (threads or cores()) // options.streams)
        if options.cache is not False and options.xnnpack and options.streams == 1:
            details = _interpreter(module, model, 1, plain=True)
            if named.startswith("ai-edge-litert") and (
                kept := litert_compiled.open_kept(model, each, options, details, named)
            ):
                return kept
        interpreter = _interpreter(module, model, each, plain=not options.xnnpack)
        session = LiteRtSession(interpreter, model, each, options.signature)
        if options.streams > 1:
            session.streams = options.streams
            session.again = lambda: self.open(model, device, each, replace(options, streams=1))
        return session

    def _delegated(self, model: Model, library: str, threads: int, options: LiteRtOptions) -> Session:
        module, _ = _engine()
        delegate = litert_delegates.loaded(module, library)
        interpreter = _interpreter(module, model, threads, plain=True, delegates=[delegate])
        divided = options.partial or library == litert_delegates.edge_tpu()
        litert_delegates.require_placed(interpreter, model.path.name, library, divided)
        session = LiteRtSession(interpreter, model, threads, options.signature)
        session.delegate = Path(library).name.partition(".")[0].removeprefix("lib")
        return session

    def _accelerated(self, model: Model, device: str, threads: int, options: LiteRtOptions) -> Session:
        module, named = _engine()
        if named.startswith("tflite-runtime"):
            raise DeviceUnavailable(f"tflite-runtime has no {device} of its own: pip install 'edgekit[litert]'")
        details = _interpreter(module, model, 1, plain=True)
        return litert_compiled.open_compiled(model, device, threads, options, details)


def _interpreter(module: Any, model: Model, threads: int, *, plain: bool, delegates: Sequence[Any] = ()) -> Any:
    """An interpreter that is ready to run; `plain`: without XNNPACK.

    Raises:
        EngineError.
    """
    kernels = module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else module.OpResolverType.AUTO
    settings = {"num_threads": threads, "experimental_op_resolver_type": kernels}
    try:
        with captured():
            interpreter = module.Interpreter(
                model_path=str(model.path), **settings, experimental_delegates=list(delegates) or None
            )
            interpreter.allocate_tensors()
    except Exception as error:  # ValueError and RuntimeError, from C++
        raise EngineError(f"litert cannot open '{model.path.name}': {_reason(error)}") from error
    return interpreter


class LiteRtSession(Session):
    """One interpreter, used by one caller at a time. `delegate` names whose it is, on another device than the CPU."""

    delegate = ""

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
            stored = [
                litert_tensors.stored(a, own, spec) for a, own, spec in zip(arrays, given, self.inputs, strict=True)
            ]
            results = self._of_signature(stored) if self._runner else self._of_main(stored)
        except Exception as error:
            raise EngineError(f"litert failed in '{self._model.path.name}': {_reason(error)}") from error
        return [litert_tensors.restored(r, own, spec) for r, own, spec in zip(results, made, self.outputs, strict=True)]

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
            whole = self._runner is None  # of another graph the engine lists nothing
            operators = litert_placement.operators(self._engine, self.delegate or "XNNPACK") if whole else {}
            precision = litert_placement.precision(self._engine) if whole else "unknown"
        units = {name.split()[0] for name in operators} & {"CPU", self.delegate}
        return Placement(
            runtime="litert",
            version=_engine()[1],
            requested="npu" if self.delegate else "cpu",
            device="+".join(sorted("cpu" if unit == "CPU" else "npu" for unit in units)) if self.delegate else "cpu",
            precision=precision,
            threads=self._threads,
            operators=operators,
            why=self.why,
        )

    def _close(self) -> None:
        self._engine = self._runner = None


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


def _reason(error: Exception) -> str:
    """The engine's words, or what they mean where an operator is not known."""
    said = " ".join(str(error).split()) or type(error).__name__
    for pattern, meaning in UNKNOWN.items():
        if match := re.search(pattern, said):
            return meaning.format(*match.groups())
    return said[:300]
