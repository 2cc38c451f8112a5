"""Viewers: what is on its way to each browser, by credits: who is slow gets fewer frames, never older ones."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from edgekit.demos.live.slots import now
from edgekit.demos.live.views.encoding import Encoded

CREDITS = 2  # frames on their way to one viewer
FORGOTTEN_S = 3.0  # a frame that was not acknowledged by then is taken for lost
MOST_VIEWERS = 16


class Viewer:
    """One browser: frames sent and not yet acknowledged, and the latest that it has not been sent."""

    def __init__(self) -> None:
        self._sent: OrderedDict[int, tuple[float, Encoded]] = OrderedDict()
        self._latest: Encoded | None = None
        self._wake = asyncio.Event()
        self.dropped = 0

    def offer(self, frame: Encoded) -> None:
        """The latest frame, in place of one that could not be sent."""
        self.dropped += self._latest is not None
        self._latest = frame
        self._wake.set()

    def acknowledged(self, number: int) -> Encoded | None:
        """The viewer has shown, or thrown away, a frame: the frame, or None for a number that is not on its way."""
        _, frame = self._sent.pop(number, (0.0, None))
        self._wake.set()
        return frame

    async def next(self) -> Encoded:
        """The frame to send now: waits for a frame and for a credit."""
        while True:
            self._forget()
            if self._latest is not None and len(self._sent) < CREDITS:
                frame, self._latest = self._latest, None
                self._sent[frame.number] = now(), frame
                return frame
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), FORGOTTEN_S / 2)
            except TimeoutError:
                continue

    def _forget(self) -> None:
        for number in [n for n, (at, _) in self._sent.items() if now() - at > FORGOTTEN_S]:
            del self._sent[number]


class Audience:
    """All viewers; `spread` is called on the event loop."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()
        self._newest = 0  # the last frame that any of them has shown

    def __len__(self) -> int:
        return len(self._viewers)

    @property
    def full(self) -> bool:
        return len(self._viewers) >= MOST_VIEWERS

    def enter(self) -> Viewer:
        viewer = Viewer()
        self._viewers.add(viewer)
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)

    def spread(self, frame: Encoded) -> None:
        for viewer in self._viewers:
            viewer.offer(frame)

    def first_to_show(self, frame: Encoded) -> bool:
        """Whether no viewer has shown the frame or a later one before: the figures count each frame once."""
        if frame.number <= self._newest:
            return False
        self._newest = frame.number
        return True
