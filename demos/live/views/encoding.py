"""Encoding: the latest frame as a JPEG, made once for all who look, and only while somebody does."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgekit.demos.live.frames import Shown
from edgekit.demos.live.pipeline import TICK_S, Pipeline
from edgekit.errors import EdgekitError, ImageError
from edgekit.images import UInt8, decode_image, opencv

QUALITY = 80
MOST_PIXELS = 1920 * 1200  # of a picture that a browser sends


@dataclass(frozen=True)
class Encoded:
    """A frame's number in the slot, and its JPEG."""

    number: int
    jpeg: bytes
    shown: Shown


class Encoder(threading.Thread):
    """Takes what comes out of the pipeline, in a thread of its own, and hands each JPEG to `tell`."""

    def __init__(self, pipeline: Pipeline, wanted: Callable[[], bool], tell: Callable[[Encoded], None]) -> None:
        super().__init__(name="live-encoder", daemon=True)
        self._pipeline, self._wanted, self._tell = pipeline, wanted, tell

    def run(self) -> None:
        seen = 0
        try:
            while not self._pipeline.over:
                taken = self._pipeline.output.take(seen, TICK_S)
                if taken is not None:
                    seen = taken.number
                    self._pass(Encoded(seen, jpeg(taken.item.image) if self._wanted() else b"", taken.item))
        except EdgekitError as error:
            self._pipeline.fail(error)

    def _pass(self, frame: Encoded) -> None:
        self._pipeline.record(frame.shown)
        if frame.jpeg:
            self._tell(frame)
        else:  # nobody looks: the figures go on
            self._pipeline.figures.shown(frame.shown)


def jpeg(image: UInt8) -> bytes:
    """uint8 height × width × RGB as a JPEG file."""
    cv2 = opencv()
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return bytes(np.asarray(encoded).data)


def from_jpeg(encoded: bytes) -> UInt8:
    """A browser's JPEG as an image of its own; its size is looked at before anything is allocated for it.

    Raises:
        ImageError: no JPEG, a damaged one, or one of more than MOST_PIXELS.
    """
    height, width = jpeg_size(encoded)
    if not 0 < height * width <= MOST_PIXELS:
        raise ImageError(f"got a JPEG of {width} × {height}: expected at most {MOST_PIXELS} pixels")
    return np.ascontiguousarray(decode_image(encoded, "the browser's frame")[:, :, :3])


def jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Height and width as a JPEG's frame header states them (ITU-T T.81, B.2.2).

    Raises:
        ImageError: it has none.
    """
    at = 2
    while encoded[:2] == b"\xff\xd8" and at + 9 <= len(encoded) and encoded[at] == 0xFF:
        marker, length = encoded[at + 1], int.from_bytes(encoded[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # SOF0 to SOF15; those are DHT, JPG, DAC
            height, width = struct.unpack(">HH", encoded[at + 5 : at + 9])
            return height, width
        at += 2 + length
    raise ImageError(f"got {len(encoded)} bytes that are no JPEG")
