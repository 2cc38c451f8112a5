"""What stands in the way on this machine: missing or clashing packages, processor features, clocks."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

import msgspec

from edgekit import machine, profile, registry
from edgekit.bundle import Bundle, shipped
from edgekit.opening import runtime

Level = Literal["ok", "note", "problem"]

# Distributions that install the same import package over one another: the last one installed wins in part.
CLASHES = (
    (
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-webgpu", "onnxruntime-directml", "onnxruntime-openvino"),
    ),
    ("cv2", ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")),
)

HOT_C, SLOWS_C = 75, 80  # the firmware lowers the clock from 80 °C on (a Raspberry Pi 3B+ from 60 °C)


class Finding(msgspec.Struct, frozen=True):
    """One thing found: "problem" must be mended, "note" is worth knowing."""

    level: Level
    text: str


def findings() -> list[Finding]:
    """Everything that this machine should be told about."""
    installed = {str(d.metadata["Name"]).lower() for d in distributions() if d.metadata["Name"]}
    return [*_engines(), *_clashes(installed), *_opencv(installed), *_processor(), *board(), *_system(), *_profiles()]


def board(root: Path = machine.SYSTEM) -> list[Finding]:
    """What a board's firmware and thermometer tell; nothing where there is no board."""
    title = machine.board(root)
    if title is None:
        return []
    heat, clock, slowed = machine.temperature_c(root), machine.clock_mhz(root), machine.throttled(root)
    parts = [title]
    parts += [f"{heat:.0f} °C"] if heat is not None else []
    parts += [f"{clock['now']} of {clock['at most']} MHz"] if clock else []
    found = [Finding("ok", ", ".join(parts))]
    if heat is not None and heat >= HOT_C and not (slowed and slowed["now"]):
        found.append(Finding("note", f"{heat:.0f} °C: a Raspberry Pi slows down from {SLOWS_C} °C on: give it a fan"))
    return found + (_slowed(slowed) if slowed else [])


def _slowed(slowed: dict[str, list[str]]) -> list[Finding]:
    now = slowed["now"]
    before = [what for what in slowed["since start"] if what not in now]
    found = [Finding("problem", f"the board is slowed down now: {_remedies(now)}")] if now else []
    if before:
        found.append(Finding("note", f"the board was slowed down since its start: {_remedies(before)}"))
    return found


def _remedies(causes: list[str]) -> str:
    weak = "under-voltage" in causes
    hot = any(what != "under-voltage" for what in causes)
    power = ["a stronger power supply or a shorter cable"] if weak else []
    fan = ["a heat sink or a fan, a smaller picture or fewer frames"] if hot else []
    return f"{', '.join(causes)}. What helps: {'; '.join(power + fan)}"


def _engines() -> list[Finding]:
    found = []
    for name in registry.device_runtimes():
        engine = runtime(name)
        why = engine.problem()
        found.append(Finding("note", why) if why else Finding("ok", f"{name} {engine.version()}"))
    found += [Finding("problem", text) for table in registry.BASES for text in registry.plugins(table).values() if text]
    if not any(f.level == "ok" for f in found):
        found.append(
            Finding("problem", "no inference engine is installed: pip install 'edgekit[onnx]' brings the smallest")
        )
    return found


def _clashes(installed: set[str]) -> list[Finding]:
    return [
        Finding(
            "problem",
            f"{' and '.join(both)} overwrite each other's '{package}': pip uninstall {' '.join(both)}, then install one",
        )
        for package, names in CLASHES
        if len(both := [n for n in names if n in installed]) > 1
    ]


def _opencv(installed: set[str]) -> list[Finding]:
    if any(name in installed for name in CLASHES[1][1]):
        return []
    return [Finding("note", "images need OpenCV: pip install 'edgekit[image]'")]


def _processor() -> list[Finding]:
    if machine.int8_units():
        return [Finding("ok", f"int8 instructions: {', '.join(machine.int8_units())}")]
    return [
        Finding("note", "the processor has no int8 dot product (VNNI, Arm dotprod): measure before you choose int8")
    ]


def _profiles() -> list[Finding]:
    """Shipped bundles that were tuned, and whether that still holds."""
    kept = {path.name for path in profile.folder().glob("*.json")}
    found = []
    for name, folder in shipped().items() if kept else ():
        if any(file.startswith(f"{name}-") for file in kept):
            known, stale = profile.state(Bundle.open(folder))
            if known is not None:
                found.append(Finding("ok", f"{name} was tuned on {known.measurements[-1].measured_at}"))
            elif stale:
                found.append(Finding("note", f"{name}: {stale}: `edgekit tune {name}` measures again"))
    return found


def _system() -> list[Finding]:
    found = []
    if sys.maxsize < 2**32:
        found.append(Finding("problem", "this is a 32-bit Python: most engines have wheels for a 64-bit OS alone"))
    if machine.governor() not in (None, "performance"):
        found.append(
            Finding("note", f"the governor is '{machine.governor()}': latencies will swing; 'performance' is steady")
        )
    name, release = platform.libc_ver()
    if name == "glibc" and tuple(int(n) for n in release.split(".")[:2]) < (2, 28):
        found.append(Finding("problem", f"glibc {release} is older than the 2.28 that the engines' wheels need"))
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > machine.cores():
        found.append(Finding("note", f"the machine is busy (load {os.getloadavg()[0]:.1f}): benchmarks will be noisy"))
    return found
