"""LiteRT's CompiledModel: .tflite files on a GPU (WebGPU) or a vendor's NPU, whole or not at all unless told.

LiteRT takes a set of accelerators. With the CPU in it, it falls back in silence, and `is_fully_accelerated()` says True
all the same; without, it refuses a file that does not fit. What was placed where is read from its log.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.compiled import Shelf, key_of
from edgekit.errors import DeviceUnavailable, EngineError
from edgekit.machine import processor
from edgekit.runtimes import litert_placement, litert_tensors
from edgekit.runtimes.engine_words import captured
from edgekit.session import Kind, Model, Placement, Session, agreed
from edgekit.tensors import Array

if TYPE_CHECKING:
    from edgekit.runtimes.litert import LiteRtOptions

ADAPTER = re.compile(r"Selected adapter: (?P<name>.+?), arch=.*adapterType=(?P<type>.*)")
REFUSED = re.compile(r"operations are not supported by GPU delegate:\n(?P<lines>(?:[A-Z0-9_]+: .*\n)+)")
PRECISION = {"gpu": "fp32", "npu": "unknown"}  # of the processor it is as the file has it
TAKEN = {"float32", "float16", "int32", "int8", "uint8", "bool"}  # by LiteRT's TensorBuffer
SHARED = re.compile(r"(?P<there>\d+) operations will run on the GPU, and the remaining (?P<cpu>\d+) operations")
PLACED = "API from graph"  # what the GPU's delegate says when it takes operators


def open_compiled(model: Model, kind: str, threads: int, options: LiteRtOptions, details: Any) -> Session:
    """Open a file on the "gpu" or the "npu". `details` is an interpreter of it, which knows its tensors and operators.

    Raises:
        DeviceUnavailable: there is none, or operators do not fit it; names them. EngineError.
    """
    told = litert_tensors.graph(model.path.name, details, options.signature)
    given, made = litert_tensors.specs(model.path.name, told)
    if any(isinstance(size, str) for spec in given for size in spec.shape):
        raise DeviceUnavailable(f"a {kind} needs fixed sizes: '{model.path.name}' leaves some free; run it on the cpu")
    failed = ""
    with captured() as words:
        try:
            compiled = _compile(model.path, kind, threads, options)
        except Exception as error:  # RuntimeError from C++
            failed = str(error) or type(error).__name__
        if failed:
            gc.collect()  # what the error held speaks once more when it goes
    if failed:
        raise _refusal(model.path.name, kind, words.text, failed)
    if (kind == "gpu" and PLACED not in words.text) or (kind == "npu" and options.partial):
        raise DeviceUnavailable(
            f"litert put nothing of '{model.path.name}' on the {kind}, as far as it tells: use device='cpu'"
        )
    return CompiledSession(compiled, model, (kind, words.text), options, (details, told, given, made))


def open_kept(model: Model, threads: int, options: LiteRtOptions, details: Any, version: str) -> Session | None:
    """Open a file on the processor with the weights that XNNPACK packed before, or keep them; None where it cannot be.

    The interpreter has no such setting, CompiledModel has. A file that is being written lies beside, until it is whole.
    """
    shelf = Shelf.of(options.cache)
    told = litert_tensors.graph(model.path.name, details, options.signature)
    given, made = litert_tensors.specs(model.path.name, told)
    fixed = all(isinstance(size, int) for spec in given for size in spec.shape)
    if shelf is None or not fixed or not {spec.dtype for spec in (*given, *made)} <= TAKEN:
        return None
    facts = model.path.stat()
    key = key_of([], (str(model.path.resolve()), facts.st_size, facts.st_mtime_ns, version, processor())) + ".xnnpack"
    path = shelf.place(key)
    if path is None:
        return None
    own = path if path.exists() else path.with_name(f".{os.getpid()}-{threading.get_ident()}-{key}")
    with captured():
        try:
            compiled = _compile(model.path, "cpu", threads, options, own)
        except Exception:  # RuntimeError from C++; what is wrong with the file shows without a cache as well
            own.unlink(missing_ok=True)
            return None
    session = CompiledSession(compiled, model, ("cpu", ""), options, (details, told, given, made))
    session.threads = threads
    with contextlib.suppress(OSError):
        own.replace(path)
    return session


class CompiledSession(Session):
    """One CompiledModel and its buffers, used by one caller at a time."""

    threads: int | None = None  # of the processor

    def __init__(
        self, compiled: Any, model: Model, said: tuple[str, str], options: LiteRtOptions, graph: tuple[Any, ...]
    ) -> None:
        super().__init__()
        self._compiled, self._model, self._options = compiled, model, options
        self._requested, self._words = said
        self._details, told, *self._found = graph
        self.inputs, self.outputs = (
            agreed(stated, litert_tensors.as_stated(found, stated), model.path)
            for found, stated in zip(self._found, (model.inputs, model.outputs), strict=True)
        )
        place = compiled.get_signature_index(options.signature) if options.signature else 0
        signature = compiled.get_signature_by_index(place)
        self._place, key = place, signature["key"]
        self._ins = _ordered(signature["inputs"], compiled.get_input_tensor_details(key), told.inputs)
        self._outs = _ordered(signature["outputs"], compiled.get_output_tensor_details(key), told.outputs)
        with captured():
            self._given, self._made = compiled.create_input_buffers(place), compiled.create_output_buffers(place)
        self._shapes = [tuple(int(n) for n in detail["shape"]) for detail in told.outputs]
        self._fresh = True

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        try:
            if not self._fresh:
                return self._computed(arrays)
            with captured():  # the first run compiles what is left to compile, and talks about it
                results = self._computed(arrays)
        except Exception as error:
            raise EngineError(f"litert failed in '{self._model.path.name}': {_line(str(error))}") from error
        self._fresh = False
        return results

    def _computed(self, arrays: list[Array]) -> list[Array]:
        given, made = self._found
        for place, array, own, spec in zip(self._ins, arrays, given, self.inputs, strict=True):
            self._given[place].write(litert_tensors.stored(array, own, spec))
        self._compiled.run_by_index(self._place, self._given, self._made)
        raw = [
            self._made[place].read(int(np.prod(shape, dtype=np.int64)), np.dtype(own.dtype)).reshape(shape)
            for place, shape, own in zip(self._outs, self._shapes, made, strict=True)
        ]
        return [litert_tensors.restored(r, own, spec) for r, own, spec in zip(raw, made, self.outputs, strict=True)]

    def placement(self) -> Placement:
        from edgekit.runtimes.litert import LiteRtRuntime

        with self._lock:
            self._refuse_closed()
            computed = litert_placement.precision(self._details)
            listed = litert_placement.operators(self._details)  # without delegates: the file's own
        shared, adapter = SHARED.search(self._words), ADAPTER.search(self._words)
        unit = "processor" if self._requested == "cpu" else self._requested.upper()  # not told: XNNPACK, or plain
        whole = {f"{unit} {name.removeprefix('CPU ')}": count for name, count in listed.items()}
        half = self._requested == "gpu" and self._options.inference_precision == "f16"
        return Placement(
            runtime="litert",
            version=LiteRtRuntime().version(),
            requested=self._requested,
            device=f"cpu+{self._requested}" if shared else self._requested,
            precision="fp16" if half else PRECISION.get(self._requested) or computed,
            threads=self.threads,
            operators={"GPU": int(shared["there"]), "CPU": int(shared["cpu"])} if shared else whole,
            why=f"{self.why}; {adapter['name']}" if adapter else self.why,
            kind=_kind(self._words),
        )

    def _close(self) -> None:
        with captured():
            for buffer in (*self._given, *self._made):
                buffer.destroy()
            self._given = self._made = []
            self._compiled = self._details = None


def _compile(path: Path, kind: str, threads: int, options: LiteRtOptions, weights: Path | None = None) -> Any:
    from ai_edge_litert import compiled_model as engine

    accelerators = getattr(engine.HardwareAccelerator, kind.upper())
    if options.partial:
        accelerators |= engine.HardwareAccelerator.CPU
    settings = engine.Options(
        hardware_accelerators=accelerators,
        cpu_options=engine.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=str(weights or "")),
        gpu_options=engine.GpuOptions(enforce_f32=options.inference_precision == "f32"),
    )
    folder = str(options.dispatch) if options.dispatch else ""
    environment = engine.Environment.create(dispatch_library_path=folder) if folder else None
    return engine.CompiledModel.from_file(str(path), environment=environment, options=settings)


def _refusal(file: str, kind: str, words: str, error: str) -> Exception:
    """Why a file could not be opened there, from what LiteRT wrote meanwhile."""
    remedy = "use device='cpu', or LiteRtOptions(partial=True), which leaves these operators to it"
    if refused := REFUSED.search(words):
        lines = [re.sub(r'Tensor "[^"]*" ', "a tensor ", line).rstrip(".") for line in refused["lines"].splitlines()]
        return DeviceUnavailable(f"'{file}' does not fit the gpu: {'; '.join(dict.fromkeys(lines))}: {remedy}")
    if "No adapters found" in words or "Failed to initialize" in words:
        return DeviceUnavailable(
            "litert finds no gpu that it can use: install the driver of the device (Vulkan; of Mesa's in software, "
            "25.0.7 or newer), or use device='cpu'"
        )
    if "not accelerated" in error:
        what = "No compiler plugin found" if "No compiler plugin found" in words else "operators do not fit"
        return DeviceUnavailable(f"litert cannot run '{file}' on the {kind} here ({what}): use device='cpu'")
    return EngineError(f"litert cannot open '{file}' on the {kind}: {_line(error)}")


def _ordered(names: list[str], compiled: Any, told: litert_tensors.Details) -> list[int]:
    """The places of the compiled model's buffers in the interpreter's order; both know a tensor's index."""
    places = {int(compiled[name]["index"]): place for place, name in enumerate(names)}
    return [places[int(detail["index"])] for detail in told]


def _kind(words: str) -> Kind:
    found = ADAPTER.search(words)
    return "software" if found and "software" in found["type"].lower() else "hardware"


def _line(error: str) -> str:
    lines = [line.strip(" └") for line in error.splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:300]
