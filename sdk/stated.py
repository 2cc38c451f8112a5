"""What a manifest states of its files: which of them an engine reads, and how fast they were, on what processor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from edgekit import registry
from edgekit.machine import architecture, computes_int8_like, processor, told_int8_units
from edgekit.manifest import Component, Speed, Variant

SHORT_MS = 1.0  # of a run that may be over before other threads, or an engine's preparations, pay
# Taken before fp32 where they gain, beside int8; 4 bits lose too much to be taken unasked
GAINING = ("fp16", "int8-dynamic", "int8-weights")


def readable(engine: str, precision: str, variants: Sequence[Variant]) -> list[Variant]:
    """The variants of a precision that an engine reads, in the first of its formats that there are any of."""
    for format in registry.find("runtimes", engine)().formats:
        found = [v for v in variants if (v.format, v.precision) == (format, precision)]
        if found:
            return found
    return []


def largest(variants: Sequence[Variant]) -> Variant:
    """The one of the largest fixed sizes; the first where none has any."""
    return max(variants, key=lambda v: math.prod(v.sizes.values()) if v.sizes else 0)


def alike(component: Component, variant: Variant) -> list[Variant]:
    """The variants that differ from this one in the sizes of its free dimensions alone, this one first."""
    same = [v for v in component.variants if (v.format, v.precision) == (variant.format, variant.precision)]
    return [variant, *(v for v in same if v is not variant and v.sizes.keys() == variant.sizes.keys() and v.sizes)]


def whole(components: Mapping[str, Component], runtime: str, precision: str, here: str = "") -> Speed | None:
    """What the manifest says of an engine's speed in a precision: one use of all components together, beside fp32.

    Of files of several sizes the largest counts; a component that stayed float does not. `here` is a processor whose
    figures alone are taken; left out, this one's before those of others of its architecture that have int8 units, or
    none, as it does. None where no such processor has figures of every component.
    """
    parts: list[list[Speed]] = []
    for component in _covered(components, precision):
        files = readable(runtime, precision, component.variants)
        parts.append([s for s in (largest(files).speed if files else ()) if s.runtime == runtime and _alike(s, here)])
    shared = set.intersection(*({s.processor for s in part} for part in parts)) if parts else set()
    if not shared:
        return None
    one = _nearest([s for s in parts[0] if s.processor in shared])[0].processor
    found = [next(s for s in part if s.processor == one) for part in parts]
    fp32_ms = math.fsum(s.runs * s.fp32_ms for s in found)
    noise = math.fsum(s.runs * s.fp32_ms * s.noise for s in found) / fp32_ms if fp32_ms else 0.0
    beside = next((s.beside for s in found if s.beside), "")
    return msgspec.structs.replace(
        found[0], ms=math.fsum(s.runs * s.ms for s in found), fp32_ms=fp32_ms, noise=noise, runs=1, beside=beside
    )


def small(components: Mapping[str, Component]) -> bool:
    """Whether every int8 run was a short one, by the figures of processors like this one; False where there are none."""
    files = [v for component in components.values() for v in component.variants if v.precision == "int8"]
    runs = [speed.ms for variant in files for speed in variant.speed if _alike(speed, "")]
    return bool(runs) and max(runs) < SHORT_MS


def alone(variant: Variant, runtime: str) -> bool:
    """Whether an engine ran a file faster on one thread than on its own number of them, when it was measured.

    Only short runs are measured on both. Figures of this processor decide, or of one like it, where there are any.
    """
    return any(map(on_one, _nearest([s for s in variant.speed if s.runtime == runtime and _alike(s, "")])))


def on_one(speed: Speed) -> bool:
    """Whether a short run was the faster one on one thread."""
    return speed.threads == 1 and speed.ms < SHORT_MS


def speeds(components: Mapping[str, Component], fitting: Sequence[tuple[str, Variant]]) -> dict[tuple[str, str], Speed]:
    """What the manifest says of the candidates' speed, that of fp32 files which could be taken among them."""
    pairs = dict.fromkeys((runtime, variant.precision) for runtime, variant in fitting)
    floats = [runtime for runtime, precision in pairs if precision == "fp32"]
    covered = {
        p: len(_covered(components, p)) for c in components.values() for v in c.variants if (p := v.precision) != "fp32"
    }
    smalls = [p for p, count in covered.items() if count == max(covered.values())]  # whose fp32 is of as much
    every = {pair: whole(components, *pair) for pair in (*pairs, *((r, p) for r in floats for p in smalls))}
    known: dict[tuple[str, str], Speed] = {p: s for p, s in every.items() if s is not None and p in pairs}
    for (runtime, _), speed in every.items():
        if runtime in floats and speed is not None and not speed.beside:
            known.setdefault((runtime, "fp32"), msgspec.structs.replace(speed, ms=speed.fp32_ms))
    return known


def slower(known: Mapping[tuple[str, str], Speed]) -> Iterator[tuple[tuple[str, str], str]]:
    """What the manifest says is slower than an fp32 that could be taken instead, and the words that say so."""
    for pair, speed in known.items():
        floats = {p[0]: s.ms for p, s in known.items() if p[1] == "fp32" and s.processor == speed.processor}
        than = min(floats, key=lambda name: floats[name], default="")
        if than and speed.ms > floats[than] * (1 + speed.noise):
            yield pair, f"{' '.join(pair)} ({speed.ms:.3g} ms on {speed.processor}, {than} fp32 {floats[than]:.3g})"
        elif not than and speed.slower:
            yield pair, f"{' '.join(pair)} ({speed.ms:.3g} ms on {speed.processor}, fp32 {speed.fp32_ms:.3g})"


def gaining(
    known: Mapping[tuple[str, str], Speed],
    fitting: Sequence[tuple[str, Variant]],
    precisions: Sequence[str] = GAINING,
) -> list[tuple[str, Variant]]:
    """What of these precisions the manifest says to be faster than every fp32 that could be taken instead, what gains
    most first.
    """
    ours = registry.device_runtimes()  # of the engines that others bring a manifest says nothing
    floats = {engine for engine, variant in fitting if variant.precision == "fp32" and engine in ours}
    gains: list[tuple[float, tuple[str, Variant]]] = []
    for engine, variant in fitting:
        speed = known.get((engine, variant.precision))
        if speed is None or variant.precision not in precisions:
            continue
        beside = {e: s.ms for (e, p), s in known.items() if p == "fp32" and s.processor == speed.processor}
        if floats and floats <= beside.keys():
            gain = min(beside[e] for e in floats) / speed.ms
            if gain > 1 + speed.noise:
                gains.append((gain, (engine, variant)))
    return [candidate for _, candidate in sorted(gains, key=lambda row: -row[0])]


def by_speed(
    known: Mapping[tuple[str, str], Speed], fitting: Sequence[tuple[str, Variant]]
) -> list[tuple[str, Variant]]:
    """Candidates of one precision, what the manifest says to be fastest first; none where it does not say it of all of
    them, on one processor, or there is but one.
    """
    found = [known.get((engine, variant.precision)) for engine, variant in fitting]
    told = [speed for speed in found if speed is not None]
    alone = len({engine for engine, _ in fitting}) < 2 or len({variant.precision for _, variant in fitting}) > 1
    if alone or len(told) < len(found) or len({speed.processor for speed in told}) > 1:
        return []
    ordered = sorted(zip(told, fitting, strict=True), key=lambda row: row[0].ms)
    return [candidate for _, candidate in ordered]


def _covered(components: Mapping[str, Component], precision: str) -> list[Component]:
    """The components that have files of a precision."""
    return [c for c in components.values() if any(v.precision == precision for v in c.variants)]


def _nearest(speeds: Sequence[Speed]) -> list[Speed]:
    """Those of this processor; where there are none, those of processors with the same int8 units, or else all."""
    own = [s for s in speeds if s.processor == processor()]
    return own or [s for s in speeds if s.int8_units == told_int8_units()] or list(speeds)


def _alike(speed: Speed, here: str) -> bool:
    """Whether figures are of the processor that is named; where none is, of one that computes int8 as this one does."""
    if here:
        return speed.processor == here
    own = speed.processor == processor()
    return speed.architecture == architecture() and (own or computes_int8_like(speed.int8_units))
