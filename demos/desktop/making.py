"""Making: from a picture and a bundle to the result, tile by tile, so that it can be watched and stopped. No Qt here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import edgekit
from edgekit import registry
from edgekit.bundle import Bundle, shipped
from edgekit.demos.desktop.pictures import Picture
from edgekit.errors import ImageError, InputError
from edgekit.images import MAX_PIXELS, UInt8
from edgekit.session import Closing, Placement
from edgekit.tasks.stylize import Stylizer
from edgekit.tasks.tiled import TiledTask

Progress = Callable[[int, int], None]


class Cancelled(Exception):  # no EdgekitError: nothing went wrong
    """The job was stopped between two tiles."""


@dataclass(frozen=True)
class Wish:
    """What shall be done to a picture; `bundle` is a shipped one's name, or the path of a folder or .zip."""

    bundle: str
    runtime: str = "auto"
    precision: str = "auto"
    strength: float = 1.0

    @property
    def model(self) -> tuple[str, str, str]:
        return self.bundle, self.runtime, self.precision


@dataclass(frozen=True, eq=False)
class Job:
    """A wish for one picture; `stop` may be set by any thread."""

    picture: Picture
    wish: Wish
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Made:
    """A job's result: the picture, the bundle's name, where it ran, and the milliseconds without opening the model.

    `first` says that the model was opened for it: an engine's first run takes longer than those that follow.
    """

    job: Job
    picture: Picture
    bundle: str
    placement: Placement
    milliseconds: float
    first: bool

    @property
    def figures(self) -> str:
        """Sizes, bundle, engine, precision, device and time, as one line."""
        where, first = self.placement, ", the first run" if self.first else ""
        return (
            f"{self.job.picture.size}  →  {self.picture.size}   ·   {self.bundle}   ·   {where.runtime} {where.precision} "
            f"on {where.device}   ·   {self.milliseconds:,.0f} ms{first}"
        )


class Maker(Closing):
    """Does jobs one after another, and keeps the last model open for the next. Not thread-safe: one thread uses it."""

    def __init__(self) -> None:
        self._open: tuple[tuple[str, str, str], TiledTask] | None = None

    def make(self, job: Job, progress: Progress) -> Made:
        """The result; `progress` is told the tiles done and those there are, before the first and after every one.

        Raises:
            Cancelled: `job.stop` was set. EdgekitError: as `edgekit.load` and the task say.
        """
        task, first = self._task(job.wish)
        _stopped(job)
        image = job.picture.image
        _require_room(image, task.scale)
        total, done = task.tile_count(image), 0
        progress(0, total)

        def tile() -> None:
            nonlocal done
            done += 1
            progress(done, total)
            _stopped(job)

        begin = time.perf_counter()
        # only what paints can be mixed with the photo
        options = {"strength": job.wish.strength} if isinstance(task, Stylizer) else {}
        result: UInt8 = task(image, progress=tile, **options)  # type: ignore[operator]  # each TiledTask is called so
        milliseconds = (time.perf_counter() - begin) * 1000
        return Made(job, Picture.of(result), task.bundle.name, task.placement(), milliseconds, first)

    def close(self) -> None:
        """Free the model."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _task(self, wish: Wish) -> tuple[TiledTask, bool]:
        """The task that was wished for, and whether it had to be opened."""
        if self._open is not None and self._open[0] == wish.model:
            return self._open[1], False
        bundle = image_bundle(wish.bundle)
        self.close()
        task: TiledTask = edgekit.load(bundle, wish.runtime, precision=wish.precision)
        self._open = wish.model, task
        return task, True


def image_bundle(source: str | Path) -> Bundle:
    """The bundle, if it turns a picture into another.

    Raises:
        InputError: it is for something else. BundleError: it is none.
    """
    bundle = Bundle.open(source)
    task = bundle.manifest.task
    if task is None or not issubclass(registry.find("tasks", task.name), TiledTask):
        does = f"has the task '{task.name}'" if task else "states no task"
        raise InputError(
            f"{bundle.name} {does}: this program needs a bundle that turns a picture into another (upscale, stylize)"
        )
    return bundle


def offered() -> dict[str, str]:
    """The shipped bundles that turn a picture into another, and what each does, in a few words."""
    found = {}
    for name, folder in shipped().items():
        task = Bundle.open(folder).manifest.task
        if task is not None and task.name in ("upscale", "stylize"):
            scale, style = task.settings.get("scale"), task.settings.get("style")
            found[name] = f"×{scale}" if scale else str(style or "")
    return found


def _stopped(job: Job) -> None:
    if job.stop.is_set():
        raise Cancelled


def _require_room(image: UInt8, scale: int) -> None:
    height, width = image.shape[0] * scale, image.shape[1] * scale
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"the result would be {width:,} × {height:,} ({height * width / 1e6:,.0f} megapixels), and the limit is "
            f"{MAX_PIXELS / 1e6:.0f}: take a smaller picture, or a bundle that enlarges less"
        )
