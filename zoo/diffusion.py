"""Small class-conditional diffusion of 32 × 32 images, and its recipe.

Trained on v-prediction (Salimans & Ho 2022) under the cosine schedule in continuous time, α = cos(πt/2),
σ = sin(πt/2) (Nichol & Dhariwal 2021), with labels dropped for classifier-free guidance (Ho & Salimans
2022). The network trains with batch normalization, which is folded into its convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.images import UInt8
from edgekit.zoo.classification import SETS, ImageSet
from edgekit.zoo.recipe import Place, ZooRecipe, publish
from edgekit.zoo.training import Checkpoint, update_average
from edgekit.zoo.unet import UNet

if TYPE_CHECKING:
    from edgekit.quantization import Quantized

Batch = tuple[Tensor, Tensor, Tensor, Tensor]  # noisy images, times, labels, and the velocity to predict


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    name: str = "digits-diffusion"
    channels: int = 1
    widths: str = "48 80"
    blocks: int = 2
    up_blocks: int = 1
    embedding: int = 48
    steps: int = 4_500
    batch: int = 64
    learning_rate: float = 2e-3
    final_rate: float = 0.25  # share of the rate at the end; with 1.0, more steps continue a run that is done
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.998
    drop_label: float = 0.1
    flip: bool = False  # digits have a left and a right
    seed: int = 0
    guidance: float = 3.0
    distil_trajectories: int = 6_000
    distil_steps: int = 2_000
    distil_batch: int = 16  # trajectories; each is learnt from at all of the student's times
    distil_rate: float = 5e-4

    def net(self, norms: bool) -> UNet:
        """The network of these sizes."""
        return UNet(norms=norms, **self.sizes())

    def decisive(self) -> dict[str, Any]:
        """What decides the weights at a given step."""
        later = ("distil", "guidance", *(["steps"] if self.final_rate == 1.0 else []))
        return {key: value for key, value in asdict(self).items() if not key.startswith(later)}

    def images(self) -> ImageSet:
        """What it is trained on: digits, or CIFAR-10 in colour."""
        return SETS["mnist" if self.channels == 1 else "cifar10"]

    def sizes(self) -> dict[str, Any]:
        """The arguments that rebuild the network."""
        names = ("channels", "widths", "blocks", "up_blocks", "embedding")
        return {name: getattr(self, name) for name in names} | {"classes": 10}


def train(images: UInt8, labels: npt.NDArray[np.int64], runs: Path, recipe: Recipe) -> UNet:
    """Train on images, count × 32 × 32 × channels; returns the averaged network, folded.

    An interrupted run continues from its checkpoint in `runs` with the same batches.
    """
    torch.manual_seed(recipe.seed)
    net, average = recipe.net(norms=True), recipe.net(norms=True)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    parts = {"net": net, "average": average, "optimizer": optimizer}
    checkpoint = Checkpoint(runs / f"{recipe.name}.pt", recipe.decisive(), parts)
    done = checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(recipe.name, total=recipe.steps, completed=done)
        for step, batch in batches(images, labels, recipe, start=done):
            loss = _step(net, optimizer, batch, recipe, step)
            update_average(average, net, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"{recipe.name} loss {loss:.4f}")
            if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                progress.console.print(f"{recipe.name} step {step + 1} of {recipe.steps}, loss {loss:.4f}")
    settle_norms(average, images, labels, recipe)
    return average.folded()


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe, step: int) -> float:
    sample, time, label, velocity = batch
    for group in optimizer.param_groups:
        group["lr"] = recipe.learning_rate * fall(step, recipe.steps, recipe.final_rate)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = net(sample.to(memory_format=torch.channels_last), time, label)
    loss = F.mse_loss(predicted.float(), velocity)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()
    return float(loss.detach())


def fall(step: int, steps: int, final: float = 0.25, warm_up: int = 100) -> float:
    """The share of the learning rate: linear warm-up, then a line down to `final`; the average does the rest."""
    return min(1.0, (step + 1) / warm_up) * (1 - (1 - final) * step / steps)


def batches(
    images: UInt8, labels: npt.NDArray[np.int64], recipe: Recipe, start: int = 0
) -> Iterator[tuple[int, Batch]]:
    """Random images under random noise; step n is the same in every run. Times are spread evenly in a batch."""
    for step in range(start, recipe.steps):
        random = np.random.default_rng((recipe.seed, step))
        picked = random.integers(0, len(images), recipe.batch)
        chosen = images[picked]
        if recipe.flip:
            turned = random.random(recipe.batch) < 0.5
            chosen[turned] = chosen[turned, :, ::-1]
        yield step, noised(chosen, labels[picked], random, recipe.drop_label)


def noised(images: UInt8, labels: npt.NDArray[np.int64], random: np.random.Generator, drop_label: float = 0.0) -> Batch:
    """Images at evenly spread random times under the cosine schedule; a share of the labels is zeroed."""
    count = len(images)
    clean = torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    time = torch.from_numpy(((random.permutation(count) + random.random(count)) / count).astype(np.float32))
    noise = torch.from_numpy(random.standard_normal(tuple(clean.shape), np.float32))
    alpha, sigma = (wave(time * math.pi / 2)[:, None, None, None] for wave in (torch.cos, torch.sin))
    label = F.one_hot(torch.from_numpy(labels), 10).float()
    label[torch.from_numpy(random.random(count) < drop_label)] = 0.0
    return alpha * clean + sigma * noise, time, label, alpha * noise - sigma * clean


@torch.no_grad()
def settle_norms(net: UNet, images: UInt8, labels: npt.NDArray[np.int64], recipe: Recipe, count: int = 40) -> None:
    """Measure the statistics of batch normalization anew: those of averaged weights are not the average's."""
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    random = np.random.default_rng(recipe.seed)
    for _ in range(count):
        picked = random.integers(0, len(images), 4 * recipe.batch)
        sample, time, label, _velocity = noised(images[picked], labels[picked], random, recipe.drop_label)
        net(sample, time, label)
    net.eval()


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """Train, distil, and publish with both networks: `model`, and `few_steps` where the recipe distils one."""
    from edgekit.zoo.diffusion_bundle import trained
    from edgekit.zoo.distillation import distil

    nets = {"model": train(*recipe.images().load(data, "train"), place.runs, recipe)}
    if recipe.distil_steps:
        nets["few_steps"] = distil(nets["model"], place.runs, recipe)
    return publish(recipe.name, trained(nets, data, recipe), recipe, place)


DIGITS = ZooRecipe(Recipe(), build)
CIFAR = ZooRecipe(
    Recipe(
        name="cifar-diffusion",
        channels=3,
        widths="64 128",
        embedding=64,
        steps=11_091,  # what there was time for; a larger number goes on from there
        learning_rate=1e-3,
        final_rate=1.0,
        flip=True,
        distil_steps=0,
    ),
    build,
)
