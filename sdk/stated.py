"""What a manifest states of its files: which of them an engine reads, and how fast they were, on what processor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from edgekit import registry
from edgekit.machine import architecture, processor
from edgekit.manifest import Component, Speed, Variant

SHORT_MS = 1.0  # of a run that may be over before other threads, or an engine's preparations, pay
# Taken before fp32 where they gain; 4 bits lose too much to be taken unasked
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
    figures alone are taken; left out, this one's before those of others of its architecture. None where a component
    has no figures.
    """
    found: list[Speed] = []
    for component in components.values():
        if all(v.precision != precision for v in component.variants):
            continue
        files = readable(runtime, precision, component.variants)
        speeds = [s for s in (largest(files).speed if files else ()) if s.runtime == runtime and _alike(s, here)]
        if not speeds:
            return None
        found.append(min(speeds, key=lambda s: s.processor != processor()))
    if not found:
        return None
    fp32_ms = math.fsum(s.runs * s.fp32_ms for s in found)
    noise = math.fsum(s.runs * s.fp32_ms * s.noise for s in found) / fp32_ms if fp32_ms else 0.0
    beside = next((s.beside for s in found if s.beside), "")
    return msgspec.structs.replace(
        found[0], ms=math.fsum(s.runs * s.ms for s in found), fp32_ms=fp32_ms, noise=noise, runs=1, beside=beside
    )


def small(components: Mapping[str, Component]) -> bool:
    """Whether every int8 run that there are figures of was a short one, on this architecture; False where there are none."""
    files = [v for component in components.values() for v in component.variants if v.precision == "int8"]
    runs = [speed.ms for variant in files for speed in variant.speed if _alike(speed, "")]
    return bool(runs) and max(runs) < SHORT_MS


def alone(variant: Variant, runtime: str) -> bool:
    """Whether an engine ran a file faster on one thread than on its own number of them, when it was measured.

    Only short runs are measured on both. Figures of this processor decide, where there are any.
    """
    known = [s for s in variant.speed if s.runtime == runtime and _alike(s, "")]
    here = [s for s in known if s.processor == processor()]
    return any(map(on_one, here or known))


def on_one(speed: Speed) -> bool:
    """Whether a short run was the faster one on one thread."""
    return speed.threads == 1 and speed.ms < SHORT_MS


def speeds(components: Mapping[str, Component], fitting: Sequence[tuple[str, Variant]]) -> dict[tuple[str, str], Speed]:
    """What the manifest says of the candidates' speed, that of fp32 files which could be taken among them."""
    pairs = list(dict.fromkeys((runtime, variant.precision) for runtime, variant in fitting))
    known: dict[tuple[str, str], Speed] = {}
    for pair in pairs:
        if (speed := whole(components, *pair)) is not None:
            known[pair] = speed
    for (runtime, _), speed in list(known.items()):
        if (runtime, "fp32") in pairs and not speed.beside:
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
    known: Mapping[tuple[str, str], Speed], fitting: Sequence[tuple[str, Variant]]
) -> list[tuple[str, Variant]]:
    """What the manifest says to be faster than every fp32 that could be taken instead, what gains most first."""
    floats = {engine for engine, variant in fitting if variant.precision == "fp32"}
    gains: list[tuple[float, tuple[str, Variant]]] = []
    for engine, variant in fitting:
        speed = known.get((engine, variant.precision))
        if speed is None or variant.precision not in GAINING:
            continue
        beside = {e: s.ms for (e, p), s in known.items() if p == "fp32" and s.processor == speed.processor}
        if floats and floats <= beside.keys():
            gain = min(beside[e] for e in floats) / speed.ms
            if gain > 1 + speed.noise:
                gains.append((gain, (engine, variant)))
    return [candidate for _, candidate in sorted(gains, key=lambda row: -row[0])]


def _alike(speed: Speed, here: str) -> bool:
    """Whether figures were measured on this very processor, or at least on this architecture where none is named."""
    return speed.processor == here if here else speed.architecture == architecture()
