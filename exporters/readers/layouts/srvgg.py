"""Real-ESRGAN's compact network: plain 3×3 convolutions, added to the nearest-neighbour enlargement."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import InputError
from edgekit.exporters.readers.layouts.layout import Layout, Settings, Shapes, Use, enlarged, upscaling, whole_root

ACTIVATIONS = ("prelu", "relu", "leakyrelu")


class SrvggNet(nn.Module):
    """RGB batch × 3 × height × width in 0…1 → batch × 3 × scale·height × scale·width, not clamped.

    `convs` convolutions of `channels` lie between the first and the last, each with an activation after it.
    """

    def __init__(self, scale: int = 4, channels: int = 64, convs: int = 16, activation: str = "prelu") -> None:
        super().__init__()
        self.scale, self.convs = scale, convs
        layers: list[nn.Module] = []
        for index in range(convs + 1):
            layers += [nn.Conv2d(channels if index else 3, channels, 3, padding=1), _activation(activation, channels)]
        self.body = nn.ModuleList([*layers, nn.Conv2d(channels, 3 * scale**2, 3, padding=1)])

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on."""
        return self.convs + 2

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, self.scale) + enlarged(image, self.scale, "nearest")


def _activation(name: str, channels: int) -> nn.Module:
    made: dict[str, nn.Module] = {"prelu": nn.PReLU(channels), "relu": nn.ReLU(), "leakyrelu": nn.LeakyReLU(0.1)}
    return made[name]


def settings(shapes: Shapes, asked: Mapping[str, object], name: str) -> Settings | None:
    """Channels, convolutions and scale; the activation leaves its slopes in the file, or nothing at all."""
    found = [re.fullmatch(r"body\.(\d{1,4})\.(weight|bias)", key) for key in shapes]
    if not found or not all(found):
        return None
    last = max(int(match[1]) for match in found if match)
    if any(len(shapes.get(f"body.{index}.weight", ())) != 4 for index in range(0, last + 1, 2)):
        return None
    scale = whole_root(shapes[f"body.{last}.weight"][0] // 3)
    channels, planes = shapes["body.0.weight"][:2]
    if last % 2 or scale is None or planes != 3:
        return None
    activation = "prelu" if "body.1.weight" in shapes else asked.get("activation")
    if activation not in ACTIVATIONS:
        raise InputError(
            f"'{name}' is a compact network of Real-ESRGAN without PReLU, and its file does not say with what instead: "
            "state it (--setting activation=relu, or leakyrelu)"
        )
    return {"scale": scale, "channels": channels, "convs": last // 2 - 1, "activation": str(activation)}


def use(net: nn.Module) -> Use:
    assert isinstance(net, SrvggNet)
    return upscaling(net.scale, net.halo)


SRVGG = Layout(
    title="Real-ESRGAN compact (SRVGGNetCompact)",
    family="srvgg",
    keys="body.0.weight, body.0.bias, body.1.weight, …",
    paper="Wang et al. 2021, Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
    repository="https://github.com/xinntao/Real-ESRGAN",
    settings=settings,
    use=use,
)
