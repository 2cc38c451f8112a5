"""Which engine and which file: strict where the caller names them, measured or documented where "auto" does."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from edgekit import guard, profile, registry
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, InputError, NotInstalled
from edgekit.machine import architecture, int8_overflows, processor
from edgekit.manifest import Component, Speed, Variant
from edgekit.selection import select

# Without a profile, best first. x86-64: OpenVINO was fastest on all larger networks measured, int8 before float.
# Arm, by executed instructions on emulated boards (docs/raspberry-pi.md): LiteRT's int8 takes the fewest, a third of
# fp32's with dot products (Pi 5) and nine tenths without (Pi 4). OpenVINO has no int8 kernels for convolutions there.
# x86-64 without VNNI: OpenVINO's int8 kernels let sums of two products overflow 16 bits, so that its int8 files are run
# in float; ONNX Runtime has an exact mode, and LiteRT is exact.
# x86-64, small networks: a run is over in a fraction of a millisecond, of which LiteRT wants the least for itself. To share
# it out among threads takes longer than it gains, but where an engine computes in float without a detour.
WITHOUT_VNNI = "x86_64 without VNNI"
SMALL, SMALL_MS = "x86_64, small networks", 1.0
ALONE = {("openvino", "int8"), ("onnxruntime", "int8"), ("litert", "int8"), ("onnxruntime", "fp32")}
DEFAULT_ORDER = {
    "x86_64": (
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
        ("litert", "int8"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
        ("litert", "fp32"),
    ),
    SMALL: (
        ("litert", "int8"),
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
        ("litert", "fp32"),
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
    ),
    "aarch64": (
        ("litert", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("litert", "fp32"),
        ("onnxruntime", "fp32"),
        ("openvino", "int8"),
    ),
    WITHOUT_VNNI: (
        ("litert", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
        ("litert", "fp32"),
        ("openvino", "int8"),
    ),
}
OTHER_PRECISIONS = ("int8", "fp32")  # of engines that are in no order, such as torch
RARE_PRECISIONS = ("fp16", "int8-dynamic", "int8-weights", "int4-weights")  # after those measured
# Before fp32 where the manifest says that they gain; 4 bits lose too much to be taken unasked
GAINING = ("fp16", "int8-dynamic", "int8-weights")


@dataclass(frozen=True)
class Choice:
    """An engine, a variant for it, its device and threads, and why these.

    `size` is the (height, width) of the image that it was measured with, None where it was not measured, or with none;
    `tile` the input pixels a side of a tile that was fastest, None for the task's own.
    """

    runtime: str
    variant: Variant
    threads: int | None
    why: str
    device: str = "cpu"
    size: tuple[int, int] | None = None
    tile: int | None = None


def pick(
    bundle: Bundle,
    component: str,
    runtime: str,
    device: str,
    precision: str,
    sizes: Mapping[str, int],
    threads: int | None = None,
    image_size: tuple[int, int] | None = None,
    *,
    options: Any = None,
) -> Choice:
    """Choose engine, variant and, where it is "auto", device; what is named is kept to.

    `image_size`: (height, width) of the images that will come; of several that were measured the nearest is gone by,
    the last one where this is left out.
    `options`: an engine's options dataclass; "auto" takes an engine that has such.

    Raises:
        InputError: options of no engine that would do. DeviceUnavailable: nothing in the bundle fits; says what there is. NotInstalled.
    """
    found = candidates(bundle, component, runtime, precision, device)
    if not found or (runtime != "auto" and not _runtime(runtime).installed()):
        _refuse(bundle, component, runtime, precision, found)
    fitting = _of_sizes(bundle, component, runtime, found, sizes)
    if options is not None and runtime == "auto":
        fitting = [c for c in fitting if isinstance(options, _runtime(c[0]).options)]
        if not fitting:
            raise InputError(f"got options {type(options).__name__}: no engine that reads {bundle.name} takes them")
    named = runtime != "auto" and precision != "auto"
    wrong = {} if named else dict(wrong_answers(bundle, fitting)) | guard.refused(bundle, device)
    stale = ""
    if not named or device == "auto":
        trusted: dict[tuple[str, str], Variant] = {
            (r, v.precision): v for r, v in reversed(fitting) if (r, v.precision) not in wrong
        }
        known, stale = profile.state(bundle)
        measured = _measured(known, trusted, device, threads, image_size) if known else None
        if measured is not None:
            return measured
    device = "cpu" if device == "auto" else device
    fitting = [c for c in fitting if _runtime(c[0]).installed()]
    if not fitting:
        _refuse(bundle, component, runtime, precision, found)
    if not named and device != "cpu":
        able = [(engine, variant) for engine, variant in fitting if _has(engine, device, variant.precision)]
        fitting = able or ([] if runtime == "auto" else fitting)  # a named engine says itself why not
        if not fitting:
            raise DeviceUnavailable(
                f"no installed engine that reads {bundle.name} has the device '{device}': use device='cpu', or see `edgekit devices`"
            )
    asked = Choice(runtime, fitting[0][1], threads, stale, device)
    taken = replace(asked, why="asked for") if named else _by_order(bundle, runtime, fitting, wrong, asked)
    alone = threads is None and options is None and _short(bundle, component, taken)
    return replace(taken, threads=1, why=f"on one thread, as its runs are short; {taken.why}") if alone else taken


def _short(bundle: Bundle, component: str, taken: Choice) -> bool:
    """Whether runs are known to be so short, whatever comes, that several threads would take longer."""
    inputs = [spec.bound(taken.variant.sizes) for spec in taken.variant.inputs or bundle.component(component).inputs]
    fixed = not any(isinstance(size, str) for spec in inputs for size in spec.shape)
    return fixed and (taken.runtime, taken.variant.precision) in ALONE and _kind(bundle, taken.device) == SMALL


def _of_sizes(
    bundle: Bundle, component: str, runtime: str, options: list[tuple[str, Variant]], sizes: Mapping[str, int]
) -> list[tuple[str, Variant]]:
    """The candidates that have these sizes of the free dimensions, or leave them free."""
    described = bundle.component(component)
    free = {d for s in described.inputs for d in s.shape if isinstance(d, str)}
    free |= {d for v in described.variants for d in v.sizes}
    if unknown := sorted(set(sizes) - free):
        raise InputError(
            f"got sizes of {', '.join(unknown)}: {bundle.name} has {', '.join(sorted(free)) or 'none free'}"
        )
    fitting = [c for c in options if _fits(c[1], sizes)]
    if not fitting:
        have = sorted({str(dict(v.sizes)) for _, v in options})
        raise DeviceUnavailable(f"{bundle.name} has no file for {runtime} of the sizes {dict(sizes)}: it has {have}")
    return fitting


def _measured(
    known: profile.Profile,
    trusted: Mapping[tuple[str, str], Variant],
    device: str,
    threads: int | None,
    image_size: tuple[int, int] | None,
) -> Choice | None:
    """What the profile of this machine says of these candidates; engines that are gone since are passed over."""
    measured = known.nearest(device, image_size)
    rows = [
        row
        for row in (measured.rows if measured else ())
        if device in ("auto", row.device)
        and (row.runtime, row.precision) in trusted
        and threads in (None, row.threads, row.ran)
    ]
    while measured and (selected := select(rows, measured.limits)):
        row = selected.row
        if _runtime(row.runtime).installed():
            why = f"measured here on {measured.measured_at} with {measured.input}{measured.notes()}: {selected.why}"
            variant = trusted[row.runtime, row.precision]
            return Choice(row.runtime, variant, threads or row.threads, why, row.device, measured.size, row.tile)
        rows = [other for other in rows if other.runtime != row.runtime]
    return None


def _by_order(
    bundle: Bundle, runtime: str, fitting: list[tuple[str, Variant]], wrong: dict[tuple[str, str], str], asked: Choice
) -> Choice:
    """The first of the documented order that nothing speaks against; `asked.why` says what is wrong with the profile."""
    known = _speeds(bundle, fitting)
    gaining = _gaining(known, fitting) if asked.device == "cpu" else []
    rest = [c for c in fitting if c not in gaining]
    at = next((i for i, (_, variant) in enumerate(rest) if variant.precision == "fp32"), len(rest))
    fitting = [*rest[:at], *gaining, *rest[at:]]
    slow = {**dict(_slower(known)), **wrong}
    name, variant = next((c for c in fitting if (c[0], c[1].precision) not in slow), fitting[0])
    first = "first of the default order" if runtime == "auto" else f"{runtime}'s default precision"
    if (name, variant) in gaining:
        first = "faster than fp32 when it was made"
    passed = [why for pair, why in slow.items() if _before(fitting, pair, (name, variant.precision))]
    after = f", passing over {'; '.join(passed)}" if passed else ""
    remedy = f"{asked.why}: `edgekit tune` measures again" if asked.why else "`edgekit tune` measures"
    kind = _kind(bundle, asked.device)
    return replace(asked, runtime=name, variant=variant, why=f"{first} on {kind}{after}: {remedy}")


def _gaining(
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


def candidates(
    bundle: Bundle, component: str, runtime: str, precision: str, device: str = "cpu"
) -> list[tuple[str, Variant]]:
    """(runtime, variant) pairs of the bundle that the request allows, in the documented order."""
    order: Sequence[tuple[str, str]] = DEFAULT_ORDER.get(_kind(bundle, device), DEFAULT_ORDER["x86_64"])
    if runtime != "auto":
        known = [p for engine, p in order if engine == runtime]
        order = [(runtime, p) for p in known or OTHER_PRECISIONS]
    if runtime == "auto":  # other packages' engines come after those measured; a profile puts them where they belong
        order = [*order, *((engine, p) for engine in registry.plugin_runtimes() for p in OTHER_PRECISIONS)]
    engines = dict.fromkeys(engine for engine, _ in order)
    order = [*order, *((engine, rare) for rare in RARE_PRECISIONS for engine in engines)]
    if precision != "auto":
        wanted = "fp32" if _stayed_float(bundle, component, precision) else precision
        order = list(dict.fromkeys((engine, wanted) for engine, _ in order))
    variants = bundle.component(component).variants
    return [(engine, variant) for engine, wanted in order for variant in readable(engine, wanted, variants)]


def _stayed_float(bundle: Bundle, component: str, precision: str) -> bool:
    """Whether other components have files of a precision and this one none: nothing of it could be made small."""
    have = {name: {v.precision for v in c.variants} for name, c in bundle.manifest.components.items()}
    return precision not in have.get(component, {precision}) and any(precision in found for found in have.values())


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


def largest(variants: Sequence[Variant]) -> Variant:
    """The one of the largest fixed sizes; the first where none has any."""
    return max(variants, key=lambda v: math.prod(v.sizes.values()) if v.sizes else 0)


def alike(component: Component, variant: Variant) -> list[Variant]:
    """The variants that differ from this one in the sizes of its free dimensions alone, this one first."""
    same = [v for v in component.variants if (v.format, v.precision) == (variant.format, variant.precision)]
    return [variant, *(v for v in same if v is not variant and v.sizes.keys() == variant.sizes.keys() and v.sizes)]


def readable(engine: str, precision: str, variants: Sequence[Variant]) -> list[Variant]:
    """The variants of a precision that an engine reads, in the first of its formats that there are any of."""
    for format in _runtime(engine).formats:
        found = [v for v in variants if (v.format, v.precision) == (format, precision)]
        if found:
            return found
    return []


def _kind(bundle: Bundle, device: str) -> str:
    """The kind of this processor, and of the bundle's networks by what the manifest says of their speed there."""
    if int8_overflows():
        return WITHOUT_VNNI
    if (here := architecture()) != "x86_64" or device not in ("cpu", "auto"):
        return here
    files = [v for component in bundle.manifest.components.values() for v in component.variants]
    runs = [s.ms for v in files if v.precision == "int8" for s in v.speed if _alike(s, "")]
    return SMALL if runs and max(runs) < SMALL_MS else here


def _speeds(bundle: Bundle, fitting: Sequence[tuple[str, Variant]]) -> dict[tuple[str, str], Speed]:
    """What the manifest says of the candidates' speed, that of fp32 files which could be taken among them."""
    pairs = list(dict.fromkeys((runtime, variant.precision) for runtime, variant in fitting))
    known: dict[tuple[str, str], Speed] = {}
    for pair in pairs:
        if (speed := whole(bundle.manifest.components, *pair)) is not None:
            known[pair] = speed
    for (runtime, _), speed in list(known.items()):
        if (runtime, "fp32") in pairs and not speed.beside:
            known.setdefault((runtime, "fp32"), msgspec.structs.replace(speed, ms=speed.fp32_ms))
    return known


def _slower(known: Mapping[tuple[str, str], Speed]) -> Iterator[tuple[tuple[str, str], str]]:
    """What the manifest says is slower than an fp32 that could be taken instead, and the words that say so."""
    for pair, speed in known.items():
        floats = {p[0]: s.ms for p, s in known.items() if p[1] == "fp32" and s.processor == speed.processor}
        than = min(floats, key=lambda name: floats[name], default="")
        if than and speed.ms > floats[than] * (1 + speed.noise):
            yield pair, f"{' '.join(pair)} ({speed.ms:.3g} ms on {speed.processor}, {than} fp32 {floats[than]:.3g})"
        elif not than and speed.slower:
            yield pair, f"{' '.join(pair)} ({speed.ms:.3g} ms on {speed.processor}, fp32 {speed.fp32_ms:.3g})"


def wrong_answers(bundle: Bundle, fitting: Sequence[tuple[str, Variant]]) -> Iterator[tuple[tuple[str, str], str]]:
    """What answers otherwise than the engine of the file's own format, which was compared with PyTorch."""
    agreed = [a for component in bundle.manifest.components.values() for a in component.agreement if a.wrong]
    for runtime, variant in fitting if agreed else ():
        own = {name for name in registry.device_runtimes() if _runtime(name).formats[0] == variant.format}
        beside = [a for a in agreed if a.precision == variant.precision and runtime in a.engines]
        other = next((a for a in beside if own & set(a.engines)), None)
        if other is not None and runtime not in own:
            yield (
                (runtime, variant.precision),
                f"{runtime} {variant.precision} ({other.snr_db:.0f} dB from another engine)",
            )


def _alike(speed: Speed, here: str) -> bool:
    """Whether figures were measured on this very processor, or at least on this architecture where none is named."""
    return speed.processor == here if here else speed.architecture == architecture()


def _before(fitting: Sequence[tuple[str, Variant]], pair: tuple[str, str], taken: tuple[str, str]) -> bool:
    order: list[tuple[str, str]] = list(dict.fromkeys((runtime, variant.precision) for runtime, variant in fitting))
    return pair in order and order.index(pair) < order.index(taken)


def _has(engine: str, device: str, precision: str) -> bool:
    """Whether an engine has a device that works, and computes in this precision there."""
    rows = [row for row in _runtime(engine).listed() if row.usable and precision in row.precisions]
    return any(device in (row.name, row.name.partition(":")[0]) for row in rows)


def _fits(variant: Variant, sizes: Mapping[str, int]) -> bool:
    return all(variant.sizes[name] == size for name, size in sizes.items() if name in variant.sizes)


def _refuse(bundle: Bundle, component: str, runtime: str, precision: str, options: list[tuple[str, Variant]]) -> None:
    if options:
        raise NotInstalled("; ".join(dict.fromkeys(_runtime(name).problem() for name, _ in options)))
    have = ", ".join(sorted({f"{v.format} {v.precision}" for v in bundle.component(component).variants}))
    wanted = "int8 or fp32" if precision == "auto" else precision
    carries = any(v.format == "torch" for v in bundle.component(component).variants)
    builds = f"`edgekit build {bundle.name} -o DIR` makes it, or pick" if precision == "fp32" and carries else "pick"
    raise DeviceUnavailable(
        f"{bundle.name} has no {wanted} file that {'any engine' if runtime == 'auto' else runtime} opens: "
        f"it has {have or 'none'}; {builds} one of these"
        f"{'' if builds != 'pick' else ', or export or quantize to it'}"
    )


def _runtime(name: str) -> Any:  # a Runtime; session.py imports this module
    return registry.find("runtimes", name)()
