"""What was measured on this machine for a bundle, kept in the user's cache, and whether it still holds."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec

from edgekit import registry
from edgekit.bundle import Bundle, cache_folder
from edgekit.errors import InputError
from edgekit.machine import architecture, cores, processor
from edgekit.selection import Limits, Row

SCHEMA = 2
MAX_BYTES = 2**22
# Distributions, and the runtime whose version each states.
ENGINES = {
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime-webgpu": "onnxruntime",
    "onnxruntime-directml": "onnxruntime",
    "onnxruntime-qnn": "onnxruntime",
    "openvino": "openvino",
    "ai-edge-litert": "litert",
    "tflite-runtime": "litert",
    "torch": "torch",
}
FEW_ROUNDS = 3  # of fewer nothing is sure: there is too little to tell how rounds differ by


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What latencies belong to."""

    processor: str
    architecture: str
    cores: int

    @classmethod
    def here(cls) -> Machine:
        return cls(processor(), architecture(), cores())

    def __str__(self) -> str:
        return f"'{self.processor}' ({self.architecture}, {self.cores} core{'s' if self.cores > 1 else ''})"


class Measurement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tuning: every row, what they were measured on, the engines of that day, and the limits of the choice.

    `size` is (height, width) of the image, None where the task takes none; `whole` False where it was stopped early.
    """

    measured_at: str
    input: str
    size: tuple[int, int] | None
    engines: dict[str, str]
    rows: tuple[Row, ...]
    limits: Limits = Limits()
    whole: bool = True

    @property
    def devices(self) -> list[str]:
        return list(dict.fromkeys(row.device for row in self.rows))

    def notes(self) -> str:
        """What is to be said beside it: that it was stopped early or hurried, and which engines came since."""
        known = {
            engine for engine in ENGINES.values() if engine != "torch"
        }  # others are not looked for: that takes long
        new = sorted(name for name in known if name not in self.engines and engine_version(name))
        rounds = min((row.rounds for row in self.rows[:2]), default=0)
        early = ""
        if not self.whole:
            early = " (stopped early)"
        elif 0 < rounds < FEW_ROUNDS and len(self.rows) > 1:
            early = f" ({rounds} round{'s' if rounds > 1 else ''} of the fastest, too few to be sure)"
        return early + (f" ({', '.join(new)} came since, and is not measured)" if new else "")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every tuning of one bundle on one machine, the last one last: one for each size and set of devices."""

    schema: int
    bundle: str
    bundle_hash: str
    machine: Machine
    measurements: tuple[Measurement, ...]

    def stale(self, bundle: Bundle) -> str:
        """Why this is no profile of this bundle on this machine; "" where it is one."""
        if self.bundle_hash != bundle.hash:
            return f"is of another {bundle.name}, whose files were others"
        here = Machine.here()
        return "" if self.machine == here else f"was measured on {self.machine}, this is {here}"

    def nearest(self, device: str, size: tuple[int, int] | None) -> Measurement | None:
        """The last measurement of a device ("auto": of any), of several sizes that whose pixels are nearest to `size`."""
        found = [m for m in reversed(self.measurements) if device in ("auto", *m.devices)]
        if size is None or not found:
            return next(iter(found), None)
        return min(found, key=lambda m: abs(math.log(pixels(m.size) / pixels(size))))


def pixels(size: tuple[int, int] | None) -> int:
    """Of an image of (height, width), 1 of none."""
    return max(1, size[0] * size[1]) if size else 1


class _Schema(msgspec.Struct, frozen=True):
    schema: int = 1


def measurement(rows: Sequence[Row], input: str = "golden values", size: tuple[int, int] | None = None,
                limits: Limits = Limits(), whole: bool = True) -> Measurement:  # noqa: B008  # fmt: skip
    """A measurement of today with the engines that are installed."""
    return Measurement(time.strftime("%Y-%m-%d"), input, size, engines(), tuple(rows), limits, whole)


def save(bundle: Bundle, new: Measurement) -> Path:
    """Keep a measurement for `auto`. One of the same size and devices is replaced; those of other engines go."""
    found = _read(path_of(bundle))
    kept = found.measurements if isinstance(found, Profile) and not found.stale(bundle) else ()
    others = [m for m in kept if (m.size, set(m.devices)) != (new.size, set(new.devices)) and not _changed(m)]
    return _write(bundle, Profile(SCHEMA, bundle.name, bundle.hash, Machine.here(), (*others, new)))


def load(bundle: Bundle) -> Profile | None:
    """What was measured of this bundle, on this machine, with these engines; None where there is nothing of the kind."""
    return state(bundle)[0]


def state(bundle: Bundle) -> tuple[Profile | None, str]:
    """The measurements that hold, and, where there is none, why what was once measured does not; "" if nothing was."""
    found = _read(path_of(bundle))
    if found is None:
        return None, _elsewhere(bundle)
    if isinstance(found, str):
        return None, f"the profile {found}"
    if why := found.stale(bundle):
        return None, f"the profile {why}"
    kept = tuple(m for m in found.measurements if not _changed(m))
    if kept:
        return msgspec.structs.replace(found, measurements=kept), ""
    last = found.measurements[-1] if found.measurements else None
    return None, f"the profile {_changed(last)}" if last else ""


def read(path: str | Path, bundle: Bundle) -> Profile:
    """A profile from a file, such as another machine of the same kind wrote.

    Raises:
        InputError: it is damaged, or does not hold here; says what differs. OSError.
    """
    found = _read(Path(path))
    if found is None:
        raise InputError(f"no profile at '{path}': `edgekit tune {bundle.name} --export FILE` writes one")
    why = found if isinstance(found, str) else found.stale(bundle)
    if isinstance(found, Profile) and not why:
        why = next((w for m in reversed(found.measurements) if (w := _changed(m))), "")
    if why or isinstance(found, str):
        raise InputError(
            f"'{path}' cannot be this machine's profile of {bundle.name}: it {why}; `edgekit tune` measures here"
        )
    return found


def take(path: str | Path, bundle: Bundle) -> Path:
    """Make a profile that another machine of the same kind wrote this machine's own.

    Raises:
        InputError: as `read`. OSError.
    """
    return _write(bundle, read(path, bundle))


def path_of(bundle: Bundle) -> Path:
    """Where this machine's profile of a bundle lies."""
    key = hashlib.sha256(f"{bundle.hash}\n{Machine.here()}".encode()).hexdigest()[:16]
    return folder() / f"{bundle.name}-{key}.json"


def folder() -> Path:
    """Where this user's profiles lie."""
    return cache_folder() / "profiles"


def engines() -> dict[str, str]:
    """Versions of the installed engines by runtime, as `engine_version`."""
    return {name: version for name in registry.device_runtimes() if (version := engine_version(name))}


@lru_cache
def engine_version(runtime: str) -> str:
    """ "onnxruntime 1.31.1", from what is installed: no engine is imported; "" where none is."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom needed

    if runtime not in ENGINES.values():  # of another package, which alone knows
        engine = registry.find("runtimes", runtime)()
        return f"{runtime} {engine.version()}" if engine.installed() else ""
    found = []
    for name in (n for n, engine in ENGINES.items() if engine == runtime):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _elsewhere(bundle: Bundle) -> str:
    """Why the newest profile of another machine or another bundle of this name does not hold here; "" without one."""
    try:
        others = sorted(folder().glob(f"{bundle.name}-*.json"), key=lambda p: p.stat().st_mtime)
    except OSError:
        return ""
    for path in reversed(others):
        found = _read(path)
        if isinstance(found, Profile) and found.bundle == bundle.name and (why := found.stale(bundle)):
            return f"the profile of {found.measurements[-1].measured_at} {why}" if found.measurements else ""
    return ""


def _changed(measured: Measurement) -> str:
    """Which engine of a measurement has another version now; "" where none has. One that is gone has changed nothing."""
    for name in dict.fromkeys(row.runtime for row in measured.rows):
        now, then = engine_version(name), measured.engines.get(name, "")
        if now and now != then:
            return f"of {measured.measured_at} was measured with {then or f'no {name}'}, installed is {now}"
    return ""


def _read(path: Path) -> Profile | str | None:
    """The profile in a file; what is wrong with it; None where there is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            return f"was written by another edgekit (schema {schema}, this one reads {SCHEMA})"
        return msgspec.json.decode(data, type=Profile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return f"cannot be read ({str(error)[:120]})"


def _write(bundle: Bundle, profile: Profile) -> Path:
    path = path_of(bundle)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1))
    partial.replace(path)
    return path
