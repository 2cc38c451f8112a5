"""Static int8: weights and activations rounded beforehand, once in PyTorch for all engines."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from edgekit.exporters.writing import ExportOptions, convert
from edgekit.manifest import Variant
from edgekit.quantization.pt2e import Calibrated, QuantizedSource, calibrated, refuse_unmatched
from edgekit.quantization.ranking import rank
from edgekit.quantization.schemes import operators
from edgekit.quantization.schemes.operators import Found
from edgekit.quantization.schemes.scheme import ASKED, Job, Layer, Scheme

aten = torch.ops.aten
WORK, WEIGHTS = 0.01, 0.05  # of all multiplications and all weights: layers that stay float together may have that much
LAST = 0.15  # of both, for a last layer
PICTURES = (aten.conv2d.default, aten.conv_transpose2d.input)


class Static(Scheme):
    """int8 weights per output channel, int8 activations per tensor; by the formats' own tools where there is no
    PyTorch network.
    """

    precision = "int8"
    calibrated = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._elsewhere: Scheme | None = None
        if job.source is None:
            from edgekit.quantization.schemes.converted import ConvertedStatic

            self._elsewhere = ConvertedStatic(job)

    def layers(self) -> list[Layer]:
        """The layers in the order they run, with the range of what each gave in calibration."""
        if self._elsewhere is not None:
            return self._elsewhere.layers()
        return [self._layer(found) for found in self._network.layers]

    def write(self, format: str, stage: Path, options: ExportOptions) -> list[Variant]:
        """As `Scheme.write`; every format holds the same rounded weights and the same ranges."""
        if self._elsewhere is not None:
            return self._elsewhere.write(format, stage, options)
        return convert(self._int8.graph(format, self.job.name), format, stage, options)

    @cached_property
    def _network(self) -> Calibrated:
        source = self.job.corrected or self.job.source
        assert source is not None
        network = calibrated(source, self.job.calibration)
        refuse_unmatched(self.job.keep_float, [layer.name for layer in network.layers])
        return network

    @cached_property
    def _default(self) -> dict[str, str]:
        """The layers that stay float unasked, with the reason."""
        return {**_slight(self._network), **self._last(self._network)}

    def _last(self, network: Calibrated) -> dict[str, str]:
        """The last layer of a network that gives a picture, where its rounded output is most of all the noise, and it
        is so little of the network that float costs next to no size and time.
        """
        products, weights = (sum(getattr(c, of) for c in network.costs.values()) for of in ("products", "weights"))
        noise = rank(network.source, self.job.calibration)
        ends = operators.lasts([layer for layer in network.layers if not layer.why])
        return {
            layer.name: f"it makes the picture, and rounding it alone costs more than all else ({noise[layer.name]:.0f} dB)"
            for layer in ends
            if len(noise) > len(ends)
            and layer.node.target in PICTURES
            and network.costs[layer.name].products <= LAST * products
            and network.costs[layer.name].weights <= LAST * weights
            and _power(noise[layer.name])
            > sum(_power(noise_db) for name, noise_db in noise.items() if name != layer.name)
        }

    @cached_property
    def _int8(self) -> QuantizedSource:
        made = self._network.int8(lambda layer: not self._kept(layer))
        assert self.job.source is not None
        return replace(made, source=self.job.source)  # which files are compared with, whatever was corrected

    def _kept(self, layer: Found) -> str:
        """Why a layer stays float; empty where it becomes int8."""
        return layer.why or (ASKED if self.job.keeps(layer.name) else self._default.get(layer.name, ""))

    def _layer(self, layer: Found) -> Layer:
        seen = self._network.ranges.get(layer.end.name)
        low, high = (None, None) if seen is None else (seen.low, seen.high)
        return Layer(layer.name, None, low, high, self._kept(layer))


def _power(noise_db: float) -> float:
    return float(10.0 ** (-noise_db / 10.0))


def _slight(network: Calibrated) -> dict[str, str]:
    """Layers that are next to nothing of the work: int8 would gain no time, and cost exactness."""
    products, weights = (sum(getattr(c, of) for c in network.costs.values()) for of in ("products", "weights"))
    found: dict[str, str] = {}
    done = held = 0
    for name, cost in sorted(network.costs.items(), key=lambda item: item[1].products):
        done, held = done + cost.products, held + cost.weights
        if done > WORK * products or held > WEIGHTS * weights:
            break
        found[name] = "next to none of the multiplications: int8 would gain nothing"
    return found
