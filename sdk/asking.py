"""What `open_session`, `load` and `export` are asked: kinds and bounds of what was passed, looked at before any engine is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import BundleNotFound, DeviceUnavailable, InputError
from edgekit.isolation.request import Isolation

DEVICE = re.compile(r"[a-z]+(:[0-9]{1,3})?")
LONGEST = 4096  # characters of a path, which no system exceeds
MOST_THREADS = 1024
MODEL_FILES = (".pt", ".pth", ".pt2", ".ckpt", ".safetensors", ".bin", ".onnx", ".tflite", ".xml")


def require_source(source: object) -> None:
    """Raises: InputError: no bundle, path or name. BundleNotFound: a text that cannot be one."""
    if not isinstance(source, (str, Path, Bundle)):
        raise InputError(
            f"got a source of type {type(source).__name__}: expected a bundle, its folder, .zip or name, or a model file"
        )
    text = str(source) if isinstance(source, (str, Path)) else "-"
    if not text or len(os.fsencode(text)) > LONGEST or "\0" in text:
        raise BundleNotFound(f"got {text[:40]!r} ({len(text)} characters): expected a bundle's folder, .zip or name")


def require_model_file(source: object) -> None:
    """Raises: InputError: the name of a file of a model, and there is none."""
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() in MODEL_FILES and not Path(source).exists():
        raise InputError(f"there is no file '{source}': expected the path of a model")


def require_engine(runtime: object, device: object, precision: object, threads: object) -> None:
    """Raises: InputError: of another kind, or threads out of bounds. DeviceUnavailable: written as no device is."""
    for name, value in (("runtime", runtime), ("device", device), ("precision", precision)):
        if not isinstance(value, str):
            raise InputError(f"got {name}={value!r}: expected a name, or 'auto'")
    if not DEVICE.fullmatch(str(device)):
        raise DeviceUnavailable(
            f"got device={device!r}: use device='cpu', 'gpu', 'npu', one of several as 'gpu:1', or 'auto'"
        )
    if not precision:
        raise InputError("got precision='': expected one of the bundle, such as 'fp32' or 'int8', or 'auto'")
    require_threads(threads)


def require_threads(threads: Any) -> None:
    """Raises: InputError: no whole number from 1 to 1024, and not None."""
    if threads is not None and not (_whole(threads) and 1 <= threads <= MOST_THREADS):
        raise InputError(f"got threads={threads!r}: expected 1 to {MOST_THREADS}, or None")


def require_sizes(sizes: object) -> None:
    """Raises: InputError: no mapping of names to whole numbers of 1 and more."""
    if sizes is None:
        return
    sound = isinstance(sizes, Mapping) and all(
        isinstance(name, str) and _whole(size) and size >= 1 for name, size in sizes.items()
    )
    if not sound:
        raise InputError(f"got sizes={sizes!r}: expected sizes of free dimensions by name, such as {{'height': 360}}")


def require_switches(**switches: Any) -> None:
    """Raises: InputError: not True or False; `isolate` may be an Isolation, `check` may be "auto"."""
    for name, value in switches.items():
        other = {"isolate": isinstance(value, Isolation), "check": value == "auto"}.get(name, False)
        if not (isinstance(value, bool) or other):
            hint = {"isolate": ", or an Isolation", "check": " or 'auto'"}.get(name, "")
            raise InputError(f"got {name}={value!r}: expected True, False{hint}")


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and value is not True and value is not False
