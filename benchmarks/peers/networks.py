"""Networks of outside with random weights, small ones of the families that people bring."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.exporters.sources import Source, from_module
from edgekit.tensors import Array


def _block(given: int, made: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(given, made, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(made), nn.ReLU6())


class Inverted(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.body = nn.Sequential(_block(width, wide, 1), _block(wide, wide, groups=wide), nn.Conv2d(wide, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = x + self.body(x)
        return summed


def mobile() -> nn.Module:
    """As MobileNetV2: depthwise convolutions, ReLU6, residuals (Sandler et al. 2018)."""
    body = [_block(3, 24, stride=2), Inverted(24), _block(24, 48, stride=2), Inverted(48), Inverted(48)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def dcgan() -> nn.Module:
    """As DCGAN: transposed convolutions with batch norms (Radford et al. 2016)."""
    layers: list[nn.Module] = [nn.Unflatten(1, (64, 1, 1))]
    for given, made, stride in ((64, 128, 1), (128, 64, 2), (64, 32, 2), (32, 16, 2)):
        padding = 0 if stride == 1 else 1
        layers += [nn.ConvTranspose2d(given, made, 4, stride, padding, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh())


def compact() -> nn.Module:
    """As SRVGGNet: convolutions with PReLU, then pixels out of channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.PReLU(32)]
    for _ in range(4):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(32)]
    return nn.Sequential(*layers, nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))


class Normed(nn.Module):
    """As the networks of Johnson et al. 2016 for style: instance norms, residuals, resized convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 9, padding=4), nn.InstanceNorm2d(16, affine=True), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32, affine=True), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.InstanceNorm2d(32, affine=True), nn.ReLU())
        self.tail = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(32, 3, 9, padding=4), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(self.stem(image))
        made: Tensor = self.tail(x + self.body(x))
        return made


class Attending(nn.Module):
    """A transformer's encoder: layer norms, attention, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(32, 128)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(128, 4, 256, activation="gelu", batch_first=True) for _ in range(2))
        )
        self.head = nn.Linear(128, 32)

    def forward(self, rows: Tensor) -> Tensor:
        made: Tensor = self.head(self.layers(self.table(rows)))
        return made


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MobileNetV2-like 64²": (mobile, (1, 3, 64, 64)),
    "DCGAN 64²": (dcgan, (1, 64)),
    "PReLU ×2 96²": (compact, (1, 3, 96, 96)),
    "InstanceNorm 64²": (Normed, (1, 3, 64, 64)),
    "Transformer T=64": (Attending, (1, 64, 32)),
}


def drawn(name: str, count: int) -> tuple[Source, list[tuple[Array, ...]]]:
    """A network, and inputs: smooth pictures with noise for those of pictures, normal numbers for the others."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    random = np.random.default_rng(0)
    inputs: list[tuple[Array, ...]] = [(_input(shape, random),) for _ in range(count)]
    return from_module(module.eval(), list(inputs[0])), inputs


def _input(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if len(shape) != 4:
        return random.standard_normal(shape).astype(np.float32)
    coarse = random.random((shape[0], shape[1], 8, 8)).repeat(shape[2] // 8, 2).repeat(shape[3] // 8, 3)
    return np.clip(coarse + 0.05 * random.standard_normal(shape), 0, 1).astype(np.float32)
