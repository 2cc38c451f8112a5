"""Settings that a network tells itself: scale, step and reach, against those known by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.exporters import measured
from edgekit.exporters.sources import Source, from_bundle, from_module
from edgekit.manifest import Task

FREE = {"image": {2: "height", 3: "width"}}


def source_of(*layers: nn.Module, channels: int = 3, free: bool = True) -> Source:
    torch.manual_seed(0)
    image = np.random.default_rng(0).random((1, channels, 64, 64), np.float32)
    return from_module(nn.Sequential(*layers).eval(), [image], dynamic=FREE if free else None)


class Halved(nn.Module):
    """Works at half the size, so that it takes even sizes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(image, 2)), 2)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(3, 3, 1)], 0),
        ([nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)], 3),
        ([nn.Conv2d(3, 8, 3, padding=4, dilation=4), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)], 5),
        ([nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8), nn.Conv2d(8, 3, 1)], None),
        ([nn.Conv2d(3, 3, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")], 2),
    ],
    ids=["point", "two layers", "dilated, shuffled", "instance norm", "bilinear"],
)
def test_reach_is_what_the_layers_make_it(layers: list[nn.Module], expected: int | None) -> None:
    assert measured.reach(source_of(*layers)) == expected


def test_reach_in_cells_is_never_less_than_what_tiles_need() -> None:
    assert measured.step(source_of(Halved())) == 2
    assert measured.reach(source_of(Halved()), 2) == 3  # a cell of two pixels on, and the other pixel of one's own


@pytest.mark.parametrize("name", ["sr-x2", "style-wave"])
def test_a_shipped_network_reaches_no_further_than_its_bundle_says(name: str) -> None:
    bundle = Bundle.open(name)
    assert bundle.manifest.task is not None
    source, stated = from_bundle(bundle), bundle.manifest.task.settings
    found = measured.reach(source, measured.step(source))
    assert found is not None and stated["halo"] - 8 <= found <= stated["halo"]


def test_a_task_is_completed_by_what_is_measured_and_not_overruled() -> None:
    source = source_of(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    assert measured.completed(Task("upscale"), {"model": source}).settings == {"scale": 2, "halo": 1, "step": 1}
    assert measured.completed(Task("upscale", {"halo": 9}), {"model": source}).settings["halo"] == 9


def test_what_a_task_lacks_is_said() -> None:
    source = source_of(nn.Conv2d(3, 3, 3, padding=1))
    with pytest.raises(InputError, match="task 'upscale' are wrong.*colour.*it has scale, halo, step"):
        measured.completed(Task("upscale", {"colour": 1}), {"model": source})
    with pytest.raises(InputError, match="needs 'encoder' and 'decoder'"):
        measured.completed(Task("autoencode"), {"model": source})
    with pytest.raises(InputError, match="no task 'paint'"):
        measured.completed(Task("paint"), {"model": source})
    with pytest.raises(InputError, match="expected a whole enlargement"):
        measured.scale(source_of(nn.Conv2d(3, 3, 3)))
