"""The network of the diffusion family: a UNet at half resolution, of convolutions and ReLU once its norms are folded.

It enters by pixel-unshuffling and leaves by pixel-shuffling (Shi et al. 2016), joins levels by addition, and
is told time and label by an affine modulation in each block (Perez et al. 2018, "FiLM"), which stays float
when the convolutions become int8.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 16  # of the sines and cosines that tell the network the time


class Block(nn.Module):
    """Two 3×3 convolutions beside the identity, modulated between them by the embedding of time and label."""

    def __init__(self, channels: int, embedding: int, norms: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(channels) if norms else nn.Identity()
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(channels) if norms else nn.Identity()
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        if isinstance(self.second_norm, nn.BatchNorm2d):
            nn.init.zeros_(self.second_norm.weight)  # every block begins as the identity

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.modulation(embedded)[:, :, None, None].chunk(2, dim=1)
        inner = self.first_norm(self.first(F.relu(x)))
        inner = F.relu(inner * (1 + scale) + shift)
        result: Tensor = x + self.second_norm(self.second(inner))
        return result

    @torch.no_grad()
    def fold(self) -> None:
        """Take the norms, in evaluation mode, into the convolutions before them."""
        for name in ("first", "second"):
            conv, norm = getattr(self, name), getattr(self, f"{name}_norm")
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            conv.weight.mul_(factor[:, None, None, None])
            conv.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
            setattr(self, f"{name}_norm", nn.Identity())


class UNet(nn.Module):
    """Noisy images, times and labels → the velocity α·ε − σ·x₀.

    Args of `forward`: sample, batch × channels × side × side, α·x₀ + σ·ε with x₀ in −1…1; time, batch, in 0…1
    (1 is pure noise); label, batch × classes, one-hot, or zeros for no class. `widths` are the channels at a
    half, a quarter, … of the side; `blocks` of each on the way down, `up_blocks` on the way up.
    """

    harmonics: Tensor  # whole numbers, which float16 holds: the weights that ship are rounded to it

    def __init__(
        self,
        channels: int = 1,
        widths: str = "48 80",
        blocks: int = 2,
        up_blocks: int = 1,
        embedding: int = 48,
        classes: int = 10,
        norms: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("harmonics", torch.arange(1.0, FREQUENCIES + 1), persistent=False)
        self.embed_time = nn.Linear(2 * FREQUENCIES, embedding)
        self.embed_label = nn.Linear(classes, embedding, bias=False)
        self.embed = nn.Linear(embedding, embedding)
        sizes = [int(width) for width in widths.split()]
        pairs = list(itertools.pairwise(sizes))

        def stage(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, embedding, norms) for _ in range(count))

        self.head = nn.Conv2d(4 * channels, sizes[0], 3, padding=1)
        self.down = nn.ModuleList(stage(width, blocks) for width in sizes)
        self.shrink = nn.ModuleList(nn.Conv2d(wide, deep, 3, 2, padding=1) for wide, deep in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(deep, 4 * wide, 1) for wide, deep in pairs)
        self.up = nn.ModuleList(stage(wide, up_blocks) for wide, _ in pairs)
        self.tail = nn.Conv2d(sizes[0], 4 * channels, 3, padding=1)
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)  # type: ignore[arg-type]  # a convolution's bias may be None

    def forward(self, sample: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedded = self.embedded(time, label)
        x = self.head(F.pixel_unshuffle(sample, 2))
        skips: list[Tensor] = []
        for index, stage in enumerate(self.down):
            if index:
                skips.append(x)
                x = self.shrink[index - 1](F.relu(x))
            for block in stage:  # type: ignore[attr-defined]  # a ModuleList
                x = block(x, embedded)
        for index in reversed(range(len(skips))):
            x = skips[index] + F.pixel_shuffle(self.grow[index](F.relu(x)), 2)
            for block in self.up[index]:  # type: ignore[attr-defined]
                x = block(x, embedded)
        return F.pixel_shuffle(self.tail(F.relu(x)), 2)

    def embedded(self, time: Tensor, label: Tensor) -> Tensor:
        """Batch × embedding, of the time's sines and cosines and the label."""
        angles = math.pi * time[:, None] * self.harmonics
        waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
        result: Tensor = F.relu(self.embed(F.relu(self.embed_time(waves) + self.embed_label(label))))
        return result

    def folded(self) -> UNet:
        """A copy in the form that ships."""
        net = copy.deepcopy(self).float().eval()
        for module in net.modules():
            if isinstance(module, Block):
                module.fold()
        return net
