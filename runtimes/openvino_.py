"""OpenVINO: IR and .onnx files on CPU, GPU and NPU, in the precision that was asked for."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any, Literal

from edgekit import forking
from edgekit.compiled import Shelf
from edgekit.errors import DeviceUnavailable, EngineError, InputError, TensorError
from edgekit.machine import cores, int8_overflows
from edgekit.runtimes import openvino_borders, openvino_cache, openvino_paged, openvino_unsigned
from edgekit.runtimes.external_data import require_inside
from edgekit.runtimes.openvino_session import GROUP_SIZE, OpenVinoSession, engine, reason, version
from edgekit.runtimes.openvino_texts import PagedSession
from edgekit.runtimes.option_values import require_cache, require_one_of, require_streams
from edgekit.session import Device, Model, Runtime, Session

_CORES: dict[int, Any] = {}  # by process: a forked child makes its own
CORES = {"any": "ANY_CORE", "performance": "PCORE_ONLY", "efficiency": "ECORE_ONLY"}
NOT_PAGED = (ValueError, RuntimeError, ImportError, TypeError)  # another graph, processor or version of the operator
# Devices that OpenVINO knows, as they are listed where it does not find them: title, precisions, what is missing
ABSENT = {
    "gpu": Device(
        "openvino",
        "gpu",
        "Intel GPU",
        ("fp32", "fp16", "int8"),
        usable=False,
        why="it finds no Intel GPU",
        remedy="needs an Intel GPU with its compute runtime (Debian: intel-opencl-icd)",
    ),
    "npu": Device(
        "openvino",
        "npu",
        "Intel NPU",
        ("fp16", "int8"),
        usable=False,
        why="it finds no Intel NPU",
        remedy="needs a Core Ultra processor with Intel's linux-npu-driver, or its driver for Windows",
    ),
}
IN_FLOAT = "; without VNNI sums of int8 products would overflow: openvino computes the int8 file in float"
ONE_THREAD = (
    "got inference_precision='bf16' for a language model on one thread: OpenVINO 2026.4 ends the process there (SIGFPE); "
    "take threads=2 or more, or 'f32'"
)
ROUNDED_INPUTS = {"int8-weights": 0, "int8-dynamic": 64, "int4-weights": 32}  # how many share a scale; 0: none


@dataclass(frozen=True)
class OpenVinoOptions:
    """`inference_precision`: what float operators compute in. OpenVINO's own default is bf16 or fp16 where
    the processor has it; here it is f32, so that fp32 means fp32, until the caller says otherwise.

    `performance_hint`: "THROUGHPUT" shares the threads out among several runs, which `Session.map` keeps under way;
    one run alone then takes longer. `streams` says among how many, None leaves it to the hint.
    `cache`: keep what was compiled, so that the next load need not (see `edgekit.compiled`): in the user's cache, in a
    folder of the caller's, or, False, not at all.
    `pin`: hold threads to cores, None leaves it to OpenVINO. `cores`: which kind, on a processor that has two.
    """

    inference_precision: Literal["f32", "f16", "bf16"] = "f32"
    performance_hint: Literal["LATENCY", "THROUGHPUT"] = "LATENCY"
    streams: int | None = None
    pin: bool | None = None
    cores: Literal["any", "performance", "efficiency"] = "any"
    cache: bool | str = True

    def __post_init__(self) -> None:
        require_cache(self.cache)
        require_one_of("inference_precision", self.inference_precision, ("f32", "f16", "bf16"))
        require_one_of("performance_hint", self.performance_hint, ("LATENCY", "THROUGHPUT"))
        require_one_of("cores", self.cores, tuple(CORES))
        if self.streams is not None:
            require_streams(self.streams)


class OpenVinoRuntime(Runtime):
    """Runs OpenVINO IR (.xml + .bin), and .onnx files directly."""

    name = "openvino"
    formats = ("openvino", "onnx")
    extra = "openvino"
    options = OpenVinoOptions

    def version(self) -> str:
        return version()

    def devices(self) -> list[Device]:
        core = _core()
        rows = []
        for name in core.available_devices:
            kind, _, index = name.lower().partition(".")
            title = str(core.get_property(name, "FULL_DEVICE_NAME"))
            capabilities = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
            device = f"{kind}:{index}" if index else kind
            able = (p.lower() for p in ("FP32", "BF16", "FP16", "INT8") if p in capabilities)
            precisions = tuple(p for p in able if self.computes(p, device) == p)
            rows.append(Device(self.name, device, title, precisions))
        there = {row.name.partition(":")[0] for row in rows}
        return rows + [row for kind, row in ABSENT.items() if kind not in there]

    def computes(self, precision: str, device: str = "cpu") -> str:
        in_float = precision == "int8" and device.partition(":")[0] == "cpu" and int8_overflows()
        return "fp32" if in_float else precision

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        forking.used("openvino")
        core = _core()
        target = device.upper().replace(":", ".")
        if not any(name in (target, f"{target}.0") for name in core.available_devices):
            raise DeviceUnavailable(
                f"openvino has no {device} here: it found {', '.join(core.available_devices)}; "
                "use device='cpu', or install the driver of the device"
            )
        if model.path.suffix == ".onnx":
            require_inside(model.path, model.files)
        settings = {
            "INFERENCE_PRECISION_HINT": options.inference_precision,
            "PERFORMANCE_HINT": options.performance_hint,
            **_scheduling(threads, options, on_cpu=target == "CPU"),
        }
        if model.precision in ROUNDED_INPUTS and target == "CPU":  # it would round those of all small weights
            settings[GROUP_SIZE] = str(ROUNDED_INPUTS[model.precision])
        in_float = self.computes(model.precision, device) != model.precision
        if in_float:
            # Pairs of int8 products would overflow 16 bits; and what the file rounded is not rounded once more
            settings |= {"LP_TRANSFORMS_MODE": "NO", GROUP_SIZE: "0"}
        besides = IN_FLOAT if in_float else ""
        shelf = Shelf.of(options.cache)
        if model.memory and target == "CPU" and openvino_paged.possible():
            computed = _computed(core, options.inference_precision)
            if computed == "bf16" and (threads or cores()) == 1:
                raise InputError(ONE_THREAD)
            small = model.precision in ROUNDED_INPUTS and computed == "f32"
            told = settings | {"KV_CACHE_PRECISION": "f16" if small else computed}
            with contextlib.suppress(*NOT_PAGED):  # then it is opened as any other network is
                # Not from the shelf: OpenVINO 2026.4 exports such a network, but does not import it again
                return PagedSession(*_compiled(core, model, target, told, None, paged=True), model, device, besides)
        try:
            compiled, specs = _compiled(core, model, target, settings, shelf)
        except (DeviceUnavailable, TensorError):
            raise
        except Exception as error:  # RuntimeError and others, from C++
            raise EngineError(f"openvino cannot open '{model.path.name}' on {device}: {reason(error)}") from error
        return OpenVinoSession(compiled, specs, model, device, besides)


def _computed(core: Any, asked: str) -> str:
    """What the processor computes in, asked for this precision."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return asked if {"bf16": "BF16", "f16": "FP16"}.get(asked) in able else "f32"


def _compiled(
    core: Any, model: Model, target: str, settings: dict[str, str], shelf: Shelf | None, *, paged: bool = False
) -> tuple[Any, openvino_borders.Specs]:
    """The network compiled, or as an earlier load kept it, and what the file's takes and gives.

    Raises:
        ValueError: it cannot be `paged`. What OpenVINO raises.
    """
    key = openvino_cache.name_of(core, str(engine().__version__), model, target, settings) if shelf else None
    found = openvino_cache.kept(core, shelf, key, target, settings) if shelf and key else None
    if found is not None:
        return found
    network = core.read_model(model.path)
    if target.startswith("NPU"):
        fix_sizes(network, model)
    specs = openvino_borders.specs(model.path.name, network)
    if target == "CPU" and model.path.suffix == ".onnx" and openvino_unsigned.needed():
        openvino_unsigned.make_unsigned(network)
    if paged and not (model.memory and openvino_paged.put_in_pages(network, model.memory)):
        raise ValueError(f"'{model.path.name}' attends otherwise")
    compiled = core.compile_model(network, target, settings)
    if shelf and key:
        openvino_cache.keep(shelf, key, compiled, specs)
    return compiled, specs


def _scheduling(threads: int | None, options: OpenVinoOptions, on_cpu: bool) -> dict[str, str]:
    """What OpenVINO is told of threads, cores and streams."""
    told: dict[str, str] = {}
    if options.streams is not None:
        told["NUM_STREAMS"] = str(options.streams)
    if on_cpu and threads:
        told["INFERENCE_NUM_THREADS"] = str(threads)
    if on_cpu and options.pin is not None:
        told["ENABLE_CPU_PINNING"] = "YES" if options.pin else "NO"
    if on_cpu and options.cores != "any":
        told["SCHEDULING_CORE_TYPE"] = CORES[options.cores]
    return told


def fix_sizes(network: Any, model: Model) -> None:
    """Give a network's free dimensions the sizes that were asked for, as an NPU compiles fixed sizes alone.

    Raises:
        DeviceUnavailable: a free dimension has no size.
    """
    specs = [spec.bound(model.sizes) for spec in model.inputs]
    free = sorted({str(d) for spec in specs for d in spec.shape if isinstance(d, str)})
    if free or (not specs and network.is_dynamic()):
        named = ", ".join(f"'{d}': …" for d in free) or "…"
        raise DeviceUnavailable(f"an NPU needs fixed sizes: open '{model.path.name}' with sizes={{{named}}}")
    if network.is_dynamic():
        network.reshape({port: list(spec.shape) for port, spec in zip(network.inputs, specs, strict=True)})


def _core() -> Any:
    """OpenVINO's Core: one for the whole process.

    OpenVINO 2026.4 gives the thread that makes a Core a stack for its signal handlers, and frees it with the Core, in
    whatever thread that goes: Ctrl-C then ends the process by SIGSEGV. What is never freed cannot do so.
    """
    openvino, process = engine(), os.getpid()
    return _CORES.get(process) or _CORES.setdefault(
        process, openvino.Core()
    )  # of two at once one goes where it was made
