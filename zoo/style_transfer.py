"""Style transfer: a small feed-forward network a painting, without norms when it ships, and its recipe.

The network is trained as by Johnson et al. (2016, "Perceptual Losses for Real-Time Style Transfer"),
against losses that need no ImageNet network: Gram matrices of the shipped `cifar-cnn`, a sliced
Wasserstein distance of patches, and the photo in the painting's palette as content. The norms that
help training are fixed before its last part and folded into the convolutions: int8 keeps the look. What
they would have done for a photo with little contrast, `edgekit.tasks.stylize.evened` does before the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn

from edgekit.images import UInt8, from_tensor, photos, to_tensor
from edgekit.manifest import Task
from edgekit.tasks.stylize import evened
from edgekit.tensors import Array, TensorSpec
from edgekit.zoo import style_losses
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.style_content import BORDER, MOVE, TITLES, Batch, cut, load_painting, looks, random_crop, unsteadiness
from edgekit.zoo.style_losses import Patches, to_batch
from edgekit.zoo.style_network import StyleNet, TrainingNet
from edgekit.zoo.training import Checkpoint, fingerprint, update_average

if TYPE_CHECKING:
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized

DATA = (
    "BSDS500 train + test (Arbeláez et al. 2011) for content, one painting in the public domain for style, "
    "the cifar-cnn bundle for Gram matrices; content.zip for figures"
)
BUCKETS = ({"height": 256, "width": 336}, {"height": 376, "width": 656})  # 320 × 240 and 640 × 360 with their BORDER


@dataclass(frozen=True)
class Finish:
    """A further stage, from the network of the one before: a whole photo in each step, whose own Gram matrices count, as
    they do in the figure that is told; photos `evened` as the task does it; more weight on the style and on
    steadiness.
    """

    steps: int = 2000
    batch: int = 1
    crop: int = 256
    learning_rate: float = 2e-3
    gram: float = 20.0
    content: float = 15.0
    steady: float = 800.0
    noise: float = 0.02
    contrast: float = 8.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights."""

    style: str = "wave"
    side: int = 384  # shorter side of the painting when it is looked at: decides how large strokes are
    channels: int = 48
    thin: int = 16
    blocks: int = 6
    norm: str = "batch"  # or "instance", "none": what normalises while training, before the statistics are fixed
    fixed: float = 0.3  # last part of the steps, with the norms' statistics fixed
    steps: int = 1200
    batch: int = 3
    crop: int = 160
    learning_rate: float = 2e-3
    gram: float = 10.0  # weights of the losses
    patches: float = 2.0
    content: float = 20.0
    roughness: float = 0.1
    steady: float = 10.0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.99
    noise: float = 0.01  # a camera's, standard deviation of values in 0…1
    contrast: float = 1.0  # how far the tones of a photo are stretched before the network sees it: see `evened`
    seed: int = 0
    finish: tuple[Finish, ...] = (Finish(),)

    @property
    def shown(self) -> float:
        """The contrast with which the trained network is to be shown photos."""
        return self.finish[-1].contrast if self.finish else self.contrast

    def stages(self) -> list[Recipe]:
        """The recipe of each stage; after the first, the norms' statistics stay as they are."""
        return [
            replace(self, finish=()),
            *(replace(self, fixed=1.0, finish=(), **asdict(further)) for further in self.finish),
        ]


class Judge:
    """The losses of one painting."""

    def __init__(self, painting: UInt8, recipe: Recipe) -> None:
        self.recipe = recipe
        self.net = style_losses.cifar_network()
        image = to_batch([painting])
        with torch.no_grad():
            self.wanted = style_losses.grams(style_losses.features(self.net, image))
        self.patches = Patches(image)

    def losses(self, painted: Tensor, content: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Each loss, weighted, of pictures: batch × 3 × height × width."""
        recipe = self.recipe
        with torch.autocast("cpu", torch.bfloat16):
            maps = style_losses.features(self.net, painted)
        return {
            "gram": recipe.gram * style_losses.gram_loss(style_losses.grams(maps), self.wanted),
            "patches": recipe.patches * self.patches.distance(painted, random),
            "content": recipe.content * F.mse_loss(F.avg_pool2d(painted, 4), F.avg_pool2d(content, 4)),
            "roughness": recipe.roughness * style_losses.roughness(painted),
        }


def train(data: Path, runs: Path, recipe: Recipe) -> StyleNet:
    """Train on the photos of `data`/bsds_train.zip and one painting of styles.zip; returns the averaged network.

    An interrupted run continues from its checkpoints in `runs` with the same crops.
    """
    name = f"style-{recipe.style}"
    torch.manual_seed(recipe.seed)
    average = None
    for ending, stage in zip(("", *endings(recipe)), recipe.stages(), strict=True):
        average = _stage(name + ending, data, runs, stage, average)
    assert average is not None
    return average.plain()


def endings(recipe: Recipe) -> list[str]:
    """What the names of the further stages' checkpoints end in: -finish, -finish2 and so on."""
    return [f"-finish{number if number > 1 else ''}" for number in range(1, len(recipe.finish) + 1)]


def _stage(name: str, data: Path, runs: Path, recipe: Recipe, start: TrainingNet | None) -> TrainingNet:
    """One stage of training, from `start` where there is one; returns the averaged network."""
    net, average = (TrainingNet(recipe.channels, recipe.thin, recipe.blocks, recipe.norm) for _ in range(2))
    if start is not None:
        net.load_state_dict(start.state_dict())
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    decisive = asdict(recipe) | ({} if start is None else {"start": fingerprint(start)})
    checkpoint = Checkpoint(runs / f"{name}.pt", decisive, {"net": net, "average": average, "optimizer": optimizer})
    done = checkpoint.resume()
    if done < recipe.steps:
        painting = load_painting(data, recipe.style, recipe.side)
        seen = [photo for _, photo in photos(data / "bsds_train.zip")]
        table = style_losses.palette_map([evened(photo, recipe.contrast) for photo in seen], painting)
        judge = Judge(painting, recipe)
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
            bar = progress.add_task(name, total=recipe.steps, completed=done)
            for step, batch in batches(seen, table, recipe, start=done):
                losses = _step(net, optimizer, batch, judge, step)
                update_average(average, net, step, recipe.ema)
                _copy_statistics(average, net)
                told = " ".join(f"{key} {value:.3f}" for key, value in losses.items())
                progress.update(bar, completed=step + 1, description=f"{name} {told}")
                if checkpoint.save(step + 1, last=step + 1 == recipe.steps) and not progress.console.is_terminal:
                    progress.console.print(f"{name} step {step + 1} of {recipe.steps}: {told}")
    return average


def _step(
    net: TrainingNet, optimizer: torch.optim.Optimizer, batch: Batch, judge: Judge, step: int
) -> dict[str, float]:
    recipe, random = judge.recipe, torch.Generator().manual_seed(recipe_seed(judge.recipe, step))
    for group in optimizer.param_groups:
        group["lr"] = _rate(recipe, step)
    net.train(step < recipe.steps * (1 - recipe.fixed))
    first, second = looks(batch, recipe.noise, random)
    with torch.autocast("cpu", torch.bfloat16):
        both = net(torch.cat([first, second]).contiguous(memory_format=torch.channels_last))
    painted = cut(both[:-1], BORDER)
    losses = judge.losses(painted, batch.content, random)
    losses["steady"] = recipe.steady * unsteadiness(both[:1], both[-1:], batch.moved)
    loss = torch.stack(list(losses.values())).sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
    nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
    optimizer.step()
    return {key: float(value.detach()) for key, value in losses.items()}


def recipe_seed(recipe: Recipe, step: int) -> int:
    """A seed of its own for each step."""
    return recipe.seed * 1_000_003 + step


@torch.no_grad()
def _copy_statistics(average: nn.Module, net: nn.Module) -> None:
    for mine, its in zip(average.buffers(), net.buffers(), strict=True):
        mine.copy_(its)


def _rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up over 50 steps, then a cosine to 2 % of the rate."""
    warm = min(1.0, (step + 1) / 50)
    return recipe.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * step / recipe.steps))))


def batches(seen: list[UInt8], table: UInt8, recipe: Recipe, start: int = 0) -> Iterator[tuple[int, Batch]]:
    """Random crops of photos at random scales, half of them mirrored, their tones `evened`; step n is the same in
    every run.
    """
    side, edge = recipe.crop + 2 * (BORDER + MOVE), BORDER + MOVE
    for step in range(start, recipe.steps):
        random = np.random.default_rng((recipe.seed, step))
        picked = [random_crop(seen[int(random.integers(len(seen)))], side, random) for _ in range(recipe.batch)]
        crops = [evened(crop, recipe.contrast) for crop in picked]
        content = [style_losses.recoloured(crop[edge:-edge, edge:-edge], table) for crop in crops]
        down, right = (int(n) for n in random.integers(-MOVE, MOVE + 1, 2))
        yield step, Batch(to_batch(crops), to_batch(content), (down, right))


def build(data: Path, recipe: Recipe, place: Place) -> Quantized:
    """The whole recipe: train, export, quantize, measure on the photos and the video of content.zip."""
    from edgekit.quantization.correction.qat import QatOptions
    from edgekit.quantization.metrics.pictures import StyleSsim
    from edgekit.zoo.style_figures import Content, figures, sheet

    net, content = train(data, place.runs, recipe), Content.load(data / "content.zip")
    painting = load_painting(data, recipe.style, recipe.side)
    crops = calibration_crops(data, recipe.shown)
    settings = {"halo": net.halo, "border": BORDER, "contrast": recipe.shown, "style": TITLES[recipe.style]}
    seen = (*content.photos, content.frames[0])
    trained = Trained(
        sources={"model": net_source(net, probes=[arrays[0] for arrays in crops[::12]])},
        task=Task("stylize", settings),
        summary=f"Stylizer after {TITLES[recipe.style]}, {sum(p.numel() for p in net.parameters()):,} parameters",
        data=DATA,
        calibration={"model": crops},
        metric=StyleSsim(seen, f"content.zip, {len(seen)} images, against PyTorch in fp32"),
        max_drop=0.05,
        sheet=lambda bundle: sheet(bundle, content, painting),
        figures=lambda bundle: figures(bundle, content, painting),
        buckets=BUCKETS,
        stages=[ending[1:] for ending in endings(recipe)],
        practice={"model": practising(data, recipe)},
        tuning=QatOptions(steps=600, batch=2),
    )
    return publish(f"style-{recipe.style}", trained, recipe, place)


def calibration_crops(data: Path, contrast: float) -> list[tuple[Array, ...]]:
    """Crops of the training photos as the task hands them to the network."""
    from edgekit.quantization import calibration

    (image,), _ = image_specs()
    crops = calibration.from_photos(data / "bsds_train.zip", (image,), count=48, side=192)
    return [(to_tensor(evened(from_tensor(array, image), contrast), image),) for (array,) in crops]


def practising(data: Path, recipe: Recipe) -> Callable[[int], list[tuple[Array, ...]]]:
    """Crops of the training photos, as the network is shown them, for each step of fine-tuning."""
    seen = [photo for _, photo in photos(data / "bsds_train.zip")]

    def crops(step: int) -> list[tuple[Array, ...]]:
        random = np.random.default_rng((recipe.seed + 1, step))
        picked = [random_crop(seen[int(random.integers(len(seen)))], recipe.crop, random) for _ in range(2)]
        return [(to_batch([evened(crop, recipe.shown)]).numpy(),) for crop in picked]

    return crops


def net_source(net: StyleNet, probes: list[np.ndarray]) -> Source:
    """The network as `export` takes it; probes are batch × 3 × height × width in 0…1."""
    from edgekit.exporters import Source

    inputs, outputs = image_specs()
    settings = {
        "channels": net.layers[1].out_channels,
        "thin": net.layers[0].out_channels,
        "blocks": len(net.layers) - 5,
    }
    return Source(net, inputs, outputs, tuple((p,) for p in probes), "style_transfer", settings)


def image_specs() -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What goes in and what comes out: float32 RGB in 0…1, of any height and width that 4 divides."""
    shape = (1, 3, "height", "width")
    image = TensorSpec("image", "float32", shape, "NCHW", (0.0, 1.0))
    return (image,), (TensorSpec("stylized", "float32", shape, "NCHW", (0.0, 1.0)),)


WAVE_FINISH = (
    Finish(steps=2200, steady=300.0),
    Finish(steps=800, learning_rate=1e-3, gram=30.0, steady=1200.0),
    Finish(steps=350, learning_rate=1e-3, gram=40.0, content=10.0, steady=600.0),
)

WAVE = ZooRecipe(Recipe(style="wave", side=320, steps=1100, gram=6.0, content=30.0, finish=WAVE_FINISH), build)
SCREAM = ZooRecipe(Recipe(style="scream", steps=850, finish=(Finish(steps=900),)), build)
SHIPWRECK_FINISH = (
    Finish(steps=800, content=50.0, steady=500.0),
    Finish(steps=700, learning_rate=1e-3, content=150.0, steady=500.0),
)
SHIPWRECK = ZooRecipe(Recipe(style="shipwreck", side=448, steps=850, finish=SHIPWRECK_FINISH), build)
UDNIE = ZooRecipe(Recipe(style="udnie", side=320, steps=1000, finish=(Finish(steps=600, steady=1000.0),)), build)
