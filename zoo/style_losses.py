"""What a stylised picture is judged by: Gram matrices of a network's features, patches, and the palette."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.images import UInt8, opencv
from edgekit.zoo import judging
from edgekit.zoo.classification import PlainNet

LAYERS = (1, 4, 7)  # of cifar-cnn: one at each of its three sizes
SIZES = 3  # the picture itself, its half and its quarter: a stroke is seen up to 160 pixels wide
MARGIN = 2  # cells at the border of each feature map that zeros from outside have touched most
PATCH = 7  # pixels a side
LEVELS = 4  # of the pyramid of patches: 7 to 56 pixels
LUT_BITS = 5


def features(net: PlainNet, image: Tensor) -> list[Tensor]:
    """The maps of LAYERS after ReLU, for each of SIZES: batch × channels × height × width."""
    maps = []
    for size in range(SIZES):
        x = shrunk(image, size)
        for index, layer in enumerate(net.layers[: LAYERS[-1] + 1]):
            x = F.relu(layer(x))
            if index in LAYERS:
                maps.append(x[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN])
    return maps


def grams(maps: Sequence[Tensor]) -> list[Tensor]:
    """Gram matrix of each map, batch × channels × channels: mean products of two channels (Gatys et al. 2016)."""
    flat = [m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps]
    return [(x.transpose(1, 2) @ x).float() / x.shape[1] for x in flat]


def gram_loss(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean over layers and sizes of |G − G'|² / |G'|²: G' is the painting's Gram matrix, G the batch's mean one."""
    losses = []
    for matrices, painting in zip(found, wanted, strict=True):
        mine = matrices.mean(0, keepdim=True)
        losses.append(((mine - painting) ** 2).sum() / (painting**2).sum())
    return torch.stack(losses).mean()


class Patches:
    """The painting's patches of PATCH² pixels at LEVELS sizes, and the sliced Wasserstein distance to them.

    The directions are drawn once, in the painting's half-whitened patch space, so that fine structure
    weighs more than its small variance; each call takes some of them (Heitz et al. 2021, "A Sliced
    Wasserstein Loss for Neural Texture Synthesis", on pixels here).
    """

    def __init__(self, painting: Tensor, bank: int = 512, count: int = 16_384) -> None:
        """`painting`: 1 × 3 × height × width; `bank`: directions at each size, `count`: patches looked at."""
        random = torch.Generator().manual_seed(0)
        self.filters: list[Tensor] = []  # bank × 3 × PATCH × PATCH of each level
        self.wanted: list[Tensor] = []  # bank × count: the painting's values along each direction, sorted
        for level in range(LEVELS):
            found = F.unfold(shrunk(painting, level), PATCH)[0].T
            found = found[torch.randperm(len(found), generator=random)[:count]]
            values, vectors = torch.linalg.eigh(torch.cov(found.T))
            drawn = (vectors * values.clamp_min(1e-5) ** -0.25) @ torch.randn(len(values), bank, generator=random)
            along = found @ drawn
            drawn = drawn / along.std(0)
            self.filters.append(drawn.T.reshape(bank, 3, PATCH, PATCH))
            self.wanted.append((along / along.std(0)).T.sort(1).values)

    def distance(self, image: Tensor, random: torch.Generator, directions: int = 32) -> Tensor:
        """Mean over levels of the squared distance, in units of the painting's variance along each direction."""
        total = image.new_zeros(())
        for level, (filters, wanted) in enumerate(zip(self.filters, self.wanted, strict=True)):
            picked = torch.randint(len(filters), (directions,), generator=random)
            stride = max(1, 4 >> level)
            down, right = torch.randint(stride, (2,), generator=random).tolist()
            mine = F.conv2d(shrunk(image, level)[:, :, down:, right:], filters[picked], stride=stride)
            mine = mine.transpose(0, 1).flatten(1).sort(1).values
            at = ((torch.arange(mine.shape[1]) + 0.5) * wanted.shape[1] / mine.shape[1]).long()
            total = total + F.mse_loss(mine, wanted[picked][:, at])
        return total / LEVELS


def shrunk(image: Tensor, level: int) -> Tensor:
    """The image at 1 / 2^level of its size, by means."""
    return F.avg_pool2d(image, 2**level) if level else image


def palette_map(photos: Sequence[UInt8], painting: UInt8, seed: int = 0, rounds: int = 24) -> UInt8:
    """A table from colour to colour that carries the photos' colours to the painting's.

    Iterative sliced optimal transport (Pitié et al. 2007; Rabin et al. 2011): each round turns the axes at
    random and matches the sorted values along each. One table for all photos: what a network can learn
    from its neighbourhood, and what does not change from frame to frame.

    Returns:
        uint8, (2^LUT_BITS)³ × 3, index red · 2^(2·LUT_BITS) + green · 2^LUT_BITS + blue.
    """
    random = np.random.default_rng(seed)
    mine = np.concatenate([p.reshape(-1, 3)[random.integers(p.shape[0] * p.shape[1], size=200)] for p in photos])
    mine = mine.astype(np.float64)
    pixels = painting.reshape(-1, 3)
    true = pixels[random.integers(len(pixels), size=len(mine))].astype(np.float64)
    steps = (np.arange(2**LUT_BITS) + 0.5) * 2 ** (8 - LUT_BITS)
    table = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    for _ in range(rounds):
        axes = np.linalg.qr(random.normal(size=(3, 3)))[0]
        for axis in axes.T:
            source, target = np.sort(mine @ axis), np.sort(true @ axis)
            for colours in (mine, table):
                along = colours @ axis
                moved = np.interp(along, source, target)
                colours += 0.5 * (moved - along)[:, None] * axis
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)


def recoloured(image: UInt8, table: UInt8) -> UInt8:
    """Every colour replaced by the table's; height × width × 3."""
    index = (image >> (8 - LUT_BITS)).astype(np.int64)
    return table[(index[..., 0] << 2 * LUT_BITS) + (index[..., 1] << LUT_BITS) + index[..., 2]]


def roughness(image: Tensor) -> Tensor:
    """Total variation: mean absolute difference of neighbours."""
    return image.diff(dim=2).abs().mean() + image.diff(dim=3).abs().mean()


def cifar_network() -> PlainNet:
    """The network of the shipped `cifar-cnn`, channels last in memory."""
    net = judging.network("cifar-cnn")
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def shortened(image: UInt8, side: int) -> UInt8:
    """The image shrunk until its shorter side has `side` pixels."""
    cv2 = opencv()
    factor = side / min(image.shape[:2])
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    result: UInt8 = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return result


def to_batch(images: list[UInt8]) -> Tensor:
    """uint8 height × width × 3 → count × 3 × height × width in 0…1."""
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return batch.permute(0, 3, 1, 2).float().div_(255.0)
