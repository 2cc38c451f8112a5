"""What can be measured of a bundle on this machine, and at which sizes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import get_args

import msgspec

from edgekit import registry
from edgekit.benchmarks.records import Case, Row
from edgekit.bundle import Bundle
from edgekit.errors import InputError, NotInstalled
from edgekit.manifest import Precision, Variant
from edgekit.opening import runtime as find_runtime
from edgekit.stated import readable
from edgekit.verify import golden_sizes

DEVICES = ("cpu", "gpu", "npu", "all")  # with an index where there are several, "gpu:1"
USUAL_SIDE = 64  # of a free dimension that neither a file nor golden values give a size


def cases_of(
    bundle: Bundle,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    devices: Sequence[str] = ("cpu",),
    threads: Sequence[int | None] = (None,),
) -> list[Case]:
    """The engine × device × precision × threads that are in the bundle and asked for.

    Of engines, those that are installed; one that is named is a case all the same, and a row that says what is missing.
    The device "all" stands for every one that an engine can use here.
    """
    require_known(runtimes, precisions, devices)
    variants = bundle.component(bundle.main).variants
    have = dict.fromkeys(v.precision for v in variants)
    return [
        Case(str(bundle.folder), name, device, precision, count)
        for name in runtimes or registry.device_runtimes()
        if runtimes or find_runtime(name).installed()
        for device in _named(name, devices)
        for precision in have
        if readable(name, precision, variants) and (not precisions or precision in precisions)
        for count in threads
    ]


def _named(runtime: str, devices: Sequence[str]) -> list[str]:
    """The devices that are asked for, "all" replaced by those that this engine can use."""
    try:
        usable = [d.name for d in find_runtime(runtime).devices() if d.usable] if "all" in devices else []
    except NotInstalled:
        usable = ["cpu"]
    return list(dict.fromkeys(name for device in devices for name in (usable if device == "all" else [device])))


def component_cases(
    bundle: Bundle, component: str, runtimes: Sequence[str] = (), precisions: Sequence[str] = ()
) -> list[Case]:
    """One component's engine × file pairs that are installed, in the bundle, and asked for.

    A file of free dimensions has no sizes yet.
    """
    variants = bundle.component(component).variants
    return [
        Case(str(bundle.folder), name, "cpu", precision, None, component, dict(variant.sizes))
        for name in runtimes or registry.device_runtimes()
        if find_runtime(name).installed()
        for precision in dict.fromkeys(v.precision for v in variants)
        if not precisions or precision in precisions
        for variant in readable(name, precision, variants)
    ]


def row_of(bundle: Bundle, case: Case) -> Row:
    """A case's row before it is measured, with the size of its files and their quality."""
    named = case.component or bundle.main
    found = readable(case.runtime, case.precision, bundle.component(named).variants)
    variant = next((v for v in found if v.sizes == case.sizes), found[0])
    quality = msgspec.to_builtins(variant.quality) if variant.quality else None
    if case.component is not None:
        return Row(case, bytes=variant.bytes, quality=quality)
    parts = [readable(case.runtime, case.precision, c.variants) for c in bundle.manifest.components.values()]
    return Row(case, bytes=sum(files[0].bytes for files in parts if files), quality=quality)


def require_known(runtimes: Sequence[str], precisions: Sequence[str], devices: Sequence[str] = ()) -> None:
    """Refuse names that stand for nothing, before any work.

    Raises:
        InputError: says what is near, and what there is.
    """
    for name in runtimes:
        registry.find("runtimes", name)
    known = {"precision": (precisions, get_args(Precision)), "device": (devices, DEVICES)}
    for what, (given, names) in known.items():
        for name in given:
            plain = name.partition(":")[0] if what == "device" else name
            if plain not in names:
                near = difflib.get_close_matches(plain, names, 1, 0.5)
                meant = f" (did you mean '{near[0]}'?)" if near else ""
                raise InputError(f"no {what} '{name}'{meant}: expected one of {', '.join(names)}")


def usual_sizes(bundle: Bundle, component: str) -> dict[str, int]:
    """The sizes at which a component's files of free dimensions are measured: those of the largest file that has them
    fixed, else those of the golden values.
    """
    described = bundle.component(component)
    free = {d for spec in described.inputs for d in spec.shape if isinstance(d, str)}
    fixed: list[Variant] = [v for v in described.variants if set(v.sizes) >= free]
    largest = max(fixed, key=lambda v: math.prod(v.sizes.values()), default=None)
    known = {**golden_sizes(bundle, component), **(largest.sizes if largest else {})}
    return {name: known.get(name, USUAL_SIDE) for name in sorted(free)}
