"""Video files: frames as uint8 height × width × RGB, read and written by OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ImageError
from edgekit.images import UInt8, opencv
from edgekit.session import Closing

CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}  # what PyPI's OpenCV can write everywhere
DEFAULT_FPS = 25.0  # where a file does not say


@dataclass(frozen=True)
class VideoFacts:
    """Pixels, frames a second, and how many frames the file says it has; 0 where it does not say."""

    width: int
    height: int
    fps: float
    frames: int


class VideoReader(Closing):
    """Iterate over a video file for its frames, each an array of its own; a context manager that closes."""

    def __init__(self, path: str | Path) -> None:
        """Open a file that OpenCV's FFmpeg can decode.

        Raises:
            ImageError: no such file, an empty one, or no video.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"no video file at '{path}': expected the path of an MP4, WebM, AVI or MKV file")
        if not self.path.stat().st_size:
            raise ImageError(f"'{path}' is empty (0 bytes): expected a video file")
        cv2 = _quiet_opencv()
        self._capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        first = self._read() if self._capture.isOpened() else None
        if first is None:
            self._capture.release()
            raise ImageError(
                f"'{path}' ({self.path.stat().st_size} bytes) has no frame that OpenCV can decode: "
                "expected a video file, whole and undamaged"
            )
        self._first: UInt8 | None = first
        self._count, self._ended = 0, False  # frames handed out, by all passes together
        fps, count = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.facts = VideoFacts(
            first.shape[1], first.shape[0], fps if 0 < fps <= 1000 else DEFAULT_FPS, max(0, int(count))
        )

    def __iter__(self) -> Iterator[UInt8]:
        """The frames that are left: a pass goes on where the one before it broke off; after the last there are none.

        Raises:
            ImageError: the file ends with less than half of the frames that it says it has.
        """
        while (frame := self._next()) is not None:
            self._count += 1
            yield frame
        if 2 * self._count < self.facts.frames:
            raise ImageError(
                f"'{self.path}' ends after {self._count} of {self.facts.frames} frames: it is damaged or was cut short"
            )

    def close(self) -> None:
        self._capture.release()

    def _next(self) -> UInt8 | None:
        frame, self._first = self._first, None
        if frame is None and not self._ended:
            frame = self._read()
            self._ended = frame is None
        return frame

    def _read(self) -> UInt8 | None:
        there, frame = self._capture.read()
        return opencv().cvtColor(frame, opencv().COLOR_BGR2RGB) if there else None


class VideoWriter(Closing):
    """Write frames of one size; the file is there once it is closed, also where an error or Ctrl-C ended the block.

    Sizes are made even by repeating the last row or column, as video codecs need. There is no sound.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        """Nothing is written before the first frame.

        Raises:
            ImageError: another ending than those of CODECS, or no such folder.
        """
        self.path = writable_video(path)
        self.frames = 0
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._writer: Any = None
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")

    def write(self, frame: UInt8) -> None:
        """Append a frame: uint8 height × width × RGB.

        Raises:
            ImageError: another size than the first frame's, or the codec refuses.
        """
        cv2 = opencv()
        size = frame.shape[0], frame.shape[1]
        if self._writer is None:
            self._writer, self._size = self._opened(*size), size
        if size != self._size:
            raise ImageError(f"got a frame of {size}, the first had {self._size}: a video has frames of one size")
        if size[0] % 2 or size[1] % 2:
            frame = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file; without a frame there is none."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._partial.replace(self.path)

    def _opened(self, height: int, width: int) -> Any:
        cv2 = _quiet_opencv()
        code = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        size = width + width % 2, height + height % 2
        writer = cv2.VideoWriter(str(self._partial), cv2.CAP_FFMPEG, code, self._fps, size)
        if not writer.isOpened():
            self._partial.unlink(missing_ok=True)
            raise ImageError(f"cannot write '{self.path}' at {width} × {height}: is the folder writable?")
        return writer


def writable_video(path: str | Path) -> Path:
    """The path of a video to write, checked before the work that makes it.

    Raises:
        ImageError: its ending is of no video format that is written here, or its folder is not there.
    """
    path = Path(path)
    if path.suffix.lower() not in CODECS:
        raise ImageError(f"cannot write '{path}': expected one of the endings {' '.join(CODECS)}")
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise ImageError(f"cannot write '{path}': {reason}")
    return path


def _quiet_opencv() -> Any:
    """OpenCV whose FFmpeg leaves the terminal to our own errors, unless the user has set it otherwise."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    return opencv()
