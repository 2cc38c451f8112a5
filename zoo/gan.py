"""Generative adversarial network of digits: a convolutional generator conditioned on the class, and its recipe.

The generator follows DCGAN (Radford et al. 2016) with nearest-neighbour enlargement in the place of
transposed convolutions, and sub-pixel shuffling (Shi et al. 2016) for the last one. The discriminator has spectral
normalization (Miyato et al. 2018), a projection on the class (Miyato and Koyama 2018) and an auxiliary
classifier (Odena et al. 2017); both train with the hinge loss, and what ships is the generator's average.
Batch normalization is folded into the layer before it.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

from edgekit.manifest import Task
from edgekit.tensors import Array, TensorSpec
from edgekit.zoo.digits import DATA, LABELS, SIDE, batches
from edgekit.zoo.judging import fidelity, samples
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.training import Checkpoint, update_average

if TYPE_CHECKING:  # the converters are imported by `build` alone: a session of this network needs none
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized


class Generator(nn.Module):
    """latent batch × latent ~ N(0, 1) and one-hot label batch × classes → grey batch × 1 × 32 × 32 in 0…1.

    `normed` has batch normalization after every layer but the last, for training; `folded` takes it away.
    """

    def __init__(self, latent: int = 48, channels: int = 64, classes: int = 10, normed: bool = False) -> None:
        super().__init__()
        self.latent, self.channels, self.classes = latent, channels, classes
        wide, narrow = 2 * channels, channels // 4
        self.start = nn.Linear(latent + classes, wide * 4 * 4)
        pairs = ((wide, channels), (channels, channels), (channels, channels), (narrow, narrow))
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
        self.tail = nn.Conv2d(narrow, 1, 3, padding=1)
        norms = [nn.BatchNorm1d(wide * 4 * 4), *(nn.BatchNorm2d(outputs) for _, outputs in pairs)]
        self.norms = nn.ModuleList(norms if normed else (nn.Identity() for _ in norms))

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.start(torch.cat([latent, label], dim=1))))
        x = x.view(-1, 2 * self.channels, 4, 4)
        for index, layer in enumerate(self.layers):
            if index < 2:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            elif index == 3:
                x = F.pixel_shuffle(x, 2)
            x = F.relu(self.norms[index + 1](layer(x)))
        return torch.sigmoid(self.tail(x))

    @torch.no_grad()
    def folded(self) -> Generator:
        """The network that ships: the same in evaluation mode, without norms."""
        net = Generator(self.latent, self.channels, self.classes)
        self.eval()
        pairs = zip(self.layers, self.norms[1:], strict=True)
        layers = [fuse_conv_bn_eval(layer, norm) for layer, norm in pairs]  # type: ignore[type-var,arg-type]
        net.start.load_state_dict(fuse_linear_bn_eval(self.start, self.norms[0]).state_dict())  # type: ignore[arg-type]
        net.layers.load_state_dict(nn.ModuleList(layers).state_dict())
        net.tail.load_state_dict(self.tail.state_dict())
        return net.eval()


class Discriminator(nn.Module):
    """Grey batch × 1 × 32 × 32 in 0…1 and labels → score for being real as this class, and logits of the classes."""

    def __init__(self, channels: int = 48, classes: int = 10) -> None:
        super().__init__()
        widths = (1, channels, 2 * channels, 4 * channels)
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(i, o, 4, 2, padding=1)) for i, o in itertools.pairwise(widths)
        )
        self.score = spectral_norm(nn.Linear(widths[-1], 1))
        self.projection = spectral_norm(nn.Embedding(classes, widths[-1]))
        self.logits = nn.Linear(widths[-1], classes)

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        x = 2.0 * image - 1.0
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.1)
        x = x.sum((2, 3))
        score = self.score(x)[:, 0] + (self.projection(label) * x).sum(1)
        return score.float(), self.logits(x / 16.0).float()


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    name: str = "digits-gan"
    latent: int = 48
    channels: int = 64
    judging: int = 48  # channels of the discriminator's first layer
    steps: int = 5_000
    batch: int = 64
    generator_rate: float = 4e-4
    discriminator_rate: float = 8e-4
    betas: tuple[float, float] = (0.0, 0.99)
    class_weight: float = 0.1  # of the auxiliary classifier in the generator's loss
    fall: float = 0.4  # last part of the steps, over which both rates fall to nothing
    ema: float = 0.998
    seed: int = 0


def train(data: Path, runs: Path, recipe: Recipe) -> Generator:
    """Train on mnist.zip; returns the averaged generator, folded. Resumes from its checkpoint in `runs`."""
    torch.manual_seed(recipe.seed)
    pair = Pair(recipe)
    checkpoint = Checkpoint(runs / f"{recipe.name}.pt", asdict(recipe), pair.parts())
    done = checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=done)
        for step, (batch, truth) in batches(data, recipe.batch, range(done, recipe.steps), recipe.seed):
            said = pair.step(batch, truth, step)
            progress.update(bar, completed=step + 1, description=f"{recipe.name} {said}")
            if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                progress.console.print(f"{recipe.name} step {step + 1} of {recipe.steps}, {said}")
    settle_norms(pair.average)
    return pair.average.folded()


class Pair:
    """Generator and discriminator with their optimizers, and the generator's average."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.generator = Generator(recipe.latent, recipe.channels, len(LABELS), normed=True)
        self.average = Generator(recipe.latent, recipe.channels, len(LABELS), normed=True)
        self.average.load_state_dict(self.generator.state_dict())
        self.discriminator = Discriminator(recipe.judging)
        for net in (self.generator, self.discriminator):
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        rates = (recipe.generator_rate, recipe.discriminator_rate)
        self.makes, self.judges = (
            torch.optim.Adam(net.parameters(), lr=rate, betas=recipe.betas)
            for net, rate in zip((self.generator, self.discriminator), rates, strict=True)
        )

    def parts(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        names = ("generator", "discriminator", "average", "makes", "judges")
        return {name: getattr(self, name) for name in names}

    def step(self, real: Tensor, truth: Tensor, step: int) -> str:
        """One update of each on a batch of real digits; says how they did."""
        recipe, random = self.recipe, torch.Generator().manual_seed(self.recipe.seed * 2**32 + step)
        left = min(1.0, (1 - step / recipe.steps) / recipe.fall)
        self.makes.param_groups[0]["lr"] = recipe.generator_rate * left
        self.judges.param_groups[0]["lr"] = recipe.discriminator_rate * left
        latent = torch.randn(2, len(real), recipe.latent, generator=random)
        label = torch.randint(len(LABELS), (2, len(real)), generator=random)
        judged = self._judge(real, truth, latent[0], label[0])
        made = self._make(latent[1], label[1])
        update_average(self.average, self.generator, step, recipe.ema)
        return f"discriminator {judged:.3f} generator {made:.3f}"

    def _judge(self, real: Tensor, truth: Tensor, latent: Tensor, label: Tensor) -> float:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                fake = self.generator(latent, one_hot(label))
            score, logits = self.discriminator(torch.cat([real, fake]), torch.cat([truth, label]))
        genuine, made = score.chunk(2)
        loss = F.relu(1 - genuine).mean() + F.relu(1 + made).mean()
        total = loss + F.cross_entropy(logits[: len(real)], truth)
        self.judges.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
        self.judges.step()
        return float(loss.detach())

    def _make(self, latent: Tensor, label: Tensor) -> float:
        self.discriminator.requires_grad_(False)
        with torch.autocast("cpu", torch.bfloat16):
            score, logits = self.discriminator(self.generator(latent, one_hot(label)), label)
        loss = -score.mean() + self.recipe.class_weight * F.cross_entropy(logits, label)
        self.makes.zero_grad()
        loss.backward()
        self.makes.step()
        self.discriminator.requires_grad_(True)
        return float(loss.detach())


def one_hot(label: Tensor) -> Tensor:
    """Labels → batch × 10, float32."""
    return F.one_hot(label, len(LABELS)).float()


@torch.no_grad()
def settle_norms(net: Generator, batches: int = 40, size: int = 250) -> None:
    """Measure the statistics of batch normalization anew: those of averaged weights are not the average's."""
    net.train()
    for module in net.norms:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    random = torch.Generator().manual_seed(0)
    for _ in range(batches):
        label = torch.arange(size) % net.classes
        net(torch.randn(size, net.latent, generator=random), one_hot(label))
    net.eval()


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """Train, and publish with the share of samples that digits-cnn recognises."""
    from edgekit.quantization.metrics.generated import Recognised

    net = train(data, place.runs, recipe)
    source, calibration = net_source(net)
    trained = Trained(
        {"model": source},
        Task("generate", {"labels": list(LABELS), "latent": recipe.latent}),
        f"Conditional GAN of digits, {sum(p.numel() for p in net.parameters()):,} parameters",
        DATA,
        {"model": calibration},
        Recognised(count=1000),
        max_drop=1.0,
        sheet=samples,
        figures=lambda bundle: fidelity(bundle, data),
    )
    return publish(recipe.name, trained, recipe, place)


def net_source(net: Generator, count: int = 200) -> tuple[Source, list[tuple[Array, ...]]]:
    """The generator as `export` takes it, and `count` inputs of all classes for calibration."""
    from edgekit.exporters import Source

    latents = np.random.default_rng(1).standard_normal((count, 1, net.latent), np.float32)
    hot = np.eye(net.classes, dtype=np.float32)
    inputs: list[tuple[Array, ...]] = [(z, hot[[i % net.classes]]) for i, z in enumerate(latents)]
    latent = TensorSpec("latent", "float32", (1, net.latent))
    label = TensorSpec("label", "float32", (1, net.classes))
    image = TensorSpec("image", "float32", (1, 1, SIDE, SIDE), "NCHW", (0.0, 1.0))
    settings = {"latent": net.latent, "channels": net.channels, "classes": net.classes}
    return Source(net, (latent, label), (image,), tuple(inputs[:4]), "gan", settings), inputs


DIGITS = ZooRecipe(Recipe(), build)
