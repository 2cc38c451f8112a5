"""Sources: a camera, a video file, a network stream, the Raspberry Pi's camera, or a pattern with numbered frames."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.demos.live.stamps import stamp
from edgekit.errors import EdgekitError, ImageError, NotInstalled
from edgekit.images import UInt8, opencv
from edgekit.session import Closing
from edgekit.video import VideoReader

OPEN_MS, READ_MS = 5000, 5000  # what a network camera may take to answer, and to send a frame
STREAM_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
DEFAULT_SIZE = (480, 640)  # height and width of a camera that is told none
DEFAULT_FPS = 30.0


class SourceLost(EdgekitError, OSError):
    """A source cannot be opened, or gives no more frames."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Wanted:
    """What a source is asked for: height and width, and frames a second; None takes what it has."""

    size: tuple[int, int] | None = None
    fps: float | None = None


class Source(Closing):
    """An open source of frames. `live` ones go on whether or not they are read; others can wait.

    `fps` is 0 where the source does not say; `age_s` is how old the last frame was when it was read, where that is known.
    """

    title: str
    live: bool = True
    fps: float = 0.0
    age_s: float = 0.0

    @abstractmethod
    def read(self) -> UInt8 | None:
        """The next frame, uint8 height × width × RGB, an array of its own; None where there are no more.

        Raises:
            SourceLost, ImageError: the source broke.
        """

    def cancel(self) -> None:
        """Wake a `read` that waits, from another thread: what it waits for is not wanted any more."""

    def close(self) -> None:
        """Free the device or file."""


class Synthetic(Source):
    """A moving pattern whose frames bear their number (`stamps`); for tests, and where there is no camera."""

    live = False

    def __init__(self, wanted: Wanted) -> None:
        height, width = wanted.size or DEFAULT_SIZE
        self.title, self.fps = f"synthetic {width} × {height}", wanted.fps or DEFAULT_FPS
        self._number = 0
        rows, columns = np.mgrid[0 : 2 * height, 0 : 2 * width].astype(np.float32)
        waves = [
            np.sin(columns / a + rows / b) + np.sin(rows / c) for a, b, c in ((17, 31, 23), (29, 13, 37), (41, 53, 11))
        ]
        self._ground = np.stack([(wave * 55 + 128).astype(np.uint8) for wave in waves], -1)
        self._size = height, width

    def read(self) -> UInt8:
        height, width = self._size
        top, left = self._number % height, (2 * self._number) % width
        image = self._ground[top : top + height, left : left + width].copy()
        stamp(image, self._number)
        self._number += 1
        return image


class VideoFile(Source):
    """A video file, frame by frame."""

    live = False

    def __init__(self, path: Path) -> None:
        self._reader = VideoReader(path)
        self._frames = iter(self._reader)
        self.title, self.fps = path.name, self._reader.facts.fps

    def read(self) -> UInt8 | None:
        return next(self._frames, None)

    def close(self) -> None:
        self._reader.close()


class Stream(Source):
    """What OpenCV opens as a live source: a camera by number or device, an MJPEG or RTSP address."""

    def __init__(self, title: str, opened: Any) -> None:
        cv2 = opencv()
        self.title, self._capture = title, opened
        fps = opened.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= 240 else 0.0

    def read(self) -> UInt8 | None:
        cv2 = opencv()
        there, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB, dst=frame) if there else None

    def close(self) -> None:
        self._capture.release()


class PiCamera(Source):
    """The Raspberry Pi's camera by Picamera2 (libcamera)."""

    def __init__(self, wanted: Wanted) -> None:
        """Start the first camera.

        Raises:
            NotInstalled: no Picamera2. SourceLost: no camera is connected.
        """
        try:
            picamera2 = importlib.import_module("picamera2")
        except ImportError as error:
            raise NotInstalled(
                "--source picamera needs Picamera2, which Raspberry Pi OS brings: sudo apt install python3-picamera2, and "
                "a virtual environment made with `python3 -m venv --system-site-packages`; a USB camera is --source 0"
            ) from error
        except ValueError as error:  # "numpy.dtype size changed": a part of the system's was built for NumPy 1
            raise NotInstalled(
                f"Picamera2 does not go with the NumPy of this environment ({error}): pip install 'simplejpeg>=1.8' brings "
                "the part that does"
            ) from error
        height, width = wanted.size or DEFAULT_SIZE
        self.title, self.fps = "picamera", wanted.fps or DEFAULT_FPS
        try:
            self._camera = picamera2.Picamera2()
            # Picamera2's names are those of DRM: BGR888 has the bytes R, G, B in memory
            main = {"size": (width, height), "format": "BGR888"}
            controls = {"FrameRate": self.fps}
            self._camera.configure(self._camera.create_video_configuration(main=main, controls=controls))
            self._camera.start()
        except (IndexError, RuntimeError) as error:
            raise SourceLost(
                f"no Raspberry Pi camera answers ({error}): is its cable in, and does `rpicam-hello --list-cameras` "
                "show it? Another program may hold it"
            ) from error

    def read(self) -> UInt8 | None:
        job = self._camera.capture_arrays(["main"], wait=False)
        try:
            (frame,), facts = job.get_result(timeout=READ_MS / 1000)
        except TimeoutError as error:
            raise SourceLost(
                f"the Raspberry Pi camera gave no frame for {READ_MS / 1000:.0f} s: is its cable in at both ends?"
            ) from error
        if exposed := facts.get("SensorTimestamp"):  # nanoseconds of the system's monotonic clock
            self.age_s = max(0.0, (time.monotonic_ns() - exposed) / 1e9)
        return np.ascontiguousarray(frame[:, :, :3])

    def close(self) -> None:
        self._camera.stop()
        self._camera.close()


def opener(text: str, wanted: Wanted) -> Callable[[], Source]:
    """What opens the source that `--source` names, again and again if need be.

    Raises:
        ImageError: the name is of no source. The opener raises SourceLost, ImageError, NotInstalled.
    """
    if text == "synthetic":
        return lambda: Synthetic(wanted)
    if text == "picamera":
        return lambda: PiCamera(wanted)
    if text.isdecimal():
        return lambda: _camera(text, int(text), wanted)
    if text.startswith("/dev/"):
        return lambda: _camera(text, text, wanted)
    if "://" in text:
        return lambda: _network(text)
    if not Path(text).is_file():
        raise ImageError(
            f"got --source '{text}': expected a camera's number (0), a video file, an address (http://…, rtsp://…), "
            "picamera, or synthetic"
        )
    return lambda: VideoFile(Path(text))


def fitted(image: UInt8, size: tuple[int, int] | None) -> UInt8:
    """The image at a height and width: its middle, of their aspect, resized."""
    if size is None or image.shape[:2] == size:
        return image
    cv2 = opencv()
    factor = min(image.shape[0] / size[0], image.shape[1] / size[1])
    rows, columns = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    part = image[top : top + rows, left : left + columns]
    if part.shape[:2] == size:
        return np.ascontiguousarray(part)
    method = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    resized: UInt8 = cv2.resize(part, (size[1], size[0]), interpolation=method)
    return resized


def _camera(text: str, which: int | str, wanted: Wanted) -> Source:
    cv2 = _quiet()
    capture = cv2.VideoCapture(which, cv2.CAP_V4L2)
    height, width = wanted.size or DEFAULT_SIZE
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter_fourcc(*"MJPG"))  # USB 2 has no room for raw frames at 30 fps
    for key, value in (
        (cv2.CAP_PROP_FRAME_WIDTH, width),
        (cv2.CAP_PROP_FRAME_HEIGHT, height),
        (cv2.CAP_PROP_FPS, wanted.fps or DEFAULT_FPS),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ):
        capture.set(key, value)
    if not capture.isOpened():
        capture.release()
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise SourceLost(
            f"camera '{text}' cannot be opened (devices here: {there}): is it plugged in, free, and are you in the group "
            "'video'? --source synthetic shows a test pattern without one"
        )
    return Stream(f"camera {text}", capture)


def _network(address: str) -> Source:
    cv2 = _quiet()
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
    with _for_streams():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    if not capture.isOpened():
        capture.release()
        raise SourceLost(
            f"no video from '{shown(address)}' within {OPEN_MS / 1000:.0f} s: is the address right, and the camera on? "
            "Expected an MJPEG or RTSP stream, such as http://192.168.1.20:8080/video"
        )
    return Stream(shown(address), capture)


@contextlib.contextmanager
def _for_streams() -> Iterator[None]:
    """FFmpeg's options for a live stream, while one is opened: a file would lose its first frames by them."""
    if STREAM_OPTIONS in os.environ:  # the user's own
        yield
        return
    os.environ[STREAM_OPTIONS] = "rtsp_transport;tcp|fflags;nobuffer"
    try:
        yield
    finally:
        del os.environ[STREAM_OPTIONS]


def shown(address: str) -> str:
    """An address without the user and password in it."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _quiet() -> Any:
    """OpenCV that leaves the terminal to our own errors, unless the user has set it otherwise."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(READ_MS // 1000))
    cv2 = opencv()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
