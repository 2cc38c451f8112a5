"""Doubles for live video: sources that die and return, and a pipeline over them that ends by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from edgekit.demos.live.slots import now
from edgekit.demos.live.sources import Source, SourceLost
from edgekit.demos.live.stamps import stamp
from edgekit.images import UInt8


class Camera(Source):
    """A live source at `fps` that gives `lasts` frames and then none, or hangs, or raises."""

    def __init__(self, fps: float = 200.0, lasts: int = 10**9, end: Callable[[], None] = lambda: None) -> None:
        self.title, self.fps, self.live = "test camera", fps, True
        self._lasts, self._end, self.count, self.closed = lasts, end, 0, False

    def read(self) -> UInt8 | None:
        time.sleep(1 / self.fps)
        if self.count >= self._lasts:
            self._end()
            return None
        image = np.full((48, 64, 3), 90, np.uint8)
        stamp(image, self.count)
        self.count += 1
        return image

    def close(self) -> None:
        self.closed = True


class Plug:
    """Makes the cameras it is given, one after another; an exception among them is raised instead."""

    def __init__(self, *cameras: Source | Exception) -> None:
        self._cameras = list(cameras)
        self.opened = 0

    def __call__(self) -> Source:
        if not self._cameras:
            raise SourceLost("unplugged")
        self.opened += 1
        found = self._cameras.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Wait for a condition."""
    end = now() + seconds
    while now() < end:
        if condition():
            return True
        time.sleep(0.01)
    return condition()
