"""Parity: does an exported file compute, in its engine, what PyTorch computes?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.errors import ParityError
from edgekit.manifest import Parity, Variant
from edgekit.session import Model, Session, runtime
from edgekit.tensors import Array, TensorSpec, axes

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert", "torch": "torch"}
EQUAL_DB = 999.0


def run_variant(session: Session, arrays: Sequence[Array], inputs: Sequence[TensorSpec]) -> list[Array]:
    """Run with inputs in the component's layout; outputs come back in NCHW where the session has NHWC."""
    feeds = {
        actual.name: _turn(array, spec, actual)
        for array, spec, actual in zip(arrays, inputs, session.inputs, strict=True)
    }
    results = session.run(feeds)
    return [
        np.ascontiguousarray(results[s.name].transpose(axes("NHWC", "NCHW"))) if s.layout == "NHWC" else results[s.name]
        for s in session.outputs
    ]


def _turn(array: Array, spec: TensorSpec, actual: TensorSpec) -> Array:
    if spec.layout and actual.layout and spec.layout != actual.layout:
        array = array.transpose(axes(spec.layout, actual.layout))
    return np.ascontiguousarray(array)


def compare(outputs: Sequence[Array], expected: Sequence[Array]) -> tuple[float, float]:
    """Largest absolute error, and the lowest signal-to-noise ratio over the outputs in dB (999 when equal)."""
    worst, lowest = 0.0, EQUAL_DB
    for output, truth in zip(outputs, expected, strict=True):
        error = output.astype(np.float64) - truth.astype(np.float64)
        worst = max(worst, float(np.abs(error).max()) if np.isfinite(error).all() else float("inf"))
        noise, signal = float(np.mean(error**2)), float(np.mean(truth.astype(np.float64) ** 2))
        if noise:
            lowest = min(lowest, 10 * float(np.log10(max(signal, 1e-30) / noise)) if np.isfinite(noise) else -EQUAL_DB)
    return worst, lowest


def measure_parity(
    path: Path,
    variant: Variant,
    inputs: Sequence[TensorSpec],
    probes: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
) -> Parity:
    """Open the file in its engine, run every probe, compare with PyTorch's outputs."""
    model = Model(path, variant.format, variant.precision, variant.inputs, variant.outputs)
    engine = runtime(ENGINES[variant.format])
    with engine.open(model, "cpu", None, engine.options()) as session:
        pairs = [compare(run_variant(session, p, inputs), e) for p, e in zip(probes, expected, strict=True)]
    return Parity(max_error=max(p[0] for p in pairs), snr_db=round(min(p[1] for p in pairs), 2), inputs=len(pairs))


def require(parity: Parity, tolerance: float, what: str, outputs: Sequence[TensorSpec]) -> None:
    """Refuse a file whose error is beyond the tolerance.

    Raises:
        ParityError.
    """
    if not parity.max_error <= tolerance:
        names = ", ".join(s.name for s in outputs)
        raise ParityError(
            f"{what} departs from PyTorch in {names}: largest error {parity.max_error:.2g} over {parity.inputs} inputs "
            f"(SNR {parity.snr_db:.0f} dB), allowed {tolerance:.2g}; is the module in eval() and free of "
            "randomness and of control flow on values?"
        )
