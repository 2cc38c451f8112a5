"""What every training shares: a resumable state of networks, averages and optimizer, with the time it took."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit.errors import InputError


@dataclass
class Checkpoint:
    """State dicts by name, the step they are of and the seconds it took, written whole or not at all.

    `recipe` is compared on resuming: a checkpoint of another recipe is refused.
    """

    path: Path
    recipe: Mapping[str, Any]
    parts: Mapping[str, Any]
    every_s: float = 60.0
    seconds: float = 0.0  # of training before this run
    _began: float = field(default_factory=time.monotonic)
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
        self.seconds = state.get("seconds", 0.0)
        return int(state["step"])

    def save(self, step: int, last: bool = False) -> bool:
        """Write the state if the last writing is `every_s` ago, or `last` is set; says whether it did."""
        if not last and time.monotonic() - self._saved < self.every_s:
            return False
        states = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.path.with_suffix(".partial")
        self._saved = time.monotonic()
        seconds = self.seconds + self._saved - self._began
        torch.save({"recipe": dict(self.recipe), "step": step, "seconds": seconds, **states}, partial)
        partial.replace(self.path)
        return True


def training_seconds(runs: Path, name: str, stages: Sequence[str] = ()) -> float:
    """Seconds that the checkpoints of a recipe, NAME.pt and NAME-STAGE.pt, took to train, interruptions left out."""
    paths = [
        path for path in (runs / f"{part}.pt" for part in (name, *(f"{name}-{s}" for s in stages))) if path.exists()
    ]
    return sum(float(torch.load(p, weights_only=True, mmap=True).get("seconds", 0.0)) for p in paths)


def fingerprint(net: nn.Module) -> str:
    """Twelve letters that name these weights: a later stage is resumed only where it began from the same."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, step: int, decay: float) -> None:
    """Exponential moving average of the weights; the first steps are averaged over less."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
