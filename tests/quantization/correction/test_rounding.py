"""Bias correction and adaptive rounding: less is lost in int8, and weights that lie on their levels stay there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import QuantizationError
from edgekit.exporters.sources import Source, from_module
from edgekit.quantization.correction import CORRECTIONS, corrected
from edgekit.quantization.correction.grid import Range, Samples, rounded_weight
from edgekit.quantization.correction.network import Network, spread
from edgekit.quantization.correction.rounding import descended
from edgekit.quantization.correction.simulation import Simulation
from edgekit.quantization.pt2e import weight_scales

Inputs = list[tuple[np.ndarray, ...]]


def images(count: int = 6) -> Inputs:
    random = np.random.default_rng(0)
    return [(random.random((1, 3, 12, 12), np.float32),) for _ in range(count)]


@pytest.fixture
def source() -> Source:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 36, 24), nn.ReLU(), nn.Linear(24, 4, bias=False),
    )  # fmt: skip
    nn.init.uniform_(net[1].running_mean, -0.2, 0.2)
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    return from_module(net, images()[0])


def outputs(source: Source, reference: Source) -> tuple[Tensor, Tensor]:
    """Simulated int8 of a source, and fp32 of another."""
    network, exact, inputs = Network(source), Network(reference), spread(images(), 6)
    with torch.no_grad():
        simulation = Simulation(network, network.quantized(()), inputs)
        return torch.cat([simulation.run(i)[0] for i in inputs]), torch.cat([exact.run(i)[0] for i in inputs])


def test_bias_takes_the_shift_off(source: Source) -> None:
    torch.manual_seed(1)
    with torch.no_grad():  # of one sign, so that their rounding shifts every output
        for layer in (source.module[3], source.module[6]):  # type: ignore[index]
            layer.weight.copy_(torch.rand_like(layer.weight) * 0.2)
            layer.weight[:, 0] = 1.0
    made = corrected(["bias"], source, images(), (), lambda step: None)
    (before, exact), (after, _) = outputs(source, source), outputs(made, source)
    assert (after - exact).mean(0).abs().sum() < 0.5 * (before - exact).mean(0).abs().sum()
    assert "bias" not in dict(source.module[8].named_parameters())  # type: ignore[index]
    assert made.module[8].bias is not None  # type: ignore[index]  # a layer without one gets one


def test_rounding_errs_less_and_stays_when_rounded_again(source: Source) -> None:
    made = corrected(["round"], source, images(), (), lambda step: None)
    (before, exact), (after, _) = outputs(source, source), outputs(made, source)
    assert (after - exact).square().mean() < 0.8 * (before - exact).square().mean()
    for index in (0, 3, 6, 8):
        weight = made.module[index].weight.detach()  # type: ignore[index]
        torch.testing.assert_close(rounded_weight(weight), weight, rtol=1e-6, atol=0)
        levels = weight / weight_scales(weight).view(-1, *[1] * (weight.ndim - 1))
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_norms_are_folded_first(source: Source) -> None:
    made = corrected(["round"], source, images(), (), lambda step: None)
    norm = made.module[1]  # type: ignore[index]
    x = torch.randn(1, 16, 3, 3)
    torch.testing.assert_close(norm(x), x)


def test_descent_is_never_worse_than_the_nearest_levels() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, 300, generator=random) * torch.rand(2, 40, 1, generator=random)
    rows = torch.randn(2, 5, 40, generator=random)
    scales = torch.full_like(rows, 0.5)
    power, cross = x @ x.mT, rows @ x @ x.mT
    found = descended(rows, scales, power, cross, levels=7)

    def error(weights: Tensor) -> float:
        return float(((weights - rows) @ x).square().sum())

    nearest = (rows / scales).round().clamp(-7, 7) * scales
    assert error(found) < 0.9 * error(nearest)
    assert float((found - rows).abs().max()) <= 0.5 + 1e-6
    assert float((found / scales - (found / scales).round()).abs().max()) < 1e-5


def test_ranges_hold_zero_and_clip_what_is_rare() -> None:
    grid = Range.between(0.5, 2.0)
    assert float(grid.rounded(torch.zeros(1))) == 0.0
    samples = Samples()
    samples.add(torch.cat([torch.rand(1_000_000), torch.tensor([20.0])]))
    assert samples.range().scale < 20 / 255
    assert Range.between(0.0, 0.0).scale > 0


def test_every_correction_leaves_networks_alone_that_it_does_not_serve() -> None:
    arrays = [(np.random.default_rng(0).random((1, 3, 8, 8), np.float32),) for _ in range(2)]
    source = from_module(nn.AvgPool2d(2), arrays[0])
    for name in CORRECTIONS:
        assert corrected([name], source, arrays, (), lambda step: None) is source


def test_says_what_it_did_not_understand(source: Source) -> None:
    with pytest.raises(QuantizationError, match="expected some of equalise, smooth"):
        corrected(["sharpen"], source, images(), (), lambda step: None)
    with pytest.raises(QuantizationError, match="no calibration"):
        corrected(["bias"], source, [], (), lambda step: None)
    assert corrected([], source, [], (), lambda step: None) is source


def test_conv1d_and_keyword_arguments() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    arrays = [(random.standard_normal((1, 6, 40), np.float32),) for _ in range(4)]
    net = nn.Sequential(nn.Conv1d(6, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv1d(8, 4, 3, dilation=2))
    told: list[str] = []
    made = corrected(["equalise", "round", "bias"], from_module(net, arrays[0]), arrays, (), told.append)
    assert len(told) == 3 and made.run(arrays[0])[0].shape == net(torch.from_numpy(arrays[0][0])).shape
