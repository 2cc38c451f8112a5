"""Parity: does an exported file compute, in its engine, what PyTorch computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import ParityError
from edgekit.manifest import Parity, Variant
from edgekit.session import Model, runtime
from edgekit.tensors import Array, TensorSpec
from edgekit.verify import answers, compare

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert", "torch": "torch"}
INT8_FLOOR_DB = 6.0


def measure_parity(
    path: Path,
    variant: Variant,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    probes: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
) -> tuple[Parity, dict[str, float]]:
    """Open the file in its engine, run every probe, compare with PyTorch's outputs; also the errors by output."""
    model = Model(path, variant.format, variant.precision, variant.inputs, variant.outputs)
    engine = runtime(ENGINES[variant.format])
    with engine.open(model, "cpu", None, engine.options()) as session:
        results = [answers(session, probe, inputs, outputs) for probe in probes]
    pairs = [compare(result, truth) for result, truth in zip(results, expected, strict=True)]
    errors = {
        spec.name: max(compare([r[i]], [t[i]])[0] for r, t in zip(results, expected, strict=True))
        for i, spec in enumerate(outputs)
    }
    parity = Parity(max_error=max(p[0] for p in pairs), snr_db=round(min(p[1] for p in pairs), 2), inputs=len(pairs))
    return parity, errors


def require(parity: Parity, errors: Mapping[str, float], tolerance: float, what: str) -> None:
    """Refuse a file whose error is beyond the tolerance, naming the first output that departs.

    Raises:
        ParityError.
    """
    for name, error in errors.items():
        if not error <= tolerance:
            raise ParityError(
                f"{what} departs from PyTorch in '{name}': largest error {error:.2g} over {parity.inputs} inputs "
                f"(SNR {parity.snr_db:.0f} dB), allowed {tolerance:.2g}; is the module in eval() and free of "
                "randomness and of control flow on values?"
            )


def require_some(parity: Parity, what: str) -> None:
    """Refuse an int8 file that has little to do with the network it is made from.

    Raises:
        ParityError.
    """
    if parity.snr_db < INT8_FLOOR_DB:
        raise ParityError(
            f"{what} departs from PyTorch in fp32: SNR {parity.snr_db:.0f} dB, below {INT8_FLOOR_DB:.0f}; "
            "calibrate on inputs like the real ones, or keep layers in float"
        )
