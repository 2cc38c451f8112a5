"""Image classification: a plain 3×3 network trained with RepVGG blocks, and its recipes for CIFAR-10 and MNIST.

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
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, as_uint8, decode_image, sheet, to_tensor
from edgekit.manifest import Task
from edgekit.tasks import load
from edgekit.tensors import TensorSpec
from edgekit.zoo import digits
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.training import Checkpoint, update_average

if TYPE_CHECKING:
    from edgekit.quantization import Quantized

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WIDTHS = "32 32 64/2 64 64 128/2 128 128 128"  # one 3×3 convolution each; /2 halves the size
Labelled = tuple[UInt8, npt.NDArray[np.int64]]


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
        logits: Tensor = self.head(self.features(image))
        return logits

    def features(self, image: Tensor) -> Tensor:
        """The vector that the last layer decides on, batch × channels: what Fréchet distances are measured in."""
        x = image
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.mean((2, 3))


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

    name: str = "cifar-cnn"
    images: str = "cifar10"  # one of SETS
    widths: str = WIDTHS
    epochs: int = 18
    batch: int = 256
    learning_rate: float = 0.4  # SGD with Nesterov momentum, one cycle
    warm_up: float = 0.2
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    ema: float = 0.998
    shift: int = 4  # pixels, at most, to every side
    flips: bool = True
    turn: float = 0.0  # degrees, at most, to either side
    seed: int = 0


def load_split(data: Path, split: str) -> Labelled:
    """Images, count × 32 × 32 × 3, and labels of "train" or "test" from cifar10.zip."""
    with zipfile.ZipFile(data / "cifar10.zip") as archive:
        names = sorted(n for n in archive.namelist() if f"{split}/" in n and n.endswith(".jpg"))
        if not names:
            raise InputError(f"'{data / 'cifar10.zip'}' has no images under {split}/")
        images = np.stack([decode_image(archive.read(name), name)[:, :, :3] for name in names])
    return images, np.array([LABELS.index(name.split("/")[-2]) for name in names])


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: `load(data, "train" or "test")` gives count × 32 × 32 × (1 or 3) in uint8."""

    title: str
    about: str
    labels: tuple[str, ...]
    load: Callable[[Path, str], Labelled]


SETS = {
    "cifar10": ImageSet(
        "CIFAR-10",
        "CIFAR-10 (Krizhevsky 2009), re-encoded as JPEG: 50,000 to train, 10,000 to test",
        LABELS,
        load_split,
    ),
    "mnist": ImageSet("MNIST", digits.DATA, digits.LABELS, digits.load_digits),
}


def train(data: Path, runs: Path, recipe: Recipe) -> PlainNet:
    """Train on the recipe's images; returns the averaged network, folded. Resumes from its checkpoint in `runs`."""
    torch.manual_seed(recipe.seed)
    images, labels = SETS[recipe.images].load(data, "train")
    classes = len(SETS[recipe.images].labels)
    net, average = TrainingNet(recipe.widths, classes), TrainingNet(recipe.widths, classes)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(_groups(net, recipe), lr=0.1, momentum=0.9, nesterov=True)
    checkpoint = Checkpoint(
        runs / f"{recipe.name}.pt", asdict(recipe), {"net": net, "average": average, "optimizer": optimizer}
    )
    per_epoch = len(images) // recipe.batch
    total, done = recipe.epochs * per_epoch, checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(recipe.name, total=total, completed=done)
        for step, (batch, truth) in batches(images, labels, recipe, start=done):
            loss = _step(net, optimizer, batch, truth, recipe, step / total)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"{recipe.name} loss {loss:.3f}")
            if checkpoint.save(step + 1, last=step + 1 == total) and not progress.console.is_terminal:
                progress.console.print(f"{recipe.name} step {step + 1} of {total}, loss {loss:.3f}")
    settle_norms(average, images)
    return average.plain()


def batches(
    images: UInt8, labels: npt.NDArray[np.int64], recipe: Recipe, start: int = 0
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """Shuffled batches, shifted, flipped and turned as the recipe says; step n is the same in every run."""
    margin, side = recipe.shift, images.shape[1]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    per_epoch = len(images) // recipe.batch
    for step in range(start, recipe.epochs * per_epoch):
        epoch, index = divmod(step, per_epoch)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(images))
        picked = order[index * recipe.batch : (index + 1) * recipe.batch]
        random = np.random.default_rng((recipe.seed, epoch, index))
        y, x = random.integers(0, 2 * margin + 1, (2, recipe.batch))
        rows, columns = y[:, None, None] + np.arange(side)[:, None], x[:, None, None] + np.arange(side)
        crops = padded[picked[:, None, None], rows, columns]
        if recipe.flips:
            flipped = random.random(recipe.batch) < 0.5
            crops[flipped] = crops[flipped, :, ::-1]
        batch = to_batch(crops)
        if recipe.turn:
            batch = turned(batch, random.uniform(-recipe.turn, recipe.turn, recipe.batch))
        yield step, (batch, torch.from_numpy(labels[picked]))


def to_batch(images: UInt8) -> Tensor:
    """count × height × width × (1 or 3) in 0…255 → count × 3 × height × width in 0…1, channels last in memory."""
    return torch.tensor(images).expand(-1, -1, -1, 3).permute(0, 3, 1, 2).float().div_(255.0)


def turned(batch: Tensor, degrees: npt.NDArray[np.float64]) -> Tensor:
    """Each image of a batch turned about its middle, black where it had no pixels."""
    angles = torch.from_numpy(np.radians(degrees)).float()
    cosine, sine, none = torch.cos(angles), torch.sin(angles), torch.zeros(len(angles))
    turns = torch.stack([cosine, -sine, none, sine, cosine, none], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, align_corners=False)


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


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """Train, and publish with the accuracy on the test images."""
    from edgekit.exporters import Source
    from edgekit.quantization.metrics.labels import TopOneAccuracy

    images_of = SETS[recipe.images]
    net = train(data, place.runs, recipe)
    image = TensorSpec("image", "float32", (1, 3, 32, 32), "NCHW", (0.0, 1.0))
    logits = TensorSpec("logits", "float32", (1, len(images_of.labels)))
    seen, _ = images_of.load(data, "train")
    calibration = [(to_tensor(as_uint8(seen[i]), image),) for i in range(0, len(seen), len(seen) // 256)]
    settings = {"widths": recipe.widths, "classes": len(images_of.labels)}
    test = images_of.load(data, "test")
    trained = Trained(
        {"model": Source(net, (image,), (logits,), tuple(calibration[:4]), "classification", settings)},
        Task("classify", {"labels": list(images_of.labels), "height": 32, "width": 32}),
        f"{images_of.title} classifier, {sum(p.numel() for p in net.parameters()):,} parameters",
        images_of.about,
        {"model": calibration},
        TopOneAccuracy(*test, data=f"{images_of.title} test, {len(test[0]):,} images"),
        max_drop=0.5,
        sheet=lambda bundle: marked(bundle, *test),
        figures=lambda bundle: {"top1_percent_by_class": by_class(bundle, *test)},
    )
    return publish(recipe.name, trained, recipe, place)


def marked(bundle: Bundle, pictures: UInt8, labels: npt.NDArray[np.int64], columns: int = 20) -> UInt8:
    """The first pictures of each class in a row, framed in green where the answer is right, in red where not."""
    framed = []
    with load(bundle, "onnxruntime", precision="fp32") as classify:
        for label in np.unique(labels):
            for picture in pictures[labels == label][:columns]:
                right = int(classify.logits(picture).argmax()) == label
                frame = np.full((36, 36, 3), (0, 160, 0) if right else (220, 0, 0), np.uint8)
                frame[2:-2, 2:-2] = picture
                framed.append(frame)
    return sheet(framed, columns, enlarge=1)


def by_class(bundle: Bundle, pictures: UInt8, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Top-1 accuracy of the fp32 model for each class, in percent."""
    with load(bundle, "onnxruntime", precision="fp32") as classify:
        answers = np.array([int(classify.logits(picture).argmax()) for picture in pictures])
        names = classify.settings.labels
    return {names[c]: round(100.0 * float(np.mean(answers[labels == c] == c)), 2) for c in np.unique(labels)}


CIFAR = ZooRecipe(Recipe(), build)
DIGITS = ZooRecipe(
    Recipe(
        name="digits-cnn",
        images="mnist",
        widths="16 32/2 32 32 64/2 64 64",
        epochs=6,
        batch=128,
        learning_rate=0.2,
        smoothing=0.05,
        ema=0.995,
        shift=2,
        flips=False,
        turn=10.0,
    ),
    build,
)
