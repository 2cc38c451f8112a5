"""A small mnist.zip of made-up digits, and a training that is broken off."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgekit.images import write_image


class Broken(Exception):
    """The training stopped here."""


def write_digits(folder: Path, count: int = 6) -> Path:
    """mnist.zip with `count` bars a class and split, at a place of the class; returns its folder."""
    with zipfile.ZipFile(folder / "mnist.zip", "w") as archive:
        for index in range(20 * count):
            split, digit = ("train", "test")[index % 2], index // 2 % 10
            random = np.random.default_rng(index)
            image = np.zeros((28, 28), np.uint8)
            image[2 + 2 * digit : 5 + 2 * digit, 6:20] = random.integers(128, 256, (3, 14))
            write_image(folder / "digit.png", image)
            archive.write(folder / "digit.png", f"{split}/{digit}/{index}.png")
    return folder


def broken_off(monkeypatch: pytest.MonkeyPatch, module: ModuleType, train: Callable[[], Any], step: int) -> None:
    """Run a training of `module` up to `step`, with a checkpoint after every step."""
    average = module.update_average  # type: ignore[attr-defined]

    def stopping(*arguments: Any) -> None:
        if arguments[2] == step:
            raise Broken
        average(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "Checkpoint", functools.partial(module.Checkpoint, every_s=0.0))  # type: ignore[attr-defined]
        patch.setattr(module, "update_average", stopping)
        with pytest.raises(Broken):
            train()
