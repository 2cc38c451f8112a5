"""Corrections: what is changed in a network before its weights are rounded, so that less is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgekit.errors import QuantizationError
from edgekit.exporters.sizing import fitted
from edgekit.exporters.sources import Source
from edgekit.quantization.correction.bias import correct_bias
from edgekit.quantization.correction.network import Network
from edgekit.quantization.correction.qat import tune
from edgekit.quantization.correction.rounding import round_adaptively
from edgekit.quantization.correction.scaling import equalise, serves, smooth
from edgekit.quantization.correction.spaces import spaces
from edgekit.tensors import Array

Progress = Callable[[str], None]
Correction = Callable[[Source, Sequence[tuple[Array, ...]], Sequence[str], Progress], Source]

CORRECTIONS: dict[str, Correction] = {  # in the order they are made: the later ones start from rounded weights
    "equalise": equalise,
    "smooth": smooth,
    "qat": tune,
    "round": round_adaptively,
    "bias": correct_bias,
}
SCALING = ("equalise", "smooth")  # those that change nothing in fp32


def corrected(
    names: Sequence[str],
    source: Source,
    calibration: Sequence[tuple[Array, ...]],
    keep_float: Sequence[str],
    progress: Progress,
) -> Source:
    """The source with the named corrections made, in the order of `CORRECTIONS`; the original is not changed.

    Args:
        calibration: real inputs, in the order of the source's.
        keep_float: shell patterns of layers that stay float.
        progress: told what each correction gave, in dB of the simulated int8 output.

    Raises:
        QuantizationError: a correction of no such name, or no calibration inputs.
    """
    if unknown := [name for name in names if name not in CORRECTIONS]:
        raise QuantizationError(f"got the correction '{unknown[0]}': expected some of {', '.join(CORRECTIONS)}")
    if names and not calibration:
        raise QuantizationError(f"got no calibration inputs: {names[0]} measures what layers are given")
    shapes = [spec.bound(source.first_sizes).shape for spec in source.inputs]  # those that the network is traced at
    fit = [tuple(fitted(a, shape) for a, shape in zip(arrays, shapes, strict=True)) for arrays in calibration]
    for name in (name for name in CORRECTIONS if name in names):
        source = CORRECTIONS[name](source, fit, keep_float, progress)
    return source


def default(source: Source) -> tuple[str, ...]:
    """The corrections that can serve a network, of what it is made of; fine-tuning ("qat") takes minutes and is asked for."""
    network = Network(source)
    if not any(layer.rounds for layer in network.layers):
        return ()
    found = spaces(network)
    scaled = [kind for kind in SCALING if any(serves(space, kind) for space in found)]
    return (*scaled, "round", "bias")


__all__ = ["CORRECTIONS", "SCALING", "Correction", "corrected", "default"]
