"""What was measured on this machine for a bundle, kept in the user's cache, and what `auto` makes of it."""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from pathlib import Path

import msgspec

from edgekit.bundle import Bundle, cache_folder
from edgekit.machine import architecture, processor

ENGINES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime", "torch")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured combination; `p50_ms` is the median of the whole task, or of the model where there is none."""

    component: str
    runtime: str
    device: str
    precision: str
    threads: int | None
    p50_ms: float

    why: str = ""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The measured rows of one bundle on one machine with one set of engines."""

    bundle: str
    machine: str
    measured_at: str
    input: str
    rows: tuple[Row, ...]


def save(bundle: Bundle, rows: list[Row], input: str = "golden values") -> Path:
    """Keep these rows for `auto`; they replace what was measured before. `input` says what on."""
    path = _path(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    today = time.strftime("%Y-%m-%d")
    data = msgspec.json.encode(Profile(bundle.hash, machine(), today, input, tuple(rows)))
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(data, indent=1))
    partial.replace(path)
    return path


def load(bundle: Bundle) -> Profile | None:
    """The profile of this bundle, this machine and these engine versions, or None."""
    path = _path(bundle)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Profile)
    except (OSError, msgspec.DecodeError):
        return None
    return found if (found.bundle, found.machine) == (bundle.hash, machine()) else None


def fastest(
    bundle: Bundle, component: str, device: str, allowed: set[tuple[str, str]], threads: int | None
) -> Row | None:
    """The fastest measured row among the allowed (runtime, precision) pairs, with the reason in `why`."""
    found = load(bundle)
    if found is None:
        return None
    rows = [
        row
        for row in found.rows
        if (row.component, row.device) == (component, device)
        and (row.runtime, row.precision) in allowed
        and threads in (None, row.threads)
    ]
    if not rows:
        return None
    best, *others = sorted(rows, key=lambda row: row.p50_ms)
    behind = f", ahead of {others[0].runtime} {others[0].precision} ({others[0].p50_ms:.1f} ms)" if others else ""
    why = f"fastest measured here on {found.measured_at} with {found.input}: {best.p50_ms:.1f} ms{behind}"
    return msgspec.structs.replace(best, why=why)


@lru_cache(maxsize=1)
def machine() -> str:
    """Names processor and engine versions, so that a profile of another machine or engine is not taken."""
    facts = [processor(), architecture(), *(f"{name} {_version(name)}" for name in ENGINES)]
    return "; ".join(facts)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom needed

    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _path(bundle: Bundle) -> Path:
    key = hashlib.sha256(f"{bundle.hash}\n{machine()}".encode()).hexdigest()[:24]
    return cache_folder() / "profiles" / f"{bundle.name}-{key}.json"
