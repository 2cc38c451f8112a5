"""Equalisation and smoothing: the same function in fp32, less lost in int8; which channels can be scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.exporters.sources import Source, from_module
from edgekit.quantization.correction import corrected, default, judge
from edgekit.quantization.correction.network import Network
from edgekit.quantization.correction.paths import Place, reshaped
from edgekit.quantization.correction.simulation import Simulation, snr_db
from edgekit.quantization.correction.spaces import spaces

Inputs = list[tuple[np.ndarray, ...]]


def images(side: int, count: int = 8) -> Inputs:
    random = np.random.default_rng(0)
    return [(random.random((1, 3, side, side), np.float32) * (i + 1) / count,) for i in range(count)]


def widened(net: nn.Module, spread: float = 1.5) -> nn.Module:
    """Batch norms that make channels of very different size."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5, generator=random)
                module.running_var.uniform_(0.5, 2, generator=random)
                module.weight.copy_(torch.exp(spread * torch.randn(module.weight.shape, generator=random)))
                module.bias.copy_(module.weight * torch.randn(module.weight.shape, generator=random) * 0.5)
    return net.eval()


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, act: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * inputs
        self.net = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.identity = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return x + result if self.identity else result


class MobileLike(nn.Module):
    def __init__(self, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act())
        self.body = nn.Sequential(Bottleneck(8, 12, act), Bottleneck(12, 12, act))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(F.adaptive_avg_pool2d(F.relu(self.body(self.stem(x))), 1).flatten(1))
        return result


class Attention(nn.Module):
    """A pre-norm block with outlier channels, as large language models have them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        with torch.no_grad():
            for norm, readers in ((self.first, (self.query, self.key, self.value)), (self.second, (self.up,))):
                norm.weight[:3] *= 40
                for reader in readers:
                    reader.weight[:, :3] /= 6

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        x = x + self.out(F.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y)))
        result: Tensor = x + self.down(F.gelu(self.up(self.second(x))))
        return result


def int8_db(source: Source, reference: Source, calibration: Inputs) -> float:
    """SNR of a source's simulated int8 against another's fp32."""
    inputs = [[torch.from_numpy(a) for a in arrays] for arrays in calibration]
    network, exact = Network(source), Network(reference)
    with torch.no_grad():
        simulation = Simulation(network, network.quantized(()), inputs)
        return snr_db([simulation.run(i) for i in inputs], [exact.run(i) for i in inputs])


def error(source: Source, reference: Source, calibration: Inputs) -> float:
    """Largest difference in fp32, as a part of the largest value."""
    pairs = [(source.run(a)[0], reference.run(a)[0]) for a in calibration]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def test_equalisation_keeps_the_function_and_saves_int8() -> None:
    torch.manual_seed(0)
    calibration = images(24)
    net = widened(MobileLike(), 2.0)
    source = from_module(net, calibration[0])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made = corrected(["equalise"], source, calibration, (), lambda step: None)
    assert error(made, source, calibration) < 1e-5
    assert int8_db(made, source, calibration) > int8_db(source, source, calibration) + 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_relu6_clips_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "GAIN_DB", -999.0)
    torch.manual_seed(0)
    calibration = images(24)
    source = from_module(widened(MobileLike(nn.ReLU6), 1.5), calibration[0])
    made = corrected(["equalise"], source, calibration, (), lambda step: None)
    assert made is not source and error(made, source, calibration) < 1e-5


def test_smoothing_keeps_the_function_and_tames_outliers() -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    calibration = [(random.standard_normal((1, 16, 32), np.float32),) for _ in range(8)]
    source = from_module(Attention(), calibration[0])
    made = corrected(["smooth"], source, calibration, (), lambda step: None)
    assert error(made, source, calibration) < 1e-5
    assert int8_db(made, source, calibration) > int8_db(source, source, calibration) + 6


def test_free_sizes_and_names_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    net[0].weight.data[:2] *= 30
    calibration = images(16)
    free = {"image": {2: "height", 3: "width"}}
    source = from_module(net, calibration[0], dynamic=free)
    made = corrected(["equalise", "bias"], source, calibration, (), lambda step: None)
    assert made.inputs == source.inputs and list(made.module.state_dict()) == list(net.state_dict())
    assert made.run([np.zeros((1, 3, 24, 40), np.float32)])[0].shape == (1, 3, 24, 40)


def test_linear_pairs_and_what_is_flattened() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.leaky_relu(self.conv(x), 0.1), 1)
            result: Tensor = self.last(F.relu(self.hidden(x.flatten(1))))
            return result

    torch.manual_seed(0)
    calibration = images(8)
    net = Flattened()
    net.conv.weight.data[0] *= 50
    net.hidden.weight.data[:, :36] /= 50
    net.hidden.weight.data[:2] *= 50
    net.last.weight.data[:, :2] /= 50
    source = from_module(net, calibration[0])
    found = spaces(Network(source))
    assert [(s.size, s.names()) for s in found] == [(4, "conv → hidden"), (8, "hidden → last")]
    assert found[0].takers[0][1] == Place(1, 0, 36)
    made = corrected(["equalise"], source, calibration, (), lambda step: None)
    assert made is not source and error(made, source, calibration) < 1e-5


def test_concatenation_grouped_and_transposed() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
            self.mixed = nn.Conv2d(10, 8, 3, padding=1, groups=2)
            self.up = nn.ConvTranspose2d(8, 3, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([F.relu(self.a(x)), self.b(x)], 1)
            result: Tensor = self.up(F.interpolate(F.relu(self.mixed(y)), scale_factor=2.0))
            return result

    torch.manual_seed(0)
    calibration = images(8)
    net = Joined()
    net.a.weight.data[1] *= 40
    net.b.weight.data[3] *= 40
    net.mixed.weight.data[5] *= 40
    source = from_module(net, calibration[0])
    network = Network(source)
    assert {s.names() for s in spaces(network)} == {"a → mixed", "b → mixed", "mixed → up"}
    made = corrected(["equalise"], source, calibration, (), lambda step: None)
    assert error(made, source, calibration) < 1e-5


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 3, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 3, 3)),
        nn.Conv2d(3, 4, 3),
        nn.AvgPool2d(2),
    ],
)
def test_where_nothing_applies_the_network_stays(net: nn.Module) -> None:
    calibration, told = images(8), list[str]()
    source = from_module(net, calibration[0])
    assert corrected(["equalise", "smooth"], source, calibration, (), told.append) is source
    assert len(told) == 2 and all("stays as it is" in step for step in told)
    assert "equalise" not in default(source)


def test_one_weight_of_two_layers_is_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(F.relu(self.conv(x)))
            return result

    calibration = images(8)
    source = from_module(Tied(), calibration[0])
    assert not spaces(Network(source))
    assert corrected(["equalise"], source, calibration, (), lambda step: None) is source


def test_layers_in_float_are_not_served() -> None:
    calibration = images(8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3))
    source = from_module(net, calibration[0])
    assert corrected(["equalise"], source, calibration, ("*",), lambda step: None) is source


def test_kinds_of_networks() -> None:
    torch.manual_seed(0)
    assert default(from_module(widened(MobileLike()), images(24)[0]))[:1] == ("equalise",)
    text = from_module(Attention(), [np.zeros((1, 4, 32), np.float32)])
    assert "smooth" in default(text) and "equalise" not in default(text)
    assert default(from_module(nn.AvgPool2d(2), images(8)[0])) == ()


def test_channels_are_followed_through_new_shapes() -> None:
    assert reshaped((2, 4, 3, 3), (2, 36), Place(1)) == Place(1, 0, 9)
    assert reshaped((1, 4, 1, 1), (1, 4), Place(1)) == Place(1)
    assert reshaped((2, 5, 8), (10, 8), Place(2)) == Place(1)
    assert reshaped((2, 5, 8), (2, 5, 2, 4), Place(2)) is None


def test_replaced_sources_share_no_answers() -> None:
    calibration = images(8)
    source = from_module(nn.Conv2d(3, 4, 3), calibration[0])
    source.answers({})
    made = corrected(["bias"], source, calibration, (), lambda step: None)
    assert made is source or made.memo is not source.memo
    assert replace(source).module is source.module
