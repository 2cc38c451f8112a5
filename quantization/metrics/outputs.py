"""Quality where a task has no figure of its own: noise at the outputs, and a caller's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.bundle import Bundle
from edgekit.opening import open_session
from edgekit.quantization.calibration import float_precision, reference_engine
from edgekit.quantization.metrics.metric import Metric
from edgekit.tensors import Array
from edgekit.verify import answers


@dataclass
class OutputNoise(Metric):
    """How far a variant's outputs are from those in fp32 of ONNX Runtime, or what else runs them: lower is better.

    Root mean square of the difference in percent of that of the values, 100 · 10^(−SNR/20): 1 % is 40 dB, 0.1 %
    is 60 dB. The worst output of the worst component counts.
    """

    inputs: Mapping[str, Sequence[tuple[Array, ...]]]
    data: str
    name: str = "noise_percent"
    higher_is_better: bool = False
    _truth: dict[str, list[list[Array]]] = field(default_factory=dict, repr=False)

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return max(self._noise(bundle, name, runtime, precision) for name in self.inputs)

    def _noise(self, bundle: Bundle, component: str, runtime: str, precision: str) -> float:
        if component not in self._truth:
            self._truth[component] = self._outputs(bundle, component, reference_engine(bundle), float_precision(bundle))
        found = self._outputs(bundle, component, runtime, precision)
        places = range(len(bundle.component(component).outputs))
        return max(_percent(found, self._truth[component], place) for place in places)

    def _outputs(self, bundle: Bundle, component: str, runtime: str, precision: str) -> list[list[Array]]:
        described = bundle.component(component)
        results = []
        with open_session(bundle, runtime, precision=precision, component=component) as session:
            for arrays in self.inputs[component]:
                results.append(answers(session, arrays, described.inputs, described.outputs))
        return results


def _percent(found: Sequence[Sequence[Array]], truth: Sequence[Sequence[Array]], place: int) -> float:
    """Noise of one output over all inputs."""
    pairs = [(f[place].astype(np.float64), t[place].astype(np.float64)) for f, t in zip(found, truth, strict=True)]
    noise, signal = sum(float(((f - t) ** 2).sum()) for f, t in pairs), sum(float((t**2).sum()) for _, t in pairs)
    return 100.0 * math.sqrt(noise / max(signal, 1e-30))


@dataclass
class Custom(Metric):
    """A caller's function of (bundle, runtime, precision) → float."""

    function: Callable[[Bundle, str, str], float]
    name: str = "custom"
    data: str = "the caller's own"
    higher_is_better: bool = True

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return float(self.function(bundle, runtime, precision))
