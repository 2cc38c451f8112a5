"""Recorder: what is shown as a video file of an even rate, and single pictures."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from edgekit.demos.live.frames import Shown
from edgekit.demos.live.sources import fitted
from edgekit.images import UInt8, write_image
from edgekit.session import Closing
from edgekit.video import VideoWriter

DEFAULT_FPS = 30.0  # where the source does not say
LONGEST_PAUSE_S = 5.0  # a longer one is cut out


class Recorder(Closing):
    """Writes frames to a video as they are shown: one that came late is repeated until then, so that time runs true.

    The size is that of the first frame; what has another afterwards is fitted into it.
    """

    def __init__(self, path: Path, fps: float) -> None:
        """Nothing is written before the first frame.

        Raises:
            ImageError: an ending that is not written here, or no such folder.
        """
        self._writer = VideoWriter(path, fps)
        self.path, self._fps = path, fps
        self._size: tuple[int, int] | None = None
        self._last: UInt8 | None = None
        self._start: float | None = None

    @classmethod
    def named(cls, folder: Path, fps: float) -> Recorder:
        """A recorder to an MP4 in the folder, named by the time."""
        return cls(_free(folder, ".mp4"), fps if 0 < fps <= 120 else DEFAULT_FPS)

    @property
    def frames(self) -> int:
        return self._writer.frames

    def add(self, shown: Shown) -> None:
        """Write a frame at its time in the source.

        Raises:
            ImageError: the codec refuses.
        """
        at = shown.source.at
        self._size = self._size or (shown.image.shape[0], shown.image.shape[1])
        if self._start is None:
            self._start = at
        missing = round((at - self._start) * self._fps) - self._writer.frames
        if missing > LONGEST_PAUSE_S * self._fps:
            self._start += missing / self._fps
            missing = 0
        image = fitted(shown.image, self._size)
        for _ in range(max(0, missing)):
            self._writer.write(self._last if self._last is not None else image)
        self._last = image
        if missing >= 0:
            self._writer.write(image)

    def close(self) -> None:
        self._writer.close()


def snapshot(shown: Shown, folder: Path) -> Path:
    """Write the picture to a PNG in the folder, named by the time, and return its path.

    Raises:
        ImageError: it cannot be written.
    """
    path = _free(folder, ".png")
    write_image(path, shown.image)
    return path


def _free(folder: Path, suffix: str) -> Path:
    """A name that no file there has yet."""
    name = time.strftime("edgekit-%Y%m%d-%H%M%S")
    return next(p for n in itertools.count() if not (p := folder / f"{name}{f'-{n}' if n else ''}{suffix}").exists())
