"""What every recipe shares: a resumable state of networks, averages and optimizer, and a seeded loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.quantization import Quantized


@dataclass
class Checkpoint:
    """State dicts by name and the step they are of, written whole or not at all.

    `recipe` is compared on resuming: a checkpoint of another recipe is refused.
    """

    path: Path
    recipe: Mapping[str, Any]
    parts: Mapping[str, Any]
    every_s: float = 60.0
    _saved: float = field(default_factory=time.monotonic)

    def resume(self) -> int:
        """Load the parts, where there is a checkpoint; returns the steps that are done.

        Raises:
            InputError: the checkpoint is of another recipe.
        """
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["recipe"] != dict(self.recipe):
            raise InputError(
                f"'{self.path}' is of another recipe, {state['recipe']}: name another --runs folder, or delete it"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save(self, step: int, last: bool = False) -> bool:
        """Write the state if the last writing is `every_s` ago, or `last` is set; says whether it did."""
        if not last and time.monotonic() - self._saved < self.every_s:
            return False
        states = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        torch.save({"recipe": dict(self.recipe), "step": step, **states}, partial)
        partial.replace(self.path)
        self._saved = time.monotonic()
        return True


@dataclass(frozen=True)
class ZooRecipe:
    """A bundle of the zoo as `edgekit train NAME` makes it: `build(data, runs, out, recipe, progress)`."""

    recipe: Any
    build: Callable[[Path, Path, Path, Any, Callable[[str], None]], Quantized]


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the weights; the first steps are averaged over less."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
