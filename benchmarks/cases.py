"""What can be measured of a bundle on this machine, and at which sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgekit import registry
from edgekit.benchmarks.records import Case
from edgekit.bundle import Bundle
from edgekit.choice import readable
from edgekit.manifest import Variant
from edgekit.session import runtime as find_runtime
from edgekit.verify import golden_sizes

USUAL_SIDE = 64  # of a free dimension that neither a file nor golden values give a size


def cases_of(
    bundle: Bundle, runtimes: Sequence[str] = (), precisions: Sequence[str] = (), threads: int | None = None
) -> list[Case]:
    """The engine × precision pairs that are installed, in the bundle, and asked for."""
    found = []
    for name in runtimes or registry.device_runtimes():
        engine = find_runtime(name)
        if not engine.installed():
            continue
        variants = bundle.component(bundle.main).variants
        have = [p for p in dict.fromkeys(v.precision for v in variants) if readable(name, p, variants)]
        found += [Case(str(bundle.folder), name, "cpu", p, threads) for p in have if not precisions or p in precisions]
    return found


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
