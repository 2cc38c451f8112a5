"""Facts of this machine that a latency depends on: board, processor, its int8 units, clocks, heat, memory, versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
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
# What the Raspberry Pi's firmware says in `vcgencmd get_throttled`; 16 places higher: since the board was started.
THROTTLING = {0: "under-voltage", 1: "capped clock", 2: "throttled", 3: "soft temperature limit"}
SINCE_START = 16
THERMOMETERS = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp", "soc-thermal")  # the processor's own
ANSWER_S = 5.0
SYSTEM = Path("/")
ENGINES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime", "torch", "numpy", "opencv-python-headless")


def facts() -> dict[str, Any]:
    """What goes beside every measurement."""
    return {
        "board": board(),
        "processor": processor(),
        "architecture": architecture(),
        "cores": cores(),
        "int8_units": list(int8_units()),
        "memory_mb": memory_mb(),
        "system": platform.platform(),
        "libc": " ".join(platform.libc_ver()),
        "governor": governor(),
        "clock_mhz": clock_mhz(),
        "temperature_c": temperature_c(),
        "throttled": _said(throttled()),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": packages(ENGINES),
    }


def board(root: Path = SYSTEM) -> str | None:
    """The board's name, such as "Raspberry Pi 5 Model B Rev 1.0"; None where there is no device tree."""
    for place in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if name := _read(root / place).strip("\0 \n"):
            return name
    return None


@lru_cache(maxsize=4)
def processor(root: Path = SYSTEM) -> str:
    """The processor's name, as the system gives it; by one without a number virtual machines call many: its model is added."""
    named: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        named.setdefault(key.strip(), value.strip())
    part = f"CPU part {named['CPU part']}" if "CPU part" in named else ""
    name = named.get("model name") or named.get("Model") or part or platform.processor() or platform.machine()
    bare = re.sub(r"@.*|version.*", "", name)
    if {"cpu family", "model"} <= named.keys() and not re.search(r"\d", bare):
        name += f" (family {named['cpu family']}, model {named['model']})"  # "AMD EPYC", with VNNI or without
    return name


def architecture() -> str:
    """ "x86_64" or "aarch64", by one name on every system."""
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=4)
def int8_units(root: Path = SYSTEM) -> tuple[str, ...]:
    """The processor's int8 dot-product instructions, empty where it has none."""
    text = _read(root / "proc/cpuinfo")
    lines = [line for line in text.splitlines() if line.lower().startswith(("flags", "features"))]
    flags = set(lines[0].partition(":")[2].split()) if lines else set()
    return tuple(title for flag, title in INT8_FLAGS.items() if flag in flags)


def told_int8_units(root: Path = SYSTEM) -> tuple[str, ...] | None:
    """As `int8_units`, None where the system does not tell."""
    return int8_units(root) if (root / "proc/cpuinfo").is_file() else None


def computes_int8_like(units: Sequence[str] | None, root: Path = SYSTEM) -> bool:
    """Whether what was measured on a processor with these int8 units holds here: both have some, or neither has. Of one
    that is not told of (None) it is believed that it has.
    """
    here = told_int8_units(root)
    return (units is None or bool(units)) == (here is None or bool(here))


def int8_overflows(root: Path = SYSTEM) -> bool:
    """Whether this is an x86-64 processor that adds two int8 products in 16 bits, as those without VNNI do.

    False where the system does not tell.
    """
    return architecture() == "x86_64" and (root / "proc/cpuinfo").is_file() and not int8_units(root)


def memory_mb(root: Path = SYSTEM) -> int | None:
    """Memory of the machine in MiB."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal"):
            return int(line.split()[1]) // 1024
    return None


def available_mb(root: Path = SYSTEM) -> int | None:
    """Memory in MiB that can be had without swapping, None where the system does not tell."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) // 1024
    return None


def governor(root: Path = SYSTEM) -> str | None:
    """The frequency governor of the first core, None where the system shows none."""
    return _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def clock_mhz(root: Path = SYSTEM) -> dict[str, int] | None:
    """The first core's clock "now" and "at most", in MHz; None where the system shows none."""
    folder = root / "sys/devices/system/cpu/cpu0/cpufreq"
    now, highest = (_whole(_read(folder / name)) for name in ("scaling_cur_freq", "cpuinfo_max_freq"))
    return None if now is None or highest is None else {"now": now // 1000, "at most": highest // 1000}


def temperature_c(root: Path = SYSTEM) -> float | None:
    """The processor's temperature in °C, None where the system shows none."""
    zones = {_read(zone / "type").strip(): zone for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))}
    for name in THERMOMETERS:
        if name in zones and (thousandths := _whole(_read(zones[name] / "temp"))) is not None:
            return round(thousandths / 1000, 1)
    return None


def throttled(root: Path = SYSTEM) -> dict[str, list[str]] | None:
    """What slows a Raspberry Pi down: {"now": [...], "since start": [...]}; None on another board.

    The names are those of `THROTTLING`, from `vcgencmd get_throttled` or, without it, from the firmware's file in sysfs.
    """
    bits = _throttle_bits(root)
    if bits is None:
        return None
    return {
        "now": [title for bit, title in THROTTLING.items() if bits >> bit & 1],
        "since start": [title for bit, title in THROTTLING.items() if bits >> (bit + SINCE_START) & 1],
    }


def packages(names: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of these packages that are installed."""
    from importlib.metadata import distributions  # slow to import, and seldom needed

    found = {str(d.metadata["Name"]).lower(): d.version for d in distributions() if d.metadata["Name"]}
    return {name: found[name] for name in names if name in found}


def _throttle_bits(root: Path) -> int | None:
    for text in (_answer(root), *(_read(path) for path in _throttle_files(root))):
        if (bits := _whole(text, 16)) is not None:
            return bits
    return None


def _answer(root: Path) -> str:
    """What `vcgencmd get_throttled` says, such as "0x50000"; "" where there is no such command, or it fails."""
    command = shutil.which("vcgencmd", path=str(root / "usr/bin"))
    if command is None:
        return ""
    try:
        told = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip().partition("=")[2]


def _throttle_files(root: Path) -> list[Path]:
    """The firmware's file in sysfs: its place differs from board to board."""
    patterns = ("*/*:firmware/get_throttled", "*:firmware/get_throttled")
    return [path for pattern in patterns for path in sorted((root / "sys/devices/platform").glob(pattern))]


def _said(slowed: dict[str, list[str]] | None) -> str | None:
    if slowed is None:
        return None
    return ", ".join(f"{what} {when}" for when, found in slowed.items() for what in found) or "no"


def _whole(text: str, base: int = 10) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
