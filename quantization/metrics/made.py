"""Made: the pictures that a task of any kind makes in one variant, the same ones asked of every variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8
from edgekit.quantization.calibration import float_precision, reference_engine
from edgekit.tasks import load

DRAWING = ("generate", "diffuse", "autoencode")  # tasks that draw by a seed
TURNING = ("upscale", "stylize")  # tasks that make a picture of a picture
BATCH = 100


@dataclass(frozen=True)
class Request:
    """Photos to turn, or, where there are none, `count` samples by a seed."""

    photos: Sequence[UInt8] = ()
    count: int = 0
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "".join(f", {key} {value}" for key, value in self.options.items())
        return f"{len(self.photos)} images" if self.photos else f"{self.count:,} samples of seed {self.seed}{options}"

    def pictures(self, bundle: Bundle, runtime: str, precision: str) -> list[UInt8]:
        """What one variant makes of it: uint8 images.

        Raises:
            InputError: the bundle's task makes no pictures.
        """
        with load(bundle, runtime, precision=precision) as task:
            name = task.name
            if name == "autoencode" and self.photos:
                return [task.reconstruct(photo) for photo in self.photos]
            if name in TURNING:
                return [task(photo) for photo in self.photos]
            if name not in DRAWING:
                raise InputError(f"{bundle.name} of task '{name}' makes no pictures: expected {', '.join(MAKING)}")
            starts = range(0, self.count, BATCH)
            batches = [(min(BATCH, self.count - start), self.seed + start) for start in starts]
            return [p for n, seed in batches for p in task.sample(n, seed=seed, **self.options)]


MAKING = (*TURNING, *DRAWING)


def truth(bundle: Bundle) -> tuple[str, str]:
    """The engine and the precision that others are compared with: PyTorch, where the bundle carries the weights, else a
    float file.
    """
    exact = float_precision(bundle)
    formats = {v.format for v in bundle.component(bundle.main).variants if v.precision == exact}
    return ("torch" if "torch" in formats else reference_engine(bundle)), exact
