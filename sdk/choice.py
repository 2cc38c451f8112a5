"""Which engine and which file: strict where the caller names them, measured or documented where "auto" does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit import profile, registry
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, InputError, NotInstalled
from edgekit.machine import architecture
from edgekit.manifest import Component, Variant

# Without a profile, best first. x86-64: OpenVINO was fastest in every family measured, int8 before float.
# Arm: OpenVINO runs int8 as fp16 there, slower than float; LiteRT (XNNPACK) and ONNX Runtime have int8 kernels.
DEFAULT_ORDER = {
    "x86_64": (
        ("openvino", "int8"),
        ("onnxruntime", "int8"),
        ("litert", "int8"),
        ("openvino", "fp32"),
        ("onnxruntime", "fp32"),
        ("litert", "fp32"),
    ),
    "aarch64": (
        ("litert", "int8"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("litert", "fp32"),
        ("onnxruntime", "fp32"),
        ("openvino", "int8"),
    ),
}
OTHER_PRECISIONS = ("int8", "fp32")  # of engines that are in no order, such as torch
RARE_PRECISIONS = ("fp16", "int8-dynamic", "int8-weights", "int4-weights")  # after those measured


@dataclass(frozen=True)
class Choice:
    """An engine, a variant for it, its threads, and why these."""

    runtime: str
    variant: Variant
    threads: int | None
    why: str


def pick(
    bundle: Bundle,
    component: str,
    runtime: str,
    device: str,
    precision: str,
    sizes: Mapping[str, int],
    threads: int | None = None,
) -> Choice:
    """Choose engine and variant; a named runtime or precision is kept to.

    Raises:
        DeviceUnavailable: nothing in the bundle fits; says what there is. NotInstalled.
    """
    options = candidates(bundle, component, runtime, precision)
    installed = [c for c in options if _runtime(c[0]).installed()]
    if not installed:
        _refuse(bundle, component, runtime, precision, options)
    if runtime == "auto" and device != "cpu":
        installed = [c for c in installed if _has(c[0], device)]
        if not installed:
            raise DeviceUnavailable(
                f"no installed engine that reads {bundle.name} has the device '{device}': use device='cpu', or see `edgekit devices`"
            )
    described = bundle.component(component)
    free = {d for s in described.inputs for d in s.shape if isinstance(d, str)}
    free |= {d for v in described.variants for d in v.sizes}
    if unknown := sorted(set(sizes) - free):
        raise InputError(
            f"got sizes of {', '.join(unknown)}: {bundle.name} has {', '.join(sorted(free)) or 'none free'}"
        )
    fitting = [c for c in installed if _fits(c[1], sizes)]
    if not fitting:
        have = sorted({str(dict(v.sizes)) for _, v in installed})
        raise DeviceUnavailable(f"{bundle.name} has no file for {runtime} of the sizes {dict(sizes)}: it has {have}")
    if runtime != "auto" and precision != "auto":
        return Choice(runtime, fitting[0][1], threads, "asked for")
    measured = profile.fastest(bundle, component, device, {(r, v.precision) for r, v in fitting}, threads)
    if measured is not None:
        name, variant = next(c for c in fitting if (c[0], c[1].precision) == (measured.runtime, measured.precision))
        return Choice(name, variant, threads or measured.threads, measured.why)
    name, variant = fitting[0]
    first = "first of the default order" if runtime == "auto" else f"{runtime}'s default precision"
    return Choice(name, variant, threads, f"{first} on {architecture()}: `edgekit tune` measures")


def candidates(bundle: Bundle, component: str, runtime: str, precision: str) -> list[tuple[str, Variant]]:
    """(runtime, variant) pairs of the bundle that the request allows, in the documented order."""
    order: Sequence[tuple[str, str]] = DEFAULT_ORDER.get(architecture(), DEFAULT_ORDER["x86_64"])
    if runtime != "auto":
        known = [p for engine, p in order if engine == runtime]
        order = [(runtime, p) for p in known or OTHER_PRECISIONS]
    engines = dict.fromkeys(engine for engine, _ in order)
    order = [*order, *((engine, rare) for rare in RARE_PRECISIONS for engine in engines)]
    if precision != "auto":
        order = list(dict.fromkeys((engine, precision) for engine, _ in order))
    variants = bundle.component(component).variants
    return [(engine, variant) for engine, wanted in order for variant in readable(engine, wanted, variants)]


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


def _has(engine: str, device: str) -> bool:
    names = [d.name for d in _runtime(engine).devices()]
    return device in names or device in {name.partition(":")[0] for name in names}


def _fits(variant: Variant, sizes: Mapping[str, int]) -> bool:
    return all(variant.sizes[name] == size for name, size in sizes.items() if name in variant.sizes)


def _refuse(bundle: Bundle, component: str, runtime: str, precision: str, options: list[tuple[str, Variant]]) -> None:
    if options:
        raise NotInstalled("; ".join(dict.fromkeys(_missing(name) for name, _ in options)))
    have = ", ".join(sorted({f"{v.format} {v.precision}" for v in bundle.component(component).variants}))
    wanted = "int8 or fp32" if precision == "auto" else precision
    carries = any(v.format == "torch" for v in bundle.component(component).variants)
    builds = f"`edgekit build {bundle.name} -o DIR` makes it, or pick" if precision == "fp32" and carries else "pick"
    raise DeviceUnavailable(
        f"{bundle.name} has no {wanted} file that {'any engine' if runtime == 'auto' else runtime} opens: "
        f"it has {have or 'none'}; {builds} one of these"
        f"{'' if builds != 'pick' else ', or export or quantize to it'}"
    )


def _missing(name: str) -> str:
    try:
        _runtime(name).version()
    except NotInstalled as error:
        return str(error)
    return ""


def _runtime(name: str) -> Any:  # a Runtime; session.py imports this module
    return registry.find("runtimes", name)()
