"""Which engine and which file: strict where the caller names them, measured or documented where "auto" does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit import guard, profile, registry, stated
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, InputError, NotInstalled
from edgekit.machine import architecture, int8_overflows
from edgekit.manifest import Variant
from edgekit.selection import select

# Without a profile, best first. x86-64: OpenVINO was fastest on all larger networks measured, int8 before float.
# Arm, by executed instructions on emulated boards (docs/raspberry-pi.md): LiteRT's int8 takes the fewest, a third of
# fp32's with dot products (Pi 5) and nine tenths without (Pi 4). OpenVINO has no int8 kernels for convolutions there.
# x86-64 without VNNI: OpenVINO's int8 kernels let sums of two products overflow 16 bits, so that its int8 files are run
# in float; ONNX Runtime has an exact mode, and LiteRT is exact. Both were slower than fp32 on super-resolution and
# styles and faster on the rest: int8 comes first where the manifest says that it gains on such a processor.
# x86-64, small networks: a run is over in a fraction of a millisecond, of which LiteRT wants the least for itself.
WITHOUT_VNNI = "x86_64 without VNNI"
SMALL = "x86_64, small networks"
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
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
        ("litert", "fp32"),
        ("litert", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
    ),
}
OTHER_PRECISIONS = ("int8", "fp32")  # of engines that are in no order, such as torch
RARE_PRECISIONS = ("fp16", "int8-dynamic", "int8-weights", "int4-weights")  # after those measured


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
    return replace(asked, why="asked for") if named else _by_order(bundle, runtime, fitting, wrong, asked)


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
            count = threads or row.threads or (row.ran if stated.alone(variant, row.runtime) else None)
            return Choice(row.runtime, variant, count, why, row.device, measured.size, row.tile)
        rows = [other for other in rows if other.runtime != row.runtime]
    return None


def _by_order(
    bundle: Bundle, runtime: str, fitting: list[tuple[str, Variant]], wrong: dict[tuple[str, str], str], asked: Choice
) -> Choice:
    """The first of the documented order that nothing speaks against; `asked.why` says what is wrong with the profile."""
    kind = _kind(bundle, asked.device)
    known = stated.speeds(bundle.manifest.components, fitting)
    told = known if asked.device == "cpu" else {}
    in_float = [c for c in fitting if _runtime(c[0]).computes(c[1].precision, asked.device) != c[1].precision]
    fastest = stated.by_speed(told, [c for c in fitting if c not in in_float])
    gaining = [] if fastest else stated.gaining(told, fitting, _gaining_on(kind))
    fitting = [*fastest, *in_float] if fastest else _before_fp32(gaining, fitting)
    right = {pair: speed for pair, speed in known.items() if pair not in wrong}
    slow = {**({} if fastest else dict(stated.slower(right))), **wrong}
    name, variant = next((c for c in fitting if (c[0], c[1].precision) not in slow), fitting[0])
    first = "first of the default order" if runtime == "auto" else f"{runtime}'s default precision"
    if fastest or (name, variant) in gaining:
        first = f"{'the fastest' if fastest else 'faster than fp32'} when the bundle was made,"
    passed = [why for pair, why in slow.items() if _passed(fitting, pair, (name, variant.precision), pair in wrong)]
    after = f", passing over {'; '.join(passed)}" if passed else ""
    if kind == WITHOUT_VNNI and variant.precision == "fp32" and any(v.precision == "int8" for _, v in fitting):
        after = f", where int8 is seldom faster{after}"
    remedy = f"{asked.why}: `edgekit tune` measures again" if asked.why else "`edgekit tune` measures"
    return replace(asked, runtime=name, variant=variant, why=f"{first} on {kind}{after}: {remedy}")


def _gaining_on(kind: str) -> tuple[str, ...]:
    """The precisions that come before fp32 where the manifest says that they are faster, and after it where it does not."""
    return (*stated.GAINING, "int8") if kind == WITHOUT_VNNI else stated.GAINING


def _before_fp32(first: list[tuple[str, Variant]], fitting: list[tuple[str, Variant]]) -> list[tuple[str, Variant]]:
    """The candidates, some of them put before the first in fp32."""
    rest = [c for c in fitting if c not in first]
    at = next((i for i, (_, variant) in enumerate(rest) if variant.precision == "fp32"), len(rest))
    return [*rest[:at], *first, *rest[at:]]


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
        first = [pair for pair in order if pair[1] == wanted]  # in which this precision is best, if it is known
        order = list(dict.fromkeys((engine, wanted) for engine, _ in (*first, *order)))
    variants = bundle.component(component).variants
    return [(engine, variant) for engine, wanted in order for variant in stated.readable(engine, wanted, variants)]


def _stayed_float(bundle: Bundle, component: str, precision: str) -> bool:
    """Whether other components have files of a precision and this one none: nothing of it could be made small."""
    have = {name: {v.precision for v in c.variants} for name, c in bundle.manifest.components.items()}
    return precision not in have.get(component, {precision}) and any(precision in found for found in have.values())


def _kind(bundle: Bundle, device: str) -> str:
    """The kind of this processor, and of the bundle's networks by what the manifest says of their speed there."""
    if (here := architecture()) != "x86_64" or device not in ("cpu", "auto"):
        return here
    if int8_overflows():
        return WITHOUT_VNNI
    return SMALL if stated.small(bundle.manifest.components) else here


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


def _passed(fitting: Sequence[tuple[str, Variant]], pair: tuple[str, str], taken: tuple[str, str], wrong: bool) -> bool:
    """Whether a candidate was passed over: one before what was taken, or any that is wrong."""
    order: list[tuple[str, str]] = list(dict.fromkeys((runtime, variant.precision) for runtime, variant in fitting))
    return pair in order and pair != taken and (wrong or order.index(pair) < order.index(taken))


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
