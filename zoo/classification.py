"""Image classification on CIFAR-10: a plain 3×3 network trained with RepVGG blocks, and its recipe.

Every block trains as a 3×3 convolution, a 1×1 convolution and an identity, each with batch
normalization (Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again"); they are folded to
one 3×3 convolution with ReLU, the form that int8 kernels of every engine run fastest.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.errors import InputError
from edgekit.images import UInt8, decode_image, to_tensor
from edgekit.manifest import Task
from edgekit.tensors import TensorSpec
from edgekit.zoo.training import Checkpoint, ZooRecipe, update_average

if TYPE_CHECKING:
    from edgekit.quantization import Quantized

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WIDTHS = "32 32 64/2 64 64 128/2 128 128 128"  # one 3×3 convolution each; /2 halves the size
DATA = "CIFAR-10 (Krizhevsky 2009), re-encoded as JPEG: 50,000 to train, 10,000 to test"


class PlainNet(nn.Module):
    """RGB batch × 3 × 32 × 32 in 0…1 → batch × classes logits; convolutions and ReLU alone."""

    def __init__(self, widths: str = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        layers, inputs = [], 3
        for outputs, stride in parsed(widths):
            layers.append(nn.Conv2d(inputs, outputs, 3, stride, padding=1))
            inputs = outputs
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.layers:
            x = F.relu(layer(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class RepBlock(nn.Module):
    """3×3, 1×1 and identity, each with batch normalization, summed: one 3×3 convolution after training."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.wide = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(outputs)
        self.point = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.point_norm = nn.BatchNorm2d(outputs)
        self.identity = nn.BatchNorm2d(outputs) if inputs == outputs and stride == 1 else None

    def forward(self, x: Tensor) -> Tensor:
        result = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x))
        if self.identity is not None:
            result = result + self.identity(x)
        return F.relu(result)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one 3×3 convolution that equals the three branches in evaluation mode."""
        wide, wide_bias = _fold(self.wide.weight, self.wide_norm)
        point, point_bias = _fold(F.pad(self.point.weight, (1, 1, 1, 1)), self.point_norm)
        weight, bias = wide + point, wide_bias + point_bias
        if self.identity is not None:
            eye = torch.eye(weight.shape[0])[:, :, None, None]
            kernel, shift = _fold(F.pad(eye, (1, 1, 1, 1)), self.identity)
            weight, bias = weight + kernel, bias + shift
        return weight, bias


class TrainingNet(nn.Module):
    """PlainNet with RepBlocks."""

    def __init__(self, widths: str = WIDTHS, classes: int = 10) -> None:
        super().__init__()
        self.widths = widths
        pairs = list(parsed(widths))
        inputs = [3, *(outputs for outputs, _ in pairs[:-1])]
        self.blocks = nn.ModuleList(RepBlock(i, o, s) for i, (o, s) in zip(inputs, pairs, strict=True))
        self.head = nn.Linear(pairs[-1][0], classes)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    @torch.no_grad()
    def plain(self) -> PlainNet:
        """The network that ships."""
        net = PlainNet(self.widths, self.head.out_features)
        state = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        for index, block in enumerate(self.blocks):
            assert isinstance(block, RepBlock)
            state[f"layers.{index}.weight"], state[f"layers.{index}.bias"] = block.folded()
        net.load_state_dict(state)
        return net.eval()


def parsed(widths: str) -> Iterator[tuple[int, int]]:
    """ "32 64/2" → (32, 1), (64, 2): channels and stride of each layer."""
    for part in widths.split():
        channels, _, stride = part.partition("/")
        yield int(channels), int(stride or 1)


def _fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    widths: str = WIDTHS
    epochs: int = 18
    batch: int = 256
    learning_rate: float = 0.4  # SGD with Nesterov momentum, one cycle
    warm_up: float = 0.2
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    ema: float = 0.998
    seed: int = 0


def load_split(data: Path, split: str) -> tuple[UInt8, np.ndarray]:
    """Images, count × 32 × 32 × 3, and labels of "train" or "test" from cifar10.zip."""
    with zipfile.ZipFile(data / "cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if f"{split}/" in n and n.endswith(".jpg"))
        if not names:
            raise InputError(f"'{data / 'cifar10.zip'}' has no images under {split}/")
        images = np.stack([decode_image(archive.read(name), name)[:, :, :3] for name in names])
    return images, np.array([LABELS.index(name.split("/")[-2]) for name in names])


def train(data: Path, runs: Path, recipe: Recipe) -> PlainNet:
    """Train on cifar10.zip; returns the averaged network, folded. Resumes from its checkpoint in `runs`."""
    torch.manual_seed(recipe.seed)
    net, average = TrainingNet(recipe.widths), TrainingNet(recipe.widths)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(_groups(net, recipe), lr=0.1, momentum=0.9, nesterov=True)
    checkpoint = Checkpoint(
        runs / "cifar-cnn.pt", asdict(recipe), {"net": net, "average": average, "optimizer": optimizer}
    )
    images, labels = load_split(data, "train")
    per_epoch = len(images) // recipe.batch
    total, done = recipe.epochs * per_epoch, checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task("cifar-cnn", total=total, completed=done)
        for step, (batch, truth) in batches(images, labels, recipe, start=done):
            loss = _step(net, optimizer, batch, truth, recipe, step / total)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"cifar-cnn loss {loss:.3f}")
            if checkpoint.save(step + 1, last=step + 1 == total) and not progress.console.is_terminal:
                progress.console.print(f"cifar-cnn step {step + 1} of {total}, loss {loss:.3f}")
    settle_norms(average, images)
    return average.plain()


def batches(
    images: UInt8, labels: np.ndarray, recipe: Recipe, start: int = 0
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Shuffled batches under flips and shifts of up to four pixels; step n is the same in every run."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    per_epoch = len(images) // recipe.batch
    for step in range(start, recipe.epochs * per_epoch):
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(images))
        picked = order[index * recipe.batch : (index + 1) * recipe.batch]
        random = np.random.default_rng((recipe.seed, epoch, index))
        y, x = random.integers(0, 9, (2, recipe.batch))
        rows, columns = y[:, None, None] + np.arange(32)[:, None], x[:, None, None] + np.arange(32)
        crops = padded[picked[:, None, None], rows, columns]
        flipped = random.random(recipe.batch) < 0.5
        crops[flipped] = crops[flipped, :, ::-1]
        yield step, (to_batch(crops), torch.from_numpy(labels[picked]))


def to_batch(images: UInt8) -> Tensor:
    """count × height × width × 3 in 0…255 → count × 3 × height × width in 0…1, channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255.0)


@torch.no_grad()
def settle_norms(net: TrainingNet, images: UInt8, count: int = 5_000) -> None:
    """Measure the statistics of batch normalization anew: those of averaged weights are not the average's."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    picked = np.random.default_rng(0).permutation(len(images))[:count]
    for part in np.split(picked, max(1, count // 500)):
        net(to_batch(images[part]))
    net.eval()


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Weights decay; norms and biases do not."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: Tensor, truth: Tensor, recipe: Recipe, at: float
) -> float:
    rate = at / recipe.warm_up if at < recipe.warm_up else (1 - at) / (1 - recipe.warm_up)
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * max(rate, 1e-3)
    net.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(batch)
    loss = F.cross_entropy(logits.float(), truth, label_smoothing=recipe.smoothing)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
    optimizer.step()
    return float(loss.detach())


def build(data: Path, runs: Path, out: Path, recipe: Recipe, progress: Callable[[str], None]) -> Quantized:
    """The whole recipe: train, export to three formats, quantize, measure on the test set, write the bundle."""
    from edgekit.exporters import ExportOptions, Source, export
    from edgekit.quantization import QuantizeOptions, quantize
    from edgekit.quantization.metrics import TopOneAccuracy

    net = train(data, runs, recipe)
    image = TensorSpec("image", "float32", (1, 3, 32, 32), "NCHW", (0.0, 1.0))
    logits = TensorSpec("logits", "float32", (1, len(LABELS)))
    seen, _ = load_split(data, "train")
    calibration = [(to_tensor(seen[i], image),) for i in range(0, len(seen), len(seen) // 256)]
    source = Source(
        net, (image,), (logits,), tuple(calibration[:4]), "classification", {"widths": recipe.widths, "classes": 10}
    )
    options = ExportOptions(
        task=Task("classify", {"labels": list(LABELS), "height": 32, "width": 32}),
        summary=f"CIFAR-10 classifier, {sum(p.numel() for p in net.parameters()):,} parameters",
        licence="Apache-2.0",
        provenance={"recipe": "zoo/classification.py", "settings": asdict(recipe), "data": DATA},
        progress=progress,
    )
    bundle = export(source, out, options=options)
    test = TopOneAccuracy(*load_split(data, "test"), data="CIFAR-10 test, 10,000 images")
    return quantize(bundle, calibration, test, out=out, options=QuantizeOptions(max_drop=0.5, progress=progress))


CIFAR = ZooRecipe(Recipe(), build)
