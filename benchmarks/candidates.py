"""What `edgekit tune` races: the options, and the combinations that this machine and a bundle have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import choice, registry, stated
from edgekit.benchmarks.cases import require_known
from edgekit.benchmarks.records import Case
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, EdgekitError, InputError
from edgekit.opening import runtime as find_runtime
from edgekit.selection import Limits, Row
from edgekit.session import Device

NOT_A_DEVICE = "not measured: {} is {}, whose times say nothing of a device"
TILES = (128, 256)
MOST_OVERLAP = 4  # halos that a tile is larger than, at least: of smaller ones too much is computed twice
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TuneOptions:
    """`budget_s`: of the whole, in seconds. `limits`: what the choice keeps within. `runtimes`, `precisions`: only these,
    all that there are where left out; `devices`: "cpu", "gpu", "npu", or "all"; `threads`: only these counts, the engine's
    own choice, 1, 2, 4 … and all cores where left out. `size`: (height, width) of the image, None for its own;
    `image`: a photo's path, None for the one that ships. `front`: measure what no other beats in quality, memory or
    files as carefully as the fastest. `seconds`: for each combination and round. `progress` is told (seconds gone, of
    the budget, what is next).
    """

    budget_s: float = 45.0
    limits: Limits = field(default_factory=Limits)
    runtimes: Sequence[str] = ()
    devices: Sequence[str] = ("cpu",)
    precisions: Sequence[str] = ()
    threads: Sequence[int | None] = ()
    size: tuple[int, int] | None = (360, 640)
    image: str | Path | None = None
    front: bool = False
    seconds: float = 0.25
    progress: Progress = field(default=lambda done, total, what: None)


def check(options: TuneOptions) -> None:
    options.limits.check()
    require_known(options.runtimes, options.precisions, [name for name in options.devices if name != "all"])
    for name in ("budget_s", "seconds"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"got {name}={value}: expected a number of seconds > 0")
    for count in options.threads:
        if count is not None and not 1 <= count <= 1024:
            raise InputError(f"got threads={count}: expected 1 to 1024")


def thread_counts(available: int) -> list[int]:
    """1, 2, 4 … and all cores."""
    return sorted({*(2**n for n in range(available.bit_length()) if 2**n <= available), available})


def tile_sizes(bundle: Bundle, size: tuple[int, int] | None) -> dict[tuple[str, str], list[int]]:
    """Tiles, in input pixels a side, that are smaller than what a task takes of itself, by engine and precision: those of
    its smaller files, or `TILES` where shapes are free. None at all where a task cuts no images of this size.
    """
    task = bundle.manifest.task
    halo = task.settings.get("halo") if task is not None else None
    if size is None or halo is None:
        return {}
    found: dict[tuple[str, str], list[int]] = {}
    for runtime, variant in choice.candidates(bundle, bundle.main, "auto", "auto"):
        files = stated.readable(runtime, variant.precision, bundle.component().variants)
        fixed = sorted({max(v.sizes.values()) for v in files if v.sizes})
        usual = [tile for tile in fixed[:-1] or TILES if MOST_OVERLAP * halo < tile < max(size)]
        found[runtime, variant.precision] = usual
    return found


def cases_of(bundle: Bundle, options: TuneOptions) -> tuple[list[Case], list[Row]]:
    """Runtime × device × precision that can be measured, the documented order first; and rows of those that cannot.

    Raises:
        DeviceUnavailable: there is nothing to measure.
    """
    wrong = dict(choice.wrong_answers(bundle, choice.candidates(bundle, bundle.main, "auto", "auto")))
    cases: list[Case] = []
    failed: list[Row] = []
    for runtime, precision in _pairs(bundle, options):
        for device in _devices(runtime, options.devices):
            why = _excluded(device, wrong.get((runtime, precision), ""))
            if why:
                failed.append(Row(runtime, device.name, precision, None, None, error=why))
            else:
                cases.append(Case(str(bundle.folder), runtime, device.name, precision))
    if not cases:
        why = "; ".join(dict.fromkeys(f"{row.runtime}: {row.error}" for row in failed)) or "see `edgekit devices`"
        asked = ", ".join([*options.runtimes, *options.precisions, *options.devices])
        raise DeviceUnavailable(f"nothing of {bundle.name} can be measured here of what was asked for ({asked}): {why}")
    return cases, failed


def _excluded(device: Device, wrong: str) -> str:
    """Why a combination is not measured; "" where it is."""
    if wrong:
        return f"not measured: {wrong}"
    if not device.usable:
        return device.why
    return "" if device.kind == "hardware" else NOT_A_DEVICE.format(device.title or device.name, device.kind)


def _pairs(bundle: Bundle, options: TuneOptions) -> list[tuple[str, str]]:
    """Installed runtime × precision of the bundle, in the documented order."""
    names = options.runtimes or ["auto"]
    found = [c for name in names for c in choice.candidates(bundle, bundle.main, name, "auto")]
    pairs = dict.fromkeys((runtime, variant.precision) for runtime, variant in found)
    known = options.runtimes or registry.device_runtimes()
    return [
        (runtime, precision)
        for runtime, precision in pairs
        if runtime in known
        and (not options.precisions or precision in options.precisions)
        and find_runtime(runtime).installed()
    ]


def _devices(runtime: str, wanted: Iterable[str]) -> list[Device]:
    """What of the wanted devices an engine knows here."""
    try:
        known = find_runtime(runtime).devices()
    except EdgekitError:
        return []
    if "all" in wanted:
        return [device for device in known if device.usable]
    found: list[Device] = []
    for name in wanted:
        fitting = [d for d in known if name in (d.name, d.name.partition(":")[0])]
        best = next((d for d in fitting if d.usable), next(iter(fitting), None))
        if best is not None:
            found.append(replace(best, name=name))
    return found
