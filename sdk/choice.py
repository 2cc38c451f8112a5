"""Which engine and which file: strict where the caller names them, measured or documented where "auto" does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit import profile, registry
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, NotInstalled
from edgekit.machine import architecture
from edgekit.manifest import Variant

# Without a profile. x86-64: OpenVINO is fastest in every family measured; Arm: its int8 runs as fp16,
# LiteRT (XNNPACK) and ONNX Runtime have real int8 kernels. fp32 follows int8 throughout.
DEFAULT_ORDER = {
    "x86_64": ("openvino", "onnxruntime", "litert"),
    "aarch64": ("litert", "onnxruntime", "openvino"),
}
DEFAULT_PRECISIONS = ("int8", "fp32")


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
    if runtime != "auto":
        return Choice(
            name, variant, threads, f"{variant.precision} comes first where nothing was measured: `edgekit tune` does"
        )
    order = " → ".join(_order())
    why = f"default order on {architecture()} ({order}; int8 before fp32): not measured here, `edgekit tune` does"
    return Choice(name, variant, threads, why)


def candidates(bundle: Bundle, component: str, runtime: str, precision: str) -> list[tuple[str, Variant]]:
    """(runtime, variant) pairs of the bundle that the request allows, in the documented order."""
    engines = _order() if runtime == "auto" else (runtime,)
    precisions = DEFAULT_PRECISIONS if precision == "auto" else (precision,)
    variants = bundle.component(component).variants
    return [
        (engine, variant)
        for wanted in precisions
        for engine in engines
        for variant in variants
        if variant.precision == wanted and variant.format == _runtime(engine).formats[0]
    ]


def _order() -> tuple[str, ...]:
    return DEFAULT_ORDER.get(architecture(), DEFAULT_ORDER["x86_64"])


def _fits(variant: Variant, sizes: Mapping[str, int]) -> bool:
    return all(variant.sizes[name] == size for name, size in sizes.items() if name in variant.sizes)


def _refuse(bundle: Bundle, component: str, runtime: str, precision: str, options: list[tuple[str, Variant]]) -> None:
    if options:
        raise NotInstalled("; ".join(dict.fromkeys(_missing(name) for name, _ in options)))
    have = ", ".join(sorted({f"{v.format} {v.precision}" for v in bundle.component(component).variants}))
    raise DeviceUnavailable(
        f"{bundle.name} has no {precision} file that {runtime} opens: it has {have or 'none'}; "
        "pick one of these, or export or quantize to it"
    )


def _missing(name: str) -> str:
    try:
        _runtime(name).version()
    except NotInstalled as error:
        return str(error)
    return ""


def _runtime(name: str) -> Any:  # a Runtime; session.py imports this module
    return registry.find("runtimes", name)()
