"""Parity: does an exported file compute, in its engine, what PyTorch computes?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import ParityError
from edgekit.manifest import Parity, Variant
from edgekit.session import Model, runtime
from edgekit.tensors import Array, TensorSpec
from edgekit.verify import answers, compare

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert", "torch": "torch"}


def measure_parity(
    path: Path,
    variant: Variant,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    probes: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
) -> Parity:
    """Open the file in its engine, run every probe, compare with PyTorch's outputs."""
    model = Model(path, variant.format, variant.precision, variant.inputs, variant.outputs)
    engine = runtime(ENGINES[variant.format])
    with engine.open(model, "cpu", None, engine.options()) as session:
        pairs = [compare(answers(session, p, inputs, outputs), e) for p, e in zip(probes, expected, strict=True)]
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
