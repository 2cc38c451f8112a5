"""Super-resolution ×2 and ×4: a plain 3×3 network with collapsed residual blocks, and its recipe.

The network follows SESR (Bhardwaj et al. 2022, "Collapsible Linear Blocks for Super-Efficient Super
Resolution") and ABPN (Du et al. 2021): every block trains as a wide 3×3 convolution, a 1×1 projection
and an identity, folded in weight space to one 3×3 convolution; the network adds its result to a
nearest-neighbour enlargement of the input (the anchor), which stays float when the rest is int8.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.bundle import Bundle
from edgekit.images import UInt8, photos, resize_bicubic, sheet
from edgekit.manifest import Task
from edgekit.tasks import load
from edgekit.tensors import TensorSpec
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.training import Checkpoint, update_average

if TYPE_CHECKING:  # the converters are imported by `build` alone: a session of this network needs none
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized

LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
DATA = "BSDS500 train + test (Arbeláez et al. 2011), BSD100 left out; Set5 (Bevilacqua et al. 2012) for figures"
BUCKETS = {
    2: ({"height": 64, "width": 64}, {"height": 256, "width": 256}, {"height": 360, "width": 640}),
    4: ({"height": 64, "width": 64}, {"height": 180, "width": 320}),
}
Pair = tuple[UInt8, UInt8]


class SuperResolution(nn.Module):
    """RGB batch × 3 × height × width in 0…1 → batch × 3 × scale·height × scale·width, clamped to 0…1."""

    def __init__(self, scale: int = 2, channels: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.scale = scale
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks))
        self.tail = nn.Conv2d(channels, 3 * scale**2, 3, padding=1)

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on."""
        return 2 + len(self.body)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.head(image))
        for block in self.body:
            x = F.relu(block(x))
        x = self.tail(x) + nearest(image, self.scale)
        return F.pixel_shuffle(x, self.scale).clamp(0.0, 1.0)


def nearest(image: Tensor, scale: int) -> Tensor:
    """Each channel repeated scale² times: what pixel_shuffle turns into the nearest-neighbour image."""
    return torch.cat([image[:, c : c + 1] for c in range(3) for _ in range(scale**2)], dim=1)


class CollapsibleConv(nn.Module):
    """3×3 → `wide` channels → 1×1, plus identity where channels match, without anything non-linear between."""

    def __init__(self, inputs: int, outputs: int, wide: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, wide, 3, bias=False)
        self.project = nn.Conv2d(wide, outputs, 1)
        nn.init.kaiming_normal_(self.expand.weight)
        nn.init.xavier_normal_(self.project.weight, gain=0.2)  # starts near the identity: no dead units
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]
        self.identity = inputs == outputs

    def collapsed(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one 3×3 convolution that equals this block."""
        weight = torch.einsum("ow,wikl->oikl", self.project.weight[:, :, 0, 0], self.expand.weight)
        if self.identity:
            eye = torch.eye(weight.shape[0], dtype=weight.dtype, device=weight.device)
            weight = weight + F.pad(eye[:, :, None, None], (1, 1, 1, 1))
        assert self.project.bias is not None
        return weight, self.project.bias


class TrainingNet(nn.Module):
    """SuperResolution with collapsible blocks; the collapse runs inside forward, so training stays cheap."""

    def __init__(self, scale: int, channels: int, blocks: int, wide: int) -> None:
        super().__init__()
        self.scale = scale
        widths = [3] + [channels] * (blocks + 1) + [3 * scale**2]
        self.layers = nn.ModuleList(CollapsibleConv(i, o, wide) for i, o in itertools.pairwise(widths))

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, CollapsibleConv)
            x = F.conv2d(x, *layer.collapsed(), padding=1)
            if index < len(self.layers) - 1:
                x = F.relu(x)
        return F.pixel_shuffle(x.float() + nearest(image, self.scale), self.scale)

    def plain(self) -> SuperResolution:
        """The network that ships, with every block collapsed."""
        collapsed = [layer.collapsed() for layer in self.layers if isinstance(layer, CollapsibleConv)]
        net = SuperResolution(self.scale, collapsed[0][0].shape[0], len(collapsed) - 2)
        names = ["head", *(f"body.{i}" for i in range(len(collapsed) - 2)), "tail"]
        state = {f"{name}.weight": weight for name, (weight, _) in zip(names, collapsed, strict=True)}
        state |= {f"{name}.bias": bias for name, (_, bias) in zip(names, collapsed, strict=True)}
        net.load_state_dict(state)
        return net.eval()


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    scale: int = 2
    channels: int = 32
    blocks: int = 4
    wide: int = 128
    steps: int = 30_000
    batch: int = 16
    patch: int = 64  # low-resolution pixels
    learning_rate: float = 8e-4
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.999
    float_tail: float = 0.2  # last part of the steps without bfloat16
    seed: int = 0


def train(data: Path, runs: Path, recipe: Recipe) -> SuperResolution:
    """Train on the photos of `data`/bsds_train.zip; returns the averaged network, collapsed.

    An interrupted run continues from its checkpoint in `runs` with the same crops.
    """
    torch.manual_seed(recipe.seed)
    net = TrainingNet(recipe.scale, recipe.channels, recipe.blocks, recipe.wide)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    average = TrainingNet(recipe.scale, recipe.channels, recipe.blocks, recipe.wide)
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    checkpoint = Checkpoint(
        runs / f"sr-x{recipe.scale}.pt", asdict(recipe), {"net": net, "average": average, "optimizer": optimizer}
    )
    done = checkpoint.resume()
    pairs = photo_pairs(data / "bsds_train.zip", recipe.scale) if done < recipe.steps else []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(f"sr-x{recipe.scale}", total=recipe.steps, completed=done)
        for step, (low, high) in crops(pairs, recipe, start=done):
            loss = _step(net, optimizer, low, high, recipe, step)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"sr-x{recipe.scale} loss {loss:.4f}")
            if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                progress.console.print(f"sr-x{recipe.scale} step {step + 1} of {recipe.steps}, loss {loss:.4f}")
    return average.plain()


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, low: Tensor, high: Tensor, recipe: Recipe, step: int
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = _rate(recipe, step)
    with torch.autocast("cpu", torch.bfloat16, enabled=step < recipe.steps * (1 - recipe.float_tail)):
        result = net(low.to(memory_format=torch.channels_last))
    error = result - high
    weights = error.new_tensor(LUMA)[None, :, None, None]
    loss = error.abs().mean() + (error * weights).sum(1).abs().mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()
    return float(loss.detach())


def _rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up over 500 steps, then a cosine to 1 % of the rate."""
    if step < 500:
        return recipe.learning_rate * (step + 1) / 500
    progress = (step - 500) / max(1, recipe.steps - 500)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * progress))))


def photo_pairs(source: Path, scale: int) -> list[Pair]:
    """(low, high) uint8 pairs of every photo in a folder or .zip, at full size and shrunk to 75 % and 50 %."""
    pairs = []
    for _, photo in photos(source):
        for size in (1.0, 0.75, 0.5):
            height, width = (int(n * size) // scale * scale for n in photo.shape[:2])
            high = photo[:height, :width] if size == 1.0 else resize_bicubic(photo, height, width)
            pairs.append((resize_bicubic(high, height // scale, width // scale), high))
    return pairs


def crops(pairs: list[Pair], recipe: Recipe, start: int = 0) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Batches of random crops under the eight flips and turns; step n is the same in every run."""
    patch, scale = recipe.patch, recipe.scale
    large = [pair for pair in pairs if min(pair[0].shape[:2]) >= patch]
    areas = np.array([p[0].shape[0] * p[0].shape[1] for p in large], dtype=np.float64)
    for step in range(start, recipe.steps):
        random = np.random.default_rng((recipe.seed, step))
        lows: list[UInt8] = []
        highs: list[UInt8] = []
        for index in random.choice(len(large), recipe.batch, p=areas / areas.sum()):
            low, high = large[index]
            y, x = (int(random.integers(n - patch + 1)) for n in low.shape[:2])
            turn, flip = int(random.integers(4)), bool(random.integers(2))
            for out, image, k in ((lows, low, 1), (highs, high, scale)):
                crop = np.rot90(image[y * k : (y + patch) * k, x * k : (x + patch) * k], turn)
                out.append(crop[:, ::-1] if flip else crop)
        yield step, (_to_tensor(lows), _to_tensor(highs))


def _to_tensor(images: list[np.ndarray]) -> Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(np.stack(images)))
    return batch.permute(0, 3, 1, 2).float().div_(255.0)


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """Train, and publish with the quality on Set5."""
    from edgekit.quantization import calibration
    from edgekit.quantization.metrics.pictures import UpscalePsnr

    net = train(data, place.runs, recipe)
    crops_of = calibration.from_photos(data / "bsds_train.zip", image_specs(recipe.scale)[0], count=64, side=128)
    set5 = UpscalePsnr.of_photos(data / "set5.zip", recipe.scale, "Set5")
    trained = Trained(
        {"model": net_source(net, probes=[arrays[0] for arrays in crops_of[::16]])},
        Task("upscale", {"scale": recipe.scale, "halo": net.halo}),
        f"Super-resolution ×{recipe.scale}, {sum(p.numel() for p in net.parameters()):,} parameters",
        DATA,
        {"model": crops_of},
        set5,
        max_drop=0.15,
        sheet=lambda bundle: comparison(bundle, set5.pairs),
        figures=lambda bundle: {"bicubic_psnr_y_db": round(set5.bicubic(), 2)},
        buckets=BUCKETS[recipe.scale],
    )
    return publish(f"sr-x{recipe.scale}", trained, recipe, place)


def comparison(bundle: Bundle, pairs: Sequence[Pair], side: int = 160) -> UInt8:
    """For each photo its middle enlarged bicubically, by the network in fp32 and in int8, and the photo itself."""
    with load(bundle, precision="fp32") as exact, load(bundle, precision="int8") as small:
        rows = [(resize_bicubic(low, *high.shape[:2]), exact(low), small(low), high) for low, high in pairs]
    return sheet([_middle(picture, side) for row in rows for picture in row], columns=4, enlarge=1)


def _middle(picture: UInt8, side: int) -> UInt8:
    top, left = ((n - side) // 2 for n in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def net_source(net: SuperResolution, probes: list[np.ndarray]) -> Source:
    """The network as `export` takes it; probes are batch × 3 × height × width in 0…1."""
    from edgekit.exporters import Source

    inputs, outputs = image_specs(net.scale)
    settings = {"scale": net.scale, "channels": net.head.out_channels, "blocks": len(net.body)}
    return Source(net, inputs, outputs, tuple((p,) for p in probes), "super_resolution", settings)


def image_specs(scale: int) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes in and what comes out: float32 RGB in 0…1, of any height and width."""
    small = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0))
    large = TensorSpec("upscaled", "float32", (1, 3, f"{scale}*height", f"{scale}*width"), "NCHW", (0.0, 1.0))
    return (small,), (large,)


X2 = ZooRecipe(Recipe(scale=2, steps=45_000, patch=64), build)
X4 = ZooRecipe(Recipe(scale=4, steps=30_000, patch=48), build)
