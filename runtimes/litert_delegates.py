"""Delegates of others in LiteRT: the Edge TPU's, and those of boards, as libraries that the interpreter loads.

An interface of TensorFlow Lite (external_delegate_interface.h) that tflite-runtime and ai-edge-litert both have.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import DeviceUnavailable
from edgekit.runtimes import litert_placement, vulkan
from edgekit.session import Device

EDGE_TPU = {"linux": "libedgetpu.so.1", "darwin": "libedgetpu.1.dylib", "win32": "edgetpu.dll"}
COMPILED = b"edgetpu-custom-op"  # what edgetpu_compiler writes
DRIVER = "install the Edge TPU runtime (libedgetpu1-std) and plug the device in"


def edge_tpu() -> str:
    """The Edge TPU's library by the name that the system's loader knows."""
    return EDGE_TPU.get(sys.platform, EDGE_TPU["linux"])


def own(path: Path) -> str:
    """The library that a file asks for itself: the Edge TPU's, where it was compiled for it; empty otherwise."""
    return edge_tpu() if COMPILED in path.read_bytes() else ""


def loaded(module: Any, library: str, settings: Mapping[str, str] | None = None) -> Any:
    """The delegate of a library.

    Raises:
        DeviceUnavailable: there is no such library, or it finds no device.
    """
    remedy = DRIVER if library == edge_tpu() else "install it with the driver of its device"
    try:
        ctypes.CDLL(library)  # the engine's own loader leaves half an object behind where this fails
        return module.load_delegate(library, dict(settings or {}))
    except OSError as error:
        raise DeviceUnavailable(f"litert cannot load '{library}': {error}; {remedy}") from error
    except ValueError as error:
        reason = str(error).strip().splitlines()[1:] or ["it finds no device"]  # the first line names the library
        raise DeviceUnavailable(f"'{library}' cannot be used: {reason[0]}; {remedy}") from error


def require_placed(interpreter: Any, file: str, library: str, partial: bool) -> None:
    """Refuse a file of which a delegate took nothing, or not all; one compiled for the Edge TPU was divided already.

    Raises:
        DeviceUnavailable: names the operators that would run on the processor.
    """
    counted = litert_placement.operators(interpreter, "there")
    if not any(name.startswith("there ") for name in counted):
        compiled = "; compile it with edgetpu_compiler" if library == edge_tpu() else ""
        raise DeviceUnavailable(f"'{library}' takes no operator of '{file}'{compiled}: use device='cpu'")
    left = [f"{count} {name[4:]}" for name, count in counted.items() if name.startswith("CPU ")]
    if left and not partial:
        raise DeviceUnavailable(
            f"'{library}' leaves operators of '{file}' to the processor ({', '.join(left)}): "
            "LiteRtOptions(partial=True) allows it"
        )


def listed(runtime: str, package: Path | None) -> list[Device]:
    """The GPU, the vendor's NPU and the Edge TPU, usable or with what is in the way.

    Args:
        package: the folder of ai-edge-litert; None where tflite-runtime takes its place.
    """
    return [_gpu(runtime, package), _npu(runtime, package), _edge_tpu(runtime)]


def _gpu(runtime: str, package: Path | None) -> Device:
    absent = Device(runtime, "gpu", "WebGPU", ("fp32", "fp16"), usable=False, provider="webgpu")
    if package is None:
        return _because(absent, "tflite-runtime has no GPU of its own", "pip install 'edgekit[litert]'")
    if not list(package.glob("libLiteRt*Accelerator*")):
        return _because(absent, "this build of ai-edge-litert brings no GPU accelerator", "update ai-edge-litert")
    adapters = sorted(vulkan.adapters(), key=lambda adapter: adapter.kind != "hardware")
    if not adapters:
        remedy = "install the GPU's Vulkan driver; Mesa 25.0.7 and newer has one in software"
        return _because(absent, "no Vulkan adapter was found", remedy)
    best = adapters[0]
    return Device(runtime, "gpu", best.name, ("fp32", "fp16"), kind=best.kind, provider="webgpu")


def _npu(runtime: str, package: Path | None) -> Device:
    row = Device(runtime, "npu", "a vendor's NPU", usable=False, provider="dispatch")
    remedy = "install the vendor's dispatch library and driver, and name its folder: LiteRtOptions(dispatch=FOLDER)"
    libraries = sorted(package.glob("vendors/*/dispatch/*LiteRtDispatch*")) if package else []
    if not libraries:
        return _because(row, "no dispatch library of a vendor (Qualcomm, MediaTek, Intel …) is installed", remedy)
    try:
        ctypes.CDLL(str(libraries[0]))
    except OSError as error:
        return _because(row, f"{libraries[0].name} cannot be loaded: {error}", remedy)
    return _because(row, "its library is there; whether the device is shows when it is opened", remedy)


def _edge_tpu(runtime: str) -> Device:
    row = Device(runtime, "npu", "Edge TPU", ("int8",), usable=False, provider="edgetpu")
    try:
        ctypes.CDLL(edge_tpu())
    except OSError as error:
        return _because(row, f"{edge_tpu()} cannot be loaded: {error}", DRIVER)
    return _because(row, "its library is there; whether the device is shows when it is opened", DRIVER)


def _because(row: Device, why: str, remedy: str) -> Device:
    return replace(row, why=why, remedy=remedy)
