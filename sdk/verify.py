"""Does a bundle still answer right on this machine: its hashes, then its golden inputs on every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgekit import registry
from edgekit.bundle import Bundle, golden_sample
from edgekit.errors import EdgekitError
from edgekit.manifest import Component, Variant
from edgekit.session import Session, open_session
from edgekit.session import runtime as find_runtime
from edgekit.tensors import Array, axes

FP32_TOLERANCE = 1e-3  # of the golden outputs' largest value; engines and processors differ by 1e-5 or less
INT8_SLACK_DB = 6.0  # how far below the recorded SNR an int8 variant may fall on another processor


@dataclass(frozen=True)
class Verdict:
    """One variant on one engine: `ok` None where it could not be tried, with the reason in `note`."""

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
        sizes = golden_sizes(bundle, name)
        for engine in registry.names("runtimes"):
            for variant in component.variants:
                if variant.format == find_runtime(engine).formats[0]:
                    yield _verdict(bundle, name, component, engine, variant, sizes)


def golden_sizes(bundle: Bundle, component: str = "model") -> dict[str, int]:
    """The sizes of the free dimensions at which the golden inputs were made."""
    golden = bundle.golden(component)
    return {
        dim: golden[spec.name].shape[axis]
        for spec in bundle.component(component).inputs
        if spec.name in golden
        for axis, dim in enumerate(spec.shape)
        if isinstance(dim, str)
    }


def golden_feeds(bundle: Bundle, session: Session, component: str = "model") -> dict[str, Array]:
    """The golden inputs, in the layout of the session."""
    golden, feeds = bundle.golden(component), {}
    for spec, actual in zip(bundle.component(component).inputs, session.inputs, strict=True):
        array = golden[spec.name]
        if spec.layout and actual.layout and spec.layout != actual.layout:
            array = np.ascontiguousarray(array.transpose(axes(spec.layout, actual.layout)))
        feeds[actual.name] = array
    return feeds


def _verdict(
    bundle: Bundle, name: str, component: Component, engine: str, variant: Variant, sizes: dict[str, int]
) -> Verdict:
    if not find_runtime(engine).installed():
        return Verdict(engine, variant, None, None, "not installed")
    fits = all(sizes.get(dim) == size for dim, size in variant.sizes.items())
    try:
        with open_session(
            bundle, engine, precision=variant.precision, component=name, sizes=variant.sizes or None
        ) as session:
            if not fits:
                return Verdict(engine, variant, True, None, "opened only: not the golden size")
            outputs = session.run(golden_feeds(bundle, session, name))
            return _compare(bundle, name, component, engine, variant, session, outputs)
    except EdgekitError as error:
        return Verdict(engine, variant, False, None, str(error))


def _compare(
    bundle: Bundle,
    name: str,
    component: Component,
    engine: str,
    variant: Variant,
    session: Session,
    outputs: dict[str, Array],
) -> Verdict:
    golden = bundle.golden(name)
    worst, snr_db, largest = 0.0, 999.0, 0.0
    for spec, actual in zip(component.outputs, session.outputs, strict=True):
        output, truth = outputs[actual.name], golden[spec.name].astype(np.float64)
        if spec.layout and actual.layout and spec.layout != actual.layout:
            output = output.transpose(axes(actual.layout, spec.layout))
        error = golden_sample(np.ascontiguousarray(output)).astype(np.float64) - truth
        worst = max(worst, float(np.abs(error).max()))
        largest = max(largest, float(np.abs(truth).max()))
        signal, noise = float(np.mean(truth**2)), float(np.mean(error**2))
        snr_db = min(snr_db, 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    if variant.precision == "fp32":
        allowed = FP32_TOLERANCE * max(largest, 1e-6)
        return Verdict(engine, variant, worst <= allowed, worst, f"allowed {allowed:.0e}")
    floor = (variant.parity.snr_db if variant.parity else 20.0) - INT8_SLACK_DB
    return Verdict(engine, variant, snr_db >= floor, worst, f"SNR {snr_db:.0f} dB ≥ {floor:.0f}")
