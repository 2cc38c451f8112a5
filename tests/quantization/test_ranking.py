"""Ranking in one pass: the order, and the figures, of rounding each layer alone."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.exporters.sources import Source, from_module
from edgekit.quantization.pt2e import calibrated
from edgekit.quantization.ranking import rank
from edgekit.tensors import Array


class Chain(nn.Module):
    """Convolutions of which one has a channel that dwarfs the others, and one is hardly heard."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.loud = nn.Conv2d(16, 16, 3, padding=1)
        self.quiet = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.loud.weight.data[0] *= 30.0

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.loud(F.relu(self.first(image))))
        x = torch.cat([x[:, :1] / 30.0, x[:, 1:]], 1)
        y = self.last(x + 0.01 * self.quiet(x))
        return y, self.head(y.mean((2, 3)))


def exact(source: Source, calibration: list[tuple[Array, ...]]) -> dict[str, float]:
    """Each layer rounded alone, the whole network run."""
    network = calibrated(source, calibration)
    found = {}
    for name in network.costs:
        alone = network.int8(lambda layer, name=name: layer.name == name).folded  # type: ignore[misc]
        noise = 0.0
        for arrays in calibration:
            with torch.no_grad():
                outputs = [o.numpy() for o in alone(*(torch.from_numpy(a.copy()) for a in arrays))]
            for o, t in zip(outputs, source.run(arrays), strict=True):
                noise += float(np.square(o - t).sum() / np.square(t).sum()) / len(calibration)
        found[name] = -10 * math.log10(noise)
    return found


def test_one_pass_finds_what_every_layer_alone_costs() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    calibration = [(random.random((1, 3, 12, 12), np.float32),) for _ in range(8)]
    source = from_module(Chain(), calibration[0])
    ranked, truth = rank(source, calibration), exact(source, calibration)
    assert next(iter(ranked)) == "loud" and list(ranked)[-1] == "quiet"
    assert list(ranked.values()) == sorted(ranked.values())
    assert max(abs(ranked[name] - truth[name]) for name in truth) < 3.0  # dB
    assert rank(source, calibration) == ranked
