"""Layout: a published network and how to tell its weights; what a task needs to run it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.manifest import Task
from edgekit.tensors import Array, TensorSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Settings = dict[str, int | float | str | bool]


@dataclass(frozen=True)
class Use:
    """How a network is run: its border, the task, inputs to try, and the sizes of files that need them fixed."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    probes: tuple[tuple[Array, ...], ...]
    task: Task
    buckets: Sequence[Mapping[str, int]] = ()


@dataclass(frozen=True)
class Layout:
    """A published network.

    `family` is its row in the registry; `keys` names some of its tensors, for a person; `settings` finds the
    arguments of the network in the shapes of a file's tensors, None where the file is of another network, from
    what a person states (`asked`) and the file's name where shapes do not tell; `ignored` matches names of
    tensors that old files hold and the network does not.
    """

    title: str
    family: str
    keys: str
    paper: str
    repository: str
    settings: Callable[[Shapes, Mapping[str, object], str], Settings | None]
    use: Callable[[nn.Module], Use]
    ignored: re.Pattern[str] = field(default=re.compile(r"(?!)"))


def picture_probes(sides: int = 64, count: int = 3) -> tuple[tuple[Array, ...], ...]:
    """Pictures to try a network with: seeded, 1 × 3 × sides × sides in 0…1, smooth areas, edges and some grain."""
    random = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        coarse = torch.rand(1, 3, 6, 6, generator=random)
        smooth = F.interpolate(coarse, (sides, sides), mode="bicubic")
        shapes = F.interpolate(torch.rand(1, 3, 9, 9, generator=random), (sides, sides)) * 0.3
        grain = 0.04 * torch.randn(1, 3, sides, sides, generator=random)
        made.append(((0.7 * smooth + shapes + grain).clamp(0.0, 1.0).numpy().astype(np.float32),))
    return tuple(made)


def upscaling(scale: int, halo: int) -> Use:
    """RGB in 0…1 of any size → `scale` times as large; tiles of TFLite files are several halos wide."""
    small = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0))
    large = TensorSpec(
        "upscaled", "float32", (1, 3, _times(scale, "height"), _times(scale, "width")), "NCHW", (0.0, 1.0)
    )
    sides = [side for side in (64, 128, 256) if side >= 3 * halo] or [512]
    buckets = [{"height": side, "width": side} for side in (sides[0], sides[-1])]
    return Use(
        (small,), (large,), picture_probes(), Task("upscale", {"scale": scale, "halo": halo}), buckets[: len(sides)]
    )


def stylizing(step: int) -> Use:
    """RGB in 0…1 of any size that `step` divides → the same, each pixel decided by the whole picture."""
    specs = [TensorSpec(n, "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0)) for n in ("image", "stylised")]
    task = Task("stylize", {"halo": None, "step": step})
    buckets = [{"height": 256, "width": 256}, {"height": 512, "width": 512}]
    return Use((specs[0],), (specs[1],), picture_probes(), task, buckets)


def generating(latent: int, image: Shape) -> Use:
    """latent 1 × `latent` of N(0, 1) → one picture (1 × channels × height × width) in −1…1."""
    random = np.random.default_rng(0)
    probes = tuple((random.standard_normal((1, latent), np.float32),) for _ in range(3))
    code = TensorSpec("latent", "float32", (1, latent))
    picture = TensorSpec("image", "float32", image, "NCHW", (-1.0, 1.0))
    return Use((code,), (picture,), probes, Task("generate", {"latent": latent}))


def enlarged(image: Tensor, scale: int, mode: str = "bicubic") -> Tensor:
    """As F.interpolate by a whole number, "bicubic" or "nearest".

    The size is stated: a factor becomes a float, whose product with a free dimension nothing can be added to.
    """
    return F.interpolate(image, (scale * image.shape[2], scale * image.shape[3]), mode=mode)


def whole_root(number: int) -> int | None:
    """The square root, where it is a whole number from 1."""
    root = round(max(0, number) ** 0.5)
    return root if root and root * root == number else None


def _times(scale: int, name: str) -> str:
    return name if scale == 1 else f"{scale}*{name}"
