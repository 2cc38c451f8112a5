"""Browser camera: a source whose frames a page sends."""

from __future__ import annotations

from typing import NamedTuple

from edgekit.demos.live.slots import Slot, now
from edgekit.demos.live.sources import Source
from edgekit.demos.live.views.encoding import from_jpeg
from edgekit.errors import ImageError
from edgekit.images import UInt8

WAIT_S = 0.5
OLDEST_S = 2.0  # that a page may say a frame is: its word is not taken for more


class Sent(NamedTuple):
    """A JPEG, when it arrived, and how old the page says it was when it was sent."""

    jpeg: bytes
    arrived: float
    age_s: float


class BrowserCamera(Source):
    """Hands out what `send` is given, the latest first; what cannot be decoded is passed over and counted."""

    title = "the browser's camera"

    def __init__(self) -> None:
        self._slot: Slot[Sent] = Slot()
        self._seen = 0
        self.undecodable = 0

    def send(self, jpeg: bytes, age_s: float) -> None:
        self._slot.put(Sent(jpeg, now(), min(max(0.0, age_s), OLDEST_S)))

    def read(self) -> UInt8 | None:
        while not self._slot.closed:
            taken = self._slot.take(self._seen, WAIT_S)
            if taken is None:
                continue
            self._seen, sent = taken
            try:
                image = from_jpeg(sent.jpeg)
            except ImageError:
                self.undecodable += 1
                continue
            self.age_s = now() - sent.arrived + sent.age_s
            return image
        return None

    def cancel(self) -> None:
        self._slot.close()

    def close(self) -> None:
        self._slot.close()
