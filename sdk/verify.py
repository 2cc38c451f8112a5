"""Does a bundle still answer right on this machine: its hashes, then its golden inputs on every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit import registry
from edgekit.bundle import Bundle, golden_sample
from edgekit.choice import readable
from edgekit.errors import EdgekitError
from edgekit.manifest import Component, Variant
from edgekit.session import Session, open_session
from edgekit.session import runtime as find_runtime
from edgekit.tensors import Array, TensorSpec, axes

FP32_TOLERANCE = 1e-3  # of the golden outputs' largest value; engines and processors differ by 1e-5 or less
INT8_SLACK_DB = 6.0  # how far below the recorded SNR an int8 variant may fall on another processor
EQUAL_DB = 999.0


@dataclass(frozen=True)
class Verdict:
    """One variant on one engine: `ok` None where nothing could be compared, with the reason in `note`."""

    component: str
    runtime: str
    variant: Variant
    ok: bool | None
    max_error: float | None
    note: str


def verify(bundle: Bundle) -> Iterator[Verdict]:
    """Check every file, then run the golden inputs through every variant on every engine that reads it.

    Raises:
        BundleError: a file is missing or changed.
    """
    bundle.check_files()
    for name, component in bundle.manifest.components.items():
        golden = bundle.golden(name)
        for engine in registry.names("runtimes"):
            for variant in component.variants:
                if variant in readable(engine, variant.precision, component.variants):
                    yield Verdict(name, engine, variant, *_tried(bundle, name, component, golden, engine, variant))


def golden_sizes(bundle: Bundle, component: str = "model") -> dict[str, int]:
    """The sizes of the free dimensions at which the golden inputs were made."""
    golden = bundle.golden(component)
    return {
        dim: golden[spec.name].shape[axis]
        for spec in bundle.component(component).inputs
        if spec.name in golden and golden[spec.name].ndim == len(spec.shape)
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }


def feeds(session: Session, arrays: Sequence[Array], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Arrays in the component's order and layout, as the session takes them."""
    return {
        actual.name: _turned(array, spec, actual)
        for array, spec, actual in zip(arrays, inputs, session.inputs, strict=True)
    }


def answers(
    session: Session, arrays: Sequence[Array], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> list[Array]:
    """Run a session on arrays in the component's layout; its outputs come back in the component's layout."""
    results = session.run(feeds(session, arrays, inputs))
    return [_turned(results[actual.name], actual, spec) for spec, actual in zip(outputs, session.outputs, strict=True)]


def compare(outputs: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """Largest absolute error, and the lowest signal-to-noise ratio over the outputs in dB.

    Equal outputs give 0 and 999 dB; NaN, infinity or another shape give infinity and −999 dB.
    """
    worst, lowest = 0.0, EQUAL_DB
    for output, truth in zip(outputs, expected, strict=True):
        if output.shape != truth.shape:
            return math.inf, -EQUAL_DB
        error = output.astype(np.float64) - truth.astype(np.float64)
        if not np.isfinite(error).all():
            return math.inf, -EQUAL_DB
        worst = max(worst, float(np.abs(error).max()))
        noise, signal = float(np.mean(error**2)), float(np.mean(truth.astype(np.float64) ** 2))
        if noise:
            lowest = min(lowest, 10 * math.log10(max(signal, 1e-30) / noise))
    return worst, lowest


def _turned(array: Array, actual: TensorSpec, wanted: TensorSpec) -> Array:
    if actual.layout and wanted.layout and actual.layout != wanted.layout:
        array = array.transpose(axes(actual.layout, wanted.layout))
    return np.ascontiguousarray(array)


def _tried(
    bundle: Bundle, name: str, component: Component, golden: dict[str, Array], engine: str, variant: Variant
) -> tuple[bool | None, float | None, str]:
    """ok, largest error and note of a Verdict."""
    if not find_runtime(engine).installed():
        return None, None, "not installed"
    precision, sizes = variant.precision, variant.sizes or None
    try:
        with open_session(bundle, engine, precision=precision, component=name, sizes=sizes) as session:
            if any(spec.name not in golden for spec in (*component.inputs, *component.outputs)):
                return None, None, "opens; the bundle has no golden values"
            made_at = golden_sizes(bundle, name)
            if any(made_at.get(dim) != size for dim, size in variant.sizes.items()):
                return None, None, "opens; golden is of another size"
            inputs = [golden[spec.name] for spec in component.inputs]
            outputs = answers(session, inputs, component.inputs, component.outputs)
    except EdgekitError as error:
        return False, None, str(error)
    truth = [golden[spec.name] for spec in component.outputs]
    return _judged(variant, [golden_sample(output) for output in outputs], truth)


def _judged(variant: Variant, outputs: list[Array], truth: list[Array]) -> tuple[bool, float, str]:
    worst, snr_db = compare(outputs, truth)
    if worst == math.inf:
        return False, worst, "the answer is of another size, or holds NaN or infinity"
    if variant.precision == "fp32":
        allowed = FP32_TOLERANCE * max(*(float(np.abs(t).max()) for t in truth), 1e-6)
        return worst <= allowed, worst, f"allowed {allowed:.0e}"
    floor = (variant.parity.snr_db if variant.parity else 20.0) - INT8_SLACK_DB
    return (
        snr_db >= floor,
        worst,
        f"SNR {snr_db:.0f} dB ≥ {floor:.0f}" if snr_db >= floor else f"SNR {snr_db:.0f} dB < {floor:.0f}",
    )
