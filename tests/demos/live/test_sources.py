"""Sources: numbered frames, files, an MJPEG camera on loopback, and what is said where there is none."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from demos.live.doubles import Camera, Plug, until

from edgekit.demos.live.capture import Capture, Pace
from edgekit.demos.live.frames import Frame
from edgekit.demos.live.slots import Slot
from edgekit.demos.live.sources import SourceLost, Wanted, fitted, opener, shown
from edgekit.demos.live.stamps import read_stamp, stamp
from edgekit.demos.live.views.encoding import from_jpeg, jpeg, jpeg_size
from edgekit.errors import EdgekitError, ImageError, NotInstalled
from edgekit.images import resize_bicubic
from edgekit.video import VideoWriter


@pytest.mark.parametrize("number", [0, 1, 4711, 2**24 - 1])
def test_a_stamp_survives_jpeg_and_is_not_seen_where_none_is(number: int) -> None:
    image = np.random.default_rng(number).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    assert read_stamp(image) is None
    stamp(image, number)
    assert read_stamp(image) == number
    assert read_stamp(from_jpeg(jpeg(image))) == number
    assert read_stamp(resize_bicubic(image, 480, 640)) == number
    image[0:16, 0:8] ^= 255  # one cell turned: the checksum tells
    assert read_stamp(image) is None


def test_synthetic_frames_are_numbered_and_move() -> None:
    with opener("synthetic", Wanted((120, 160), 25.0))() as source:
        frames = [source.read() for _ in range(3)]
    assert [read_stamp(f) for f in frames if f is not None] == [0, 1, 2] and source.fps == 25
    assert np.abs(frames[0].astype(int) - frames[2]).mean() > 1  # type: ignore[union-attr, operator]


def test_a_file_ends_or_begins_anew(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", 8)
    for loop, expected in ((False, 8), (True, 20)):
        slot: Slot[Frame] = Slot()
        capture = Capture(opener(str(path), Wanted()), slot, Pace(demand=True, loop=loop, size=(48, 64)))
        capture.start()
        taken, seen = [], 0
        while len(taken) < expected and (found := slot.take(seen, 5.0)):
            seen = found.number
            taken.append(found.item)
        assert [frame.number for frame in taken] == list(range(expected))  # on demand none is lost
        assert taken[0].image.shape == (48, 64, 3) and taken[4].at == pytest.approx(4 / 25)
        assert loop or until(lambda capture=capture: capture.state == "ended" and "8 frames" in capture.message)  # type: ignore[misc]
        capture.stop()


def test_a_camera_that_dies_comes_back() -> None:
    plug = Plug(Camera(lasts=5), SourceLost("not yet"), Camera(lasts=10**6))
    slot: Slot[Frame] = Slot()
    capture = Capture(plug, slot, Pace())
    capture.start()
    assert until(lambda: capture.state == "reconnecting")
    assert until(lambda: capture.state == "running" and capture.captured > 8)
    assert capture.reconnects == 1 and plug.opened == 3 and not capture.message
    capture.stop()
    assert slot.closed


def test_a_camera_that_stays_away_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.demos.live.capture.BACKOFF_S", (0.02,))
    slot: Slot[Frame] = Slot()
    capture = Capture(Plug(Camera(lasts=3)), slot, Pace(patience=0.1))
    capture.start()
    assert until(lambda: slot.closed) and capture.state == "failed"
    assert isinstance(capture.error, SourceLost) and "unplugged" in str(capture.error)


def test_a_driver_that_hangs_is_left_and_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.demos.live.capture.STALLED_S", 0.1)
    monkeypatch.setattr("edgekit.demos.live.capture.ABANDONED_S", 0.5)
    hang = threading.Event()
    slot: Slot[Frame] = Slot()
    capture = Capture(Plug(Camera(lasts=3, end=hang.wait), Camera()), slot, Pace())
    capture.start()
    assert until(lambda: capture.state == "stalled") and "no frame for" in capture.message
    assert until(lambda: capture.reconnects == 1 and capture.captured > 6)
    hang.set()
    capture.stop()


def test_stopping_does_not_wait_for_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.demos.live.capture.LEFT_S", 0.2)
    hang = threading.Event()
    capture = Capture(Plug(Camera(lasts=1, end=hang.wait)), Slot(), Pace())
    capture.start()
    assert until(lambda: capture.captured == 1)
    start = time.perf_counter()
    capture.stop()
    assert time.perf_counter() - start < 3
    hang.set()


def test_another_source_while_it_runs() -> None:
    first = Camera()
    slot: Slot[Frame] = Slot()
    capture = Capture(Plug(first, Camera()), slot, Pace())
    capture.start()
    other = Camera()
    other.title = "the other"
    capture.turn_to(lambda: other)
    assert until(lambda: capture.title == "the other" and other.count > 3) and first.closed

    def refuses() -> Camera:
        raise SourceLost("there is none")

    capture.turn_to(refuses)
    assert until(lambda: capture.message == "there is none" and capture.state == "running")
    capture.stop()


class _Mjpeg(BaseHTTPRequestHandler):
    """An IP camera: numbered JPEG frames, ten of them, then it goes silent by closing."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        image = np.full((240, 320, 3), 120, np.uint8)
        for number in range(12):
            stamp(image, number)
            data = jpeg(image)
            self.wfile.write(
                b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data + b"\r\n"
            )
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


def test_an_ip_camera_on_loopback() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    slot: Slot[Frame] = Slot()
    address = f"http://user:secret@127.0.0.1:{server.server_port}/video"
    capture = Capture(opener(address, Wanted()), slot, Pace())
    assert capture.live and "secret" not in capture.title
    capture.start()
    numbers, seen = [], 0
    while capture.reconnects < 1 and (found := slot.take(seen, 10.0)):  # twelve frames, the end, and once more
        seen = found.number
        numbers.append(read_stamp(found.item.image))
    capture.stop()
    server.shutdown()
    server.server_close()
    assert "OPENCV_FFMPEG_CAPTURE_OPTIONS" not in os.environ  # files would lose frames by what streams need
    assert len([n for n in numbers if n is not None]) >= 3 and None not in numbers
    assert numbers[:3] == sorted(numbers[:3])  # type: ignore[type-var]


def test_a_pi_camera(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NotInstalled, match="apt install python3-picamera2"):
        opener("picamera", Wanted())()
    (tmp_path / "picamera2.py").write_text("raise ValueError('numpy.dtype size changed')")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        with pytest.raises(NotInstalled, match="size changed.*simplejpeg"):
            opener("picamera", Wanted())()
    told: dict[str, object] = {}

    class Picamera2:
        def create_video_configuration(self, **asked: object) -> dict[str, object]:
            return asked

        def configure(self, asked: dict[str, object]) -> None:
            told.update(asked)

        def start(self) -> None: ...
        def stop(self) -> None: ...
        def close(self) -> None: ...

        def capture_arrays(self, names: list[str], wait: bool) -> object:
            assert names == ["main"] and not wait
            return self

        def get_result(self, timeout: float) -> tuple[list[np.ndarray], dict[str, int]]:
            if told.get("unplugged"):
                raise concurrent.futures.TimeoutError
            return [np.full((120, 160, 3), 5, np.uint8)], {"SensorTimestamp": time.monotonic_ns() - 40_000_000}

    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=Picamera2))  # type: ignore[arg-type]
    with opener("picamera", Wanted((120, 160), 20.0))() as source:
        assert source.read().shape == (120, 160, 3) and source.fps == 20  # type: ignore[union-attr]
        assert 0.04 <= source.age_s < 5
        told["unplugged"] = True
        with pytest.raises(SourceLost, match="gave no frame for 5 s"):
            source.read()
    assert told["main"] == {"size": (160, 120), "format": "BGR888"}

    def none() -> None:
        raise IndexError("list index out of range")

    monkeypatch.setitem(sys.modules, "picamera2", types.SimpleNamespace(Picamera2=none))  # type: ignore[arg-type]
    with pytest.raises(SourceLost, match="rpicam-hello"):
        opener("picamera", Wanted())()


def test_says_what_is_wrong_with_a_source(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for text, word in {
        "no-such.mp4": "camera's number",
        str(tmp_path / "text.mp4"): "no frame",
        "63": "--source synthetic",
        "http://127.0.0.1:9/video": "no video from",
    }.items():
        with pytest.raises(EdgekitError, match=word):
            opener(text, Wanted())()
    assert shown("rtsp://me:secret@cam.local/live?key=1") == "rtsp://cam.local/live"


def test_fitted_keeps_the_aspect() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    image[10:90] = 255  # what lies above and below is cut off
    assert fitted(image, (48, 64)).shape == (48, 64, 3) and fitted(image, (50, 100)).min() == 255
    assert fitted(image, None) is image and fitted(image, (75, 100)).shape == (75, 100, 3)


def test_a_browsers_jpeg_is_looked_at_before_it_is_decoded() -> None:
    small = jpeg(np.zeros((30, 50, 3), np.uint8))
    assert jpeg_size(small) == (30, 50)
    at = small.index(b"\xff\xc0")
    huge = small[: at + 5] + b"\xff\xff\xff\xff" + small[at + 9 :]
    for data, word in ((huge, "at most"), (b"", "no JPEG"), (b"\xff\xd8\xff", "no JPEG"), (small[: at + 40], "")):
        with pytest.raises(ImageError, match=word):
            from_jpeg(data)


def clip(path: Path, frames: int) -> Path:
    with VideoWriter(path, 25.0) as writer:
        for number in range(frames):
            image = np.full((96, 128, 3), 20 * number, np.uint8)
            writer.write(image)
    return path
