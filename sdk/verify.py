"""Does a bundle still answer right on this machine: its hashes, then its golden inputs on every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit import registry
from edgekit.bundle import Bundle, golden_sample
from edgekit.errors import EdgekitError
from edgekit.manifest import Component, Variant
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.session import Session
from edgekit.stated import readable
from edgekit.tensors import Array, TensorSpec, axes

FP32_TOLERANCE = 1e-3  # of the golden outputs' largest value; engines and processors differ by 1e-5 or less
FP32_SLACK = 2.0  # how many times the recorded error an fp32 variant may have on another processor
INT8_SLACK_DB = 6.0  # how far below the recorded SNR an int8 variant may fall on another processor
EQUAL_DB = 999.0
DIFFERING = 0.01  # the part of an integer output's values that may differ: two logits may be as good as equal


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


@dataclass(frozen=True)
class Difference:
    """How far one output is from PyTorch's.

    Of numbers: largest absolute error, that as a part of PyTorch's largest absolute value, and SNR in dB (999:
    equal). Of integers and truth values: all three from the part of the values that differ. `note` says what
    the numbers do not.
    """

    error: float
    relative: float
    snr_db: float
    integer: bool = False
    note: str = ""

    def within(self, tolerance: float) -> bool:
        return self.error <= (DIFFERING if self.integer else tolerance)


def differ(output: Array, truth: Array) -> Difference:
    """Compare one output with PyTorch's; NaN and infinity are right where PyTorch has the same."""
    if output.shape != truth.shape:
        return Difference(math.inf, math.inf, -EQUAL_DB, note=f"its shape is {output.shape}, not {truth.shape}")
    if truth.dtype.kind in "iub":
        wrong = int(np.count_nonzero(output != truth))
        part = wrong / max(1, truth.size)
        note = f"{wrong} of {truth.size} values are others" if wrong else ""
        return Difference(part, part, -10 * math.log10(part) if part else EQUAL_DB, True, note)
    output, truth = output.astype(np.float64), truth.astype(np.float64)
    odd = ~np.isfinite(truth)
    if not np.array_equal(output[odd], truth[odd], equal_nan=True) or not np.isfinite(output[~odd]).all():
        count = np.count_nonzero(~np.isfinite(output[~odd]))
        note = f"{count} values are NaN or infinite where PyTorch's are not" if count else "NaN or infinity differ"
        return Difference(math.inf, math.inf, -EQUAL_DB, note=note)
    note = f"{np.count_nonzero(odd)} of {odd.size} values are NaN or infinite, in PyTorch too" if odd.any() else ""
    return _of_numbers(output[~odd], truth[~odd], note)


def _of_numbers(output: Array, truth: Array, note: str) -> Difference:
    wrong = output - truth
    error = float(np.abs(wrong).max(initial=0.0))
    if not error:
        return Difference(0.0, 0.0, EQUAL_DB, note=note)
    signal, noise = float(np.mean(truth**2)), float(np.mean(wrong**2))
    snr_db = 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-300))
    return Difference(error, error / max(float(np.abs(truth).max()), 1e-30), min(snr_db, EQUAL_DB), note=note)


def worst(differences: Sequence[Difference]) -> Difference:
    """The largest error, the largest relative error and the lowest SNR of several."""
    first = max(differences, key=lambda d: d.error)
    notes = dict.fromkeys(d.note for d in differences if d.note)
    relative, snr_db = max(d.relative for d in differences), min(d.snr_db for d in differences)
    return Difference(first.error, relative, snr_db, first.integer, next(iter(notes), ""))


def compare(outputs: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """Largest error and lowest signal-to-noise ratio in dB over the outputs, as `differ` finds them.

    Equal outputs give 0 and 999 dB; NaN or infinity that is not expected, or another shape, infinity and −999 dB.
    """
    overall = worst([differ(output, truth) for output, truth in zip(outputs, expected, strict=True)])
    return overall.error, overall.snr_db


def _turned(array: Array, actual: TensorSpec, wanted: TensorSpec) -> Array:
    if actual.layout and wanted.layout and actual.layout != wanted.layout:
        array = array.transpose(axes(actual.layout, wanted.layout))
    return np.ascontiguousarray(array.astype(wanted.dtype, copy=False))  # TFLite has int32 for int64


def _tried(
    bundle: Bundle, name: str, component: Component, golden: dict[str, Array], engine: str, variant: Variant
) -> tuple[bool | None, float | None, str]:
    """ok, largest error and note of a Verdict."""
    if not find_runtime(engine).installed():
        return None, None, "not installed"
    precision, sizes = variant.precision, variant.sizes or None
    try:
        with open_session(bundle, engine, precision=precision, component=name, sizes=sizes, check=False) as session:
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
    found = [differ(output, golden) for output, golden in zip(outputs, truth, strict=True)]
    overall = worst(found)
    if overall.error == math.inf:
        return False, math.inf, next(d.note for d in found if d.error == math.inf)
    if variant.precision != "fp32":
        floor = (variant.parity.snr_db if variant.parity else 20.0) - INT8_SLACK_DB
        ok = overall.snr_db >= floor
        return ok, overall.error, f"SNR {overall.snr_db:.0f} dB {'≥' if ok else '<'} {floor:.0f}"
    allowed = _allowed(variant, truth)
    wrong = [d for d in found if not d.within(allowed)]
    integer = wrong[0].integer if wrong else all(d.integer for d in found)
    limit = f"allowed {DIFFERING:.0%}" if integer else f"allowed {allowed:.0e}"
    return not wrong, overall.error, f"{wrong[0].note}, {limit}" if wrong and integer else limit


def _allowed(variant: Variant, truth: list[Array]) -> float:
    """The largest error of numbers in fp32: a part of the largest golden one, or what export found, with slack."""
    numbers = [t[np.isfinite(t)] for t in truth if t.dtype.kind == "f"]
    largest = max((float(np.abs(t).max(initial=0.0)) for t in numbers), default=0.0)
    found = variant.parity.max_error if variant.parity else 0.0
    return max(FP32_TOLERANCE * max(largest, 1e-6), FP32_SLACK * found)
