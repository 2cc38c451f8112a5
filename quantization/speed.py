"""The speed guard: what is slower than fp32 on every engine of this machine is not kept, and the manifest says how fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from edgekit import machine
from edgekit.bundle import Bundle
from edgekit.manifest import Component, Manifest, Precision, Speed, Variant
from edgekit.quantization.beside import Beside, GuardOptions, measured
from edgekit.quantization.expectation import advice, expectation
from edgekit.stated import readable, whole

__all__ = ["Gain", "GuardOptions", "Guarded", "expectation", "guard", "marked"]


@dataclass(frozen=True)
class Gain:
    """The files of one format on one engine: one use of the whole bundle beside fp32, or `error`, why it has no figures."""

    runtime: str
    format: str
    precision: str
    speed: Speed | None
    error: str = ""

    @property
    def slower(self) -> bool:
        """Slower than fp32 by more than the noise of the rounds."""
        return self.speed is not None and self.speed.slower

    def __str__(self) -> str:
        what = f"{self.format} {self.precision} on {self.runtime}"
        if self.speed is None:
            return f"{what} could not be measured: {self.error}"
        of = f" ({self.speed.beside})" if self.speed.beside else ""
        return (
            f"{what}: {_ms(self.speed.ms)} beside {_ms(self.speed.fp32_ms)} in fp32{of}, "
            f"{self.speed.gain:.2f}× ± {self.speed.noise:.0%}"
        )


@dataclass(frozen=True)
class Guarded:
    """The manifest with what was measured, without the files of the formats in `dropped`.

    `rows` has one for each engine and format, the whole bundle; `notes` are sentences for people.
    """

    manifest: Manifest
    rows: tuple[Gain, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def guard(bundle: Bundle, precision: Precision, options: GuardOptions = GuardOptions()) -> Guarded:  # noqa: B008
    """Measure a bundle's files of a precision beside fp32 on every engine here that reads them.

    Every file runs in a process of its own, in rounds taken in turns with fp32; a component counts as often as one use
    of the task runs it. A file is slower where its median is above fp32's by more than the noise of the rounds. The
    files of a format that is slower on every engine here are not kept, unless `keep_slower`.

    Raises:
        BundleError: a file is missing or changed.
    """
    found = measured(bundle, precision, options)
    manifest = marked(bundle.manifest, found)
    gains = tuple(_gains(manifest, precision, found))
    slow = tuple(_slower_everywhere(gains))
    dropped = () if options.keep_slower else slow
    return Guarded(_without(manifest, precision, dropped), gains, dropped, tuple(_notes(gains, slow, options)))


def marked(manifest: Manifest, found: Sequence[Beside]) -> Manifest:
    """The manifest with these speeds; they replace those of the same engine on the same processor."""

    def with_speed(name: str, variant: Variant) -> Variant:
        own = [b for b in found if b.component == name and b.variant.path == variant.path]
        new = [b.speed for b in own if b.speed]
        again = {(b.runtime, machine.processor()) for b in own}  # what failed this time has no figure any more
        kept = [s for s in variant.speed if (s.runtime, s.processor) not in again]
        return msgspec.structs.replace(variant, speed=(*kept, *new))

    components = {
        name: msgspec.structs.replace(component, variants=tuple(with_speed(name, v) for v in component.variants))
        for name, component in manifest.components.items()
    }
    return msgspec.structs.replace(manifest, components=components)


def _gains(manifest: Manifest, precision: str, found: Sequence[Beside]) -> Iterator[Gain]:
    """A row for each engine and format that was measured: the sum of its components, or the first error."""
    for runtime, format in dict.fromkeys((b.runtime, b.variant.format) for b in found):
        own = [b for b in found if (b.runtime, b.variant.format) == (runtime, format)]
        speed = whole(manifest.components, runtime, precision, machine.processor())
        errors = [f"{b.component}: {b.error}" if len(manifest.components) > 1 else b.error for b in own if b.error]
        if speed is not None:
            yield Gain(runtime, format, precision, speed)
        else:
            yield Gain(runtime, format, precision, None, errors[0] if errors else "nothing of it was measured")


def _slower_everywhere(gains: Sequence[Gain]) -> Iterator[str]:
    """The formats that are slower than fp32 on an engine, and faster on none."""
    for format in dict.fromkeys(gain.format for gain in gains):
        known = [gain for gain in gains if gain.format == format and gain.speed is not None]
        if known and all(gain.slower for gain in known):
            yield format


def _without(manifest: Manifest, precision: str, formats: Sequence[str]) -> Manifest:
    """The manifest without the files of these formats in this precision, and without an agreement that they had."""

    def kept(component: Component) -> Component:
        variants = [v for v in component.variants if (v.precision, v.format in formats) != (precision, True)]
        agreement = [
            a
            for a in component.agreement
            if a.precision != precision or all(readable(engine, precision, variants) for engine in a.engines)
        ]
        return msgspec.structs.replace(component, variants=tuple(variants), agreement=tuple(agreement))

    components = {name: kept(component) for name, component in manifest.components.items()}
    return msgspec.structs.replace(manifest, components=components)


def _notes(gains: Sequence[Gain], slow: Sequence[str], options: GuardOptions) -> Iterator[str]:
    """What people are told: what is slower and by how much, what becomes of it, and what to do."""
    for gain in gains:
        if gain.error:
            yield f"{gain}"
    for format in slow:
        own = [gain for gain in gains if gain.format == format and gain.speed is not None]
        told = "; ".join(f"{_ratio(gain)} on {gain.runtime}" for gain in own)
        fate = "kept, and marked" if options.keep_slower else "not kept (--keep-slower keeps it)"
        yield f"{format} {own[0].precision} is slower than fp32 on every engine here that reads it, {told}: {fate}"
    for gain in gains:
        if gain.slower and gain.format not in slow:
            yield f"{gain.format} {gain.precision} is slower than fp32 on {gain.runtime}, {_ratio(gain)}: auto takes fp32 there"
    slower = [gain for gain in gains if gain.slower]
    if slower:
        yield from advice(slower[0].precision)
    if gains and len(slow) == len({gain.format for gain in gains}) and not options.keep_slower:
        yield f"nothing of {gains[0].precision} is kept: the bundle is as before"


def _ratio(gain: Gain) -> str:
    assert gain.speed is not None
    return f"{_ms(gain.speed.ms)} beside {_ms(gain.speed.fp32_ms)} ({gain.speed.gain:.2f}× ± {gain.speed.noise:.0%})"


def _ms(value: float) -> str:
    return f"{value:.1f} ms" if value >= 10 else f"{value:.3g} ms"
