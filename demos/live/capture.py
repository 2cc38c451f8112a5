"""Capture: reads a source in a thread of its own, and opens it anew when it stalls or is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.demos.live.frames import Frame
from edgekit.demos.live.slots import Slot, now
from edgekit.demos.live.sources import Source, SourceLost, fitted
from edgekit.errors import EdgekitError

STALLED_S = 2.0  # without a frame, a live source is said to have stalled
ABANDONED_S = 12.0  # and is left to itself and opened anew: longer than OpenCV's own limits for opening and reading
LEFT_S = 2.0  # at the end, a reader that hangs so long is left behind
TICK_S = 0.1
BACKOFF_S = (0.5, 1.0, 2.0, 5.0)  # between attempts to open a source anew


@dataclass(frozen=True)
class Pace:
    """How a source is read: `demand`: what can wait is read when the effect is ready for more, and none is lost;
    else at its own rate. `loop`: a file starts anew at its end. `patience`: seconds that a lost source is waited for,
    None for ever.
    """

    size: tuple[int, int] | None = None
    demand: bool = False
    loop: bool = False
    patience: float | None = None


class Capture:
    """Frames from a source into `slot`, until `stop`; the slot is closed at the end.

    `state` is "running", "stalled", "reconnecting", "ended" or "failed", and `message` says it in words.
    """

    def __init__(self, make: Callable[[], Source], slot: Slot[Frame], pace: Pace) -> None:
        """Open the source.

        Raises:
            SourceLost, ImageError, NotInstalled: as the source says.
        """
        self.make, self._slot, self._pace = make, slot, pace
        self._stop = threading.Event()
        self._turn: Callable[[], Source] | None = None
        self._adopt(make())
        self.state, self.message = "running", ""
        self.error: EdgekitError | None = None
        self.reconnects, self.captured = 0, 0
        self._start = now()
        self._thread = threading.Thread(target=self._run, name="live-capture", daemon=True)

    def start(self) -> None:
        self._start = now()
        self._thread.start()

    def turn_to(self, make: Callable[[], Source]) -> None:
        """Go on with another source; one that cannot be opened leaves the one before, and `message` says why."""
        self._turn = make

    def stop(self) -> None:
        """End within a moment, also where the source hangs: its thread is then left behind."""
        self._stop.set()
        self._slot.close()
        if self._thread.ident is not None:
            self._thread.join(LEFT_S + 0.5)
        else:
            self._source.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                reader = _Reader(self, self._source)
                reader.start()
                self._watch(reader)
                if self._stop.is_set() or not self._renewed(reader):
                    return
        except Exception as error:  # a fault of our own must not leave the others waiting
            self._fail(EdgekitError(f"the source failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._slot.close()

    def _adopt(self, source: Source) -> None:
        self._source = source
        self.title, self.fps, self.live = source.title, source.fps, source.live

    def _watch(self, reader: _Reader) -> None:
        """Wait until the reader is done; one that hangs is left to itself."""
        while not reader.done.wait(TICK_S):
            silent = now() - reader.heard
            unwanted = self._stop.is_set() or self._turn is not None
            if unwanted or (self.live and silent > ABANDONED_S):
                reader.abandon()
                reader.join(LEFT_S if unwanted else 0.0)
                return
            if not self.live:
                continue
            if silent > STALLED_S:
                self.state, self.message = "stalled", f"{self.title}: no frame for {silent:.0f} s"
            elif self.state == "stalled":
                self.state, self.message = "running", ""

    def _renewed(self, reader: _Reader) -> bool:
        """Whether there is a source to go on with, after one ended or was lost, or another was asked for."""
        if self._turn is not None:
            return self._turned(self._turn)
        if not self.live:
            if reader.error is not None:
                self._fail(reader.error)
            elif self._pace.loop and reader.count:
                self._adopt(self.make())
                return True
            else:
                self.state, self.message = "ended", f"{self.title} ended after {self.captured} frames"
            return False
        return self._reconnected(reader.error)

    def _turned(self, make: Callable[[], Source]) -> bool:
        self._turn = None
        try:
            self._adopt(make())
        except (EdgekitError, OSError) as error:
            self._adopt(self.make())
            self.message = str(error)
        else:
            self.make, self.state, self.message = make, "running", ""
        return True

    def _reconnected(self, error: EdgekitError | None) -> bool:
        since, attempt = now(), 0
        self.state = "reconnecting"
        why = str(error) if error else f"{self.title} gives no more frames"
        while not self._stop.wait(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)]):
            attempt += 1
            if self._turn is not None:
                return self._turned(self._turn)
            self.message = f"{why}: opening it anew ({attempt})"
            try:
                self._adopt(self.make())
            except (EdgekitError, OSError) as again:
                if self._pace.patience is not None and now() - since > self._pace.patience:
                    lost = f"{self.title} was lost and did not return within {self._pace.patience:.0f} s: {again}"
                    self._fail(SourceLost(lost))
                    return False
                continue
            self.reconnects += 1
            self.state, self.message = "running", ""
            return True
        return False

    def _fail(self, error: EdgekitError) -> None:
        self.state, self.message, self.error = "failed", str(error), error


class _Reader(threading.Thread):
    """Reads one opened source to its end; `abandoned` tells it that nobody listens any more."""

    def __init__(self, capture: Capture, source: Source) -> None:
        super().__init__(name="live-reader", daemon=True)
        self._capture, self._source = capture, source
        self.heard, self.count = now(), 0
        self.done, self.abandoned = threading.Event(), False
        self.error: EdgekitError | None = None

    def run(self) -> None:
        try:
            self._read()
        except EdgekitError as error:
            self.error = error
        except Exception as error:  # a driver's own exceptions: the supervisor says what comes next
            self.error = SourceLost(f"{self._source.title}: {type(error).__name__}: {error}")
        finally:
            self._source.close()
            self.done.set()

    def _read(self) -> None:
        capture, pace = self._capture, self._capture._pace
        waits = not self._source.live
        due = now()
        while not self._over():
            if waits and pace.demand and not self._wanted():
                return
            image = self._source.read()
            self.heard = now()
            if image is None or self._over():
                return
            if waits and not pace.demand:
                due = max(due + 1 / (self._source.fps or 30.0), now() - 0.25)  # never in a hurry after a long pause
                if capture._stop.wait(max(0.0, due - now())):
                    return
            captured = now() - self._source.age_s
            at = capture.captured / self._source.fps if pace.demand and self._source.fps else captured - capture._start
            capture._slot.put(Frame(fitted(image, pace.size), capture.captured, captured, at))
            self.count += 1
            capture.captured += 1

    def _wanted(self) -> bool:
        """Wait until the frame before was taken: the next one is then read while the effect works on that."""
        while not self._over():
            if self._capture._slot.emptied(TICK_S):
                return True
        return False

    def abandon(self) -> None:
        """Nobody listens any more: end when the source lets go."""
        self.abandoned = True
        self._source.cancel()

    def _over(self) -> bool:
        return self.abandoned or self._capture._stop.is_set()
