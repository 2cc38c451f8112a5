"""What a stylizer learns from: crops of photos, each looked at twice, and the painting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.errors import InputError
from edgekit.images import UInt8, opencv, photos
from edgekit.zoo.style_losses import shortened

PAINTINGS = {
    "wave": "wave.jpg",
    "scream": "the_scream.jpg",
    "shipwreck": "the_shipwreck_of_the_minotaur.jpg",
    "udnie": "udnie.jpg",
}
TITLES = {
    "wave": "The Great Wave off Kanagawa (Hokusai, 1831)",
    "scream": "The Scream (Munch, 1893)",
    "shipwreck": "The Shipwreck of the Minotaur (Turner, about 1810)",
    "udnie": "Udnie (Picabia, 1913)",
}
BORDER = 8  # pixels that the task repeats around an image: what zeros from outside touch most is cut off
MOVE = 2  # most pixels between two looks at a photo


@dataclass(frozen=True)
class Batch:
    """Photos with `BORDER` pixels around, 3 × height × width in 0…1; their content in the painting's
    colours, without the border; and by how many pixels the first photo is moved for its second look.
    """

    photos: Tensor
    content: Tensor
    moved: tuple[int, int]


def looks(batch: Batch, noise: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The photos, and the first of them once more: moved by a few pixels, under a camera's noise, whose standard
    deviation is given in values of 0…1.
    """
    down, right = batch.moved
    height, width = (n - 2 * MOVE for n in batch.photos.shape[2:])
    again = batch.photos[:1, :, MOVE + down : MOVE + down + height, MOVE + right : MOVE + right + width]
    return cut(batch.photos, MOVE), again + noise * torch.randn(again.shape, generator=random)


def unsteadiness(one: Tensor, other: Tensor, moved: tuple[int, int]) -> Tensor:
    """Mean squared difference of two looks at one photo, the second moved back; what both see well within."""
    down, right = moved
    edge = BORDER + MOVE
    height, width = (n - 2 * edge for n in one.shape[2:])
    here = one[:, :, edge + down : edge + down + height, edge + right : edge + right + width]
    return F.mse_loss(here, cut(other, edge))


def cut(image: Tensor, border: int) -> Tensor:
    """The image without its outermost pixels."""
    return image[:, :, border:-border, border:-border]


def random_crop(photo: UInt8, side: int, random: np.random.Generator) -> UInt8:
    """A square of the photo, from two thirds of `side` to the whole photo's height, brought to `side`."""
    cv2 = opencv()
    shortest = min(photo.shape[:2])
    taken = int(random.integers(min(side * 2 // 3, shortest), shortest + 1))
    y, x = (int(random.integers(n - taken + 1)) for n in photo.shape[:2])
    square = photo[y : y + taken, x : x + taken]
    kernel = cv2.INTER_AREA if taken > side else cv2.INTER_CUBIC
    crop: UInt8 = cv2.resize(square, (side, side), interpolation=kernel)
    return np.ascontiguousarray(crop[:, ::-1]) if random.integers(2) else crop


def load_painting(data: Path, style: str, side: int) -> UInt8:
    """A painting of styles.zip, RGB, its shorter side brought to `side` pixels.

    Raises:
        InputError: an unknown style, or it is not in the archive.
    """
    if style not in PAINTINGS:
        raise InputError(f"got the style '{style}': expected one of {', '.join(PAINTINGS)}")
    found = [image for name, image in photos(data / "styles.zip") if Path(name).name == PAINTINGS[style]]
    if not found:
        raise InputError(f"'{data / 'styles.zip'}' has no {PAINTINGS[style]}")
    return shortened(found[0], side)
