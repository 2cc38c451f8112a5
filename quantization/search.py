"""Which layers err most in int8: each is quantized alone, and its noise at the output measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgekit.exporters.sources import Source
from edgekit.quantization.pt2e import layer_names, quantize_source
from edgekit.tensors import Array
from edgekit.verify import compare


def rank_layers(source: Source, calibration: Sequence[tuple[Array, ...]], inputs: int = 4) -> dict[str, float]:
    """SNR in dB of the outputs when a layer alone is quantized, by layer name, the one that disturbs most first."""
    names = layer_names(source)
    probes = calibration[:: max(1, len(calibration) // inputs)][:inputs]  # spread: neighbours are much alike
    expected = [source.run(arrays) for arrays in probes]
    noise = {}
    for name in names:
        alone = quantize_source(source, probes, [other for other in names if other != name])
        with torch.no_grad():
            outputs = [alone.folded(*(torch.from_numpy(a.copy()) for a in arrays)) for arrays in probes]
        as_lists = [[o.numpy()] if isinstance(o, torch.Tensor) else [r.numpy() for r in o] for o in outputs]
        noise[name] = float(np.mean([compare(o, e)[1] for o, e in zip(as_lists, expected, strict=True)]))
    return {name: noise[name] for name in sorted(names, key=lambda name: noise[name])}
