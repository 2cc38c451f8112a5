"""Facts of this machine that a latency depends on: processor, its int8 units, clocks, memory, versions."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

# What int8 kernels use, by the name that /proc/cpuinfo gives it.
INT8_FLAGS = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX-INT8",
    "asimddp": "Arm dot product",
    "i8mm": "Arm I8MM",
}
ENGINES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime", "torch", "numpy", "opencv-python-headless")


def facts() -> dict[str, Any]:
    """What goes beside every measurement."""
    return {
        "processor": processor(),
        "architecture": architecture(),
        "cores": cores(),
        "int8_units": int8_units(),
        "memory_mb": memory_mb(),
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "governor": governor(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": packages(ENGINES),
    }


@lru_cache(maxsize=1)
def processor() -> str:
    """The processor's name, as the system gives it."""
    named: dict[str, str] = {}
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        named.setdefault(key.strip(), value.strip())
    part = f"CPU part {named['CPU part']}" if "CPU part" in named else ""
    return named.get("model name") or named.get("Model") or part or platform.processor() or platform.machine()


def architecture() -> str:
    """ "x86_64" or "aarch64", by one name on every system."""
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def int8_units() -> list[str]:
    """The processor's int8 dot-product instructions, empty where it has none."""
    text = _read("/proc/cpuinfo")
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    return [title for flag, title in INT8_FLAGS.items() if flag in flags]


def memory_mb() -> int | None:
    """Memory of the machine in MiB."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal"):
            return int(line.split()[1]) // 1024
    return None


def governor() -> str | None:
    """The frequency governor of the first core, None where the system shows none."""
    return _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def packages(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of these packages that are installed."""
    found = {str(d.metadata["Name"]).lower(): d.version for d in distributions() if d.metadata["Name"]}
    return {name: found[name] for name in names if name in found}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
