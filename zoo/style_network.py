"""The stylizer's network: convolutions and ReLU alone when it ships, with norms to fold while it trains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = nn.BatchNorm2d | nn.InstanceNorm2d
NORMS: dict[str, type[Norm]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


class StyleNet(nn.Module):
    """RGB batch × 3 × height × width in 0…1, both multiples of 4 → the same shape, clamped to 0…1.

    `thin` channels at half the size, `channels` at a quarter, where `blocks` 3×3 convolutions paint.
    """

    def __init__(self, channels: int = 48, thin: int = 16, blocks: int = 6) -> None:
        super().__init__()
        widths = layer_widths(channels, thin, blocks)[1:]
        first = nn.Conv2d(3, thin, 6, 2, padding=2)  # 3×3 of cells of 2×2 pixels
        self.layers = nn.ModuleList([first, *(nn.Conv2d(i, o, 3, stride, padding=1) for i, o, stride in widths)])

    @property
    def halo(self) -> int:
        """Pixels on each side that an output pixel depends on."""
        blocks = len(self.layers) - 5
        return 4 * blocks + 16

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for index, layer in enumerate(self.layers):
            x = layer(enlarged(x, index, len(self.layers)))
            if index < len(self.layers) - 1:
                x = F.relu(x)
        return F.pixel_shuffle(x, 2).clamp(0.0, 1.0)


def layer_widths(channels: int, thin: int, blocks: int) -> list[tuple[int, int, int]]:
    """(inputs, outputs, stride) of each 3×3 convolution; the first takes cells of 2×2 pixels as channels."""
    return [
        (12, thin, 1),
        (thin, channels, 2),
        *[(channels, channels, 1)] * blocks,
        (channels, thin, 1),
        (thin, thin, 1),
        (thin, 12, 1),
    ]


def enlarged(x: Tensor, index: int, count: int) -> Tensor:
    """What layer `index` of `count` takes: the third from the end works at twice the size."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if index == count - 3 else x


class Block(nn.Module):
    """3×3 convolution, norm, and identity where channels match: one 3×3 convolution once the norm is fixed."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.identity = inputs == outputs and stride == 1
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear" if self.identity else "relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.norm: Norm | None = NORMS[norm](outputs, affine=True, track_running_stats=True) if norm != "none" else None
        if self.identity:
            scaled = self.conv.weight if self.norm is None else self.norm.weight
            scaled.data.mul_(0.4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(x)
        if self.norm is not None:
            result = self.norm(result)
        return result + x if self.identity else result

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that equals this block with its statistics fixed."""
        weight, bias = self.conv.weight.data, self.conv.bias
        assert bias is not None
        if self.norm is not None:
            assert self.norm.running_mean is not None and self.norm.running_var is not None
            factor = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
            weight = weight * factor[:, None, None, None]
            bias = (bias - self.norm.running_mean) * factor + self.norm.bias
        if self.identity:
            weight = weight + F.pad(torch.eye(weight.shape[0])[:, :, None, None], (1, 1, 1, 1))
        return weight, bias


class TrainingNet(nn.Module):
    """StyleNet made of Blocks; the last one has no norm, and nothing is clamped."""

    def __init__(self, channels: int, thin: int, blocks: int, norm: str) -> None:
        super().__init__()
        self.settings = (channels, thin, blocks)
        widths = layer_widths(channels, thin, blocks)
        first = [Block(*width, norm=norm) for width in widths[:-1]]
        last = Block(*widths[-1], norm="none")
        weight, bias = last.folded()
        last.conv.weight.data = 0.3 * weight[::4].repeat_interleave(4, 0)  # four alike pixels: no grid to unlearn
        bias.data.fill_(0.5)
        self.layers = nn.ModuleList([*first, last])

    def forward(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, 2)
        for index, layer in enumerate(self.layers):
            x = layer(enlarged(x, index, len(self.layers)))
            if index < len(self.layers) - 1:
                x = F.relu(x)
        return F.pixel_shuffle(x, 2).float()

    @torch.no_grad()
    def plain(self) -> StyleNet:
        """The network that ships."""
        net = StyleNet(*self.settings)
        state = {}
        for index, block in enumerate(self.layers):
            assert isinstance(block, Block)
            weight, bias = block.folded()
            state[f"layers.{index}.weight"] = weight if index else F.pixel_shuffle(weight, 2)
            state[f"layers.{index}.bias"] = bias
        net.load_state_dict(state)
        return net.eval()
