"""Effects: what is done to a frame, by one bundle or two, at a working size that may be smaller than the picture."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit import registry
from edgekit.bundle import Bundle, shipped
from edgekit.demos.live.slots import now
from edgekit.demos.live.smoothing import Smoother
from edgekit.errors import InputError
from edgekit.images import UInt8, opencv
from edgekit.session import Closing

EFFECTS: dict[str, tuple[str, ...]] = {  # the tasks that each runs, in this order
    "style": ("stylize",),
    "upscale": ("upscale",),
    "both": ("stylize", "upscale"),
    "compare": ("stylize",),
    "none": (),
}
WHOLE = 2048  # pixels a side up to which a frame is one tile: halves of it would cost more than the whole
LEAST = 32  # pixels a side of the smallest working size
WARM_RUNS = 2


@dataclass(frozen=True)
class Wish:
    """What is to be shown, and by what; a view changes it with `Pipeline.wish`.

    `split`: where the picture goes over from the source to the effect, 0 to 1 of its width; None shows the effect
    alone.
    """

    effect: str = "style"
    style: str = "style-wave"
    upscaler: str = "sr-x2"
    runtime: str = "auto"
    device: str = "cpu"
    precision: str = "auto"
    threads: int | None = None
    mirror: bool = False
    split: float | None = None
    smooth: bool = True

    @classmethod
    def named(cls, name: str, **request: Any) -> Wish:
        """From `--effect`: style, upscale, both, compare, none, or a bundle that stylises or upscales.

        Raises:
            InputError: a bundle of another task. BundleError: no such effect or bundle.
        """
        if name in EFFECTS:
            return cls(effect=name, **request)
        task = _task(Bundle.open(name))
        if task == "stylize":
            return cls(effect="style", style=name, **request)
        if task == "upscale":
            return cls(effect="upscale", upscaler=name, **request)
        raise InputError(
            f"got --effect {name}, a bundle of task '{task}': expected one that stylises or upscales, or {', '.join(EFFECTS)}"
        )

    def bundles(self) -> list[str]:
        """The bundles that it runs, in their order."""
        return [self.style if task == "stylize" else self.upscaler for task in EFFECTS[self.effect]]

    def same_models(self, other: Wish) -> bool:
        """Whether the other needs no model to be opened anew."""
        return self._models() == other._models()

    def _models(self) -> tuple[Any, ...]:
        return (*self.bundles(), self.runtime, self.device, self.precision, self.threads)


def choices() -> dict[str, list[str]]:
    """What there is to choose from among what ships: bundles by task."""
    found: dict[str, list[str]] = {"stylize": [], "upscale": []}
    for name, folder in shipped().items():
        task = _task(Bundle.open(folder))
        if task in found:
            found[task].append(name)
    return found


@dataclass(frozen=True)
class Done:
    """A frame after the effect: the picture, milliseconds in the models (None: none ran), and the size they got."""

    image: UInt8
    model_ms: float | None
    working: tuple[int, int]


class Effect(Closing):
    """The opened models of a wish; call it with frames, from one thread."""

    def __init__(self, wish: Wish, tasks: Sequence[Any]) -> None:
        self.wish, self._tasks = wish, tasks
        self._smooth = Smoother()

    @classmethod
    def opened(cls, wish: Wish) -> Effect:
        """Open the models.

        Raises:
            BundleError, NotInstalled, DeviceUnavailable, EngineError, InputError: as `edgekit.load`.
        """
        with contextlib.ExitStack() as opened:
            tasks = [opened.enter_context(_loaded(name, wish)) for name in wish.bundles()]
            opened.pop_all()
        return cls(wish, tasks)

    def changed(self, wish: Wish) -> None:
        """Take over what needs no other models: mirror, split, smoothing."""
        if wish.effect != self.wish.effect:
            self._smooth.reset()
        self.wish = wish

    def warm(self, height: int, width: int) -> None:
        """Let the engines prepare themselves for frames of a size."""
        for _ in range(WARM_RUNS):
            self(np.full((height, width, 3), 127, np.uint8), 1.0)
        self._smooth.reset()

    def __call__(self, image: UInt8, scale: float) -> Done:
        """Do it to one frame, uint8 height × width × RGB; the models work at `scale` of its sides.

        Raises:
            EngineError, ImageError: as the tasks.
        """
        cv2, wish = opencv(), self.wish
        if wish.mirror:
            image = cv2.flip(image, 1)
        if not self._tasks:
            return Done(image, None, (image.shape[0], image.shape[1]))
        working = _scaled(image, scale)
        start, painted = now(), working
        for task in self._tasks:
            painted = task(painted)
            if wish.smooth and task.name == "stylize":
                painted, smoothing = self._steady(working, painted)
                start += smoothing
        model_ms = (now() - start) * 1e3
        size = tuple(side * self.enlarges for side in image.shape[:2])
        if painted.shape[:2] != size:
            painted = cv2.resize(painted, size[::-1], interpolation=cv2.INTER_LINEAR)
        return Done(self._composed(image, painted), model_ms, (working.shape[0], working.shape[1]))

    @property
    def enlarges(self) -> int:
        """How many times as large the picture becomes."""
        return int(np.prod([task.scale for task in self._tasks], dtype=int))

    def placements(self) -> list[dict[str, str]]:
        """Where each model runs, as its engine tells."""
        rows = []
        for task in self._tasks:
            place = task.placement()
            rows.append(
                {
                    "bundle": task.bundle.name,
                    "engine": place.runtime,
                    "version": place.version,
                    "device": place.device,
                    "precision": task.variant.precision,
                    "why": place.why,
                }
            )
        return rows

    def close(self) -> None:
        for task in self._tasks:
            task.close()

    def _steady(self, source: UInt8, painted: UInt8) -> tuple[UInt8, float]:
        """The painted frame smoothed, and the seconds that this took: they are not the model's."""
        start = now()
        smooth = self._smooth(source, painted)
        return smooth, now() - start

    def _composed(self, image: UInt8, painted: UInt8) -> UInt8:
        """The picture to show: the effect alone, with the source at its left, or both side by side."""
        cv2, wish = opencv(), self.wish
        if wish.effect != "compare" and wish.split is None:
            return painted
        height, width = painted.shape[:2]
        before = (
            image if image.shape == painted.shape else cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        )
        if wish.effect == "compare":
            return np.hstack([before, painted])
        seam = round(width * (wish.split or 0.0))
        composed = painted.copy()
        composed[:, :seam] = before[:, :seam]
        composed[:, max(0, seam - 1) : seam + 1] = 255
        return composed


def _scaled(image: UInt8, scale: float) -> UInt8:
    if scale >= 1.0:
        return image
    height, width = (max(min(LEAST, side), round(side * scale / 8) * 8) for side in image.shape[:2])
    resized: UInt8 = opencv().resize(image, (width, height), interpolation=opencv().INTER_AREA)
    return resized


def _loaded(name: str, wish: Wish) -> Any:
    """The task of a bundle, which takes a whole frame as one tile where shapes are free."""
    bundle = Bundle.open(name)
    task = registry.find("tasks", _task(bundle))
    return task(
        bundle, wish.runtime, device=wish.device, precision=wish.precision, threads=wish.threads, max_tile=WHOLE
    )


def _task(bundle: Bundle) -> str:
    if bundle.manifest.task is None:
        raise InputError(f"{bundle.name} states no task: expected a bundle that stylises or upscales")
    return bundle.manifest.task.name
