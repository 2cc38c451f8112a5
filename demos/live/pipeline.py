"""Pipeline: a source, an effect and a view, each at its own pace, with a latest-frame slot between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from edgekit.demos.live.capture import Capture, Pace
from edgekit.demos.live.controller import Controller
from edgekit.demos.live.effects import Effect, Wish
from edgekit.demos.live.figures import Figures
from edgekit.demos.live.frames import Frame, Shown
from edgekit.demos.live.recorder import Recorder
from edgekit.demos.live.slots import Slot, now
from edgekit.demos.live.sources import Source
from edgekit.errors import EdgekitError
from edgekit.session import Closing

TICK_S = 0.1


@dataclass(frozen=True)
class Setup:
    """`fps`: the frame rate that is held, 0: as fast as it goes; `seconds`: how long to run, None: until it is ended."""

    pace: Pace = field(default_factory=Pace)
    fps: float = 0.0
    seconds: float | None = None


class Pipeline(Closing):
    """Frames come out of `output`, for a view that tells `figures` of each that it showed.

    What is shown is changed by `wish`, at any time and from any thread: other models are opened beside the running
    ones, which they then replace between two frames. What cannot be had leaves everything as it was, and says so in
    `notice`.
    """

    def __init__(self, make: Callable[[], Source], wish: Wish, setup: Setup | None = None) -> None:
        """Open the source and the models.

        Raises:
            EdgekitError: as the source and the models say.
        """
        self.setup = setup = setup or Setup()
        self.wished = wish
        self._wanted = wish
        self._effect = Effect.opened(wish)
        self.placements = self._effect.placements()
        self.input: Slot[Frame] = Slot()
        self.output: Slot[Shown] = Slot()
        try:
            self.capture = Capture(make, self.input, setup.pace)
        except BaseException:
            self._effect.close()
            raise
        self.controller = Controller(setup.fps)
        self.figures = Figures()
        self.error: EdgekitError | None = None
        self.notice, self.skipped = "", 0
        self.recorder: Recorder | None = None
        self._start = self._first = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._next: Effect | None = None  # opened and warm, to be taken over
        self.source_size: tuple[int, int] | None = None
        self.working: tuple[int, int] | None = None
        self.shown_size: tuple[int, int] | None = None
        self._loader: threading.Thread | None = None
        self._worker = threading.Thread(target=self._work, name="live-effect", daemon=True)

    def start(self) -> None:
        self._start = now()
        self._worker.start()
        self.capture.start()

    def wish(self, **changes: Any) -> None:
        """Ask for something else to be shown: fields of `Wish`."""
        with self._lock:
            self._wanted = replace(self._wanted, **changes)
            if self._loader is None or not self._loader.is_alive():
                self._loader = threading.Thread(target=self._fulfil, name="live-loader", daemon=True)
                self._loader.start()

    @property
    def wanted(self) -> Wish:
        """What was asked for last; `wished` is what is shown, once it is there."""
        return self._wanted

    @property
    def over(self) -> bool:
        """Whether it ended, or its time is up."""
        if self.setup.seconds is not None and self._first and now() - self._first > self.setup.seconds:
            return True
        if self.setup.seconds is not None and not self._first and now() - self._start > self.setup.seconds + 30:
            return True  # not one frame came
        return self._stop.is_set() or self.output.closed

    @property
    def seconds(self) -> float:
        """How long it has run, from the first frame on."""
        return now() - self._first if self._first else 0.0

    @property
    def dropped(self) -> int:
        """Frames that were captured and not shown."""
        return self.input.dropped + self.output.dropped + self.skipped

    def shown(self, frame: Shown, at: float | None = None) -> None:
        """A frame is on screen, now or since the moment `at`; called from one thread at a time.

        Raises:
            ImageError: it is recorded, and cannot be written.
        """
        self.figures.shown(frame, at)
        self.record(frame)

    def record(self, frame: Shown) -> None:
        """Write a frame to the video, where one is recorded.

        Raises:
            ImageError: it cannot be written.
        """
        if self.recorder is not None:
            self.recorder.add(frame)

    def fail(self, error: EdgekitError) -> None:
        """End, for a reason that the user must be told."""
        self.error = self.error or error
        self.stop()

    def stop(self) -> None:
        """Ask it to end; `close` waits for it."""
        self._stop.set()
        self.output.close()

    def close(self) -> None:
        """End all threads; one that hangs in a driver is left behind."""
        self.stop()
        self.capture.stop()
        if self._worker.ident is not None:
            self._worker.join(5.0)
        if self._loader is not None:
            self._loader.join(5.0)
        if not self._worker.is_alive():
            self._effect.close()
            if self._next is not None:
                self._next.close()

    def _work(self) -> None:
        seen = 0
        try:
            while not self._stop.is_set():
                taken = self.input.take(seen, TICK_S)
                if taken is None:
                    if self.input.closed:
                        return
                    continue
                seen, frame = taken
                if frame.number % self.controller.stride(self.capture.fps):
                    self.skipped += 1
                else:
                    self._show(frame)
        except EdgekitError as error:
            self.error = error
        except Exception as error:  # whatever it is, the view must end and say so
            self.error = EdgekitError(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.error = self.error or self.capture.error
            self._finish()

    def _show(self, frame: Frame) -> None:
        start = now()
        self._take_over()
        done = self._effect(frame.image, self.controller.scale)
        cost = now() - start
        self.source_size, self.working = (frame.image.shape[0], frame.image.shape[1]), done.working
        self.shown_size = (done.image.shape[0], done.image.shape[1])
        self._first = self._first or now()
        self.controller.observe(cost, self.seconds)
        shown = Shown(done.image, frame, done.model_ms, cost * 1e3, done.working)
        if not self.setup.pace.demand:
            self.output.put(shown)
            return
        while not self.output.hand(shown, TICK_S):
            if self._stop.is_set() or self.output.closed:
                return

    def _finish(self) -> None:
        """Let the last frame be shown before the view is told that there are no more."""
        while not self._stop.is_set() and self.error is None and not self.output.emptied(TICK_S):
            pass
        self.output.close()

    def _take_over(self) -> None:
        """Go on with what was asked for, where it is ready."""
        with self._lock:
            if self._next is None:
                return
            fresh, self._next = self._next, None
        stale, self._effect = self._effect, fresh
        stale.close()
        self.wished, self.placements = fresh.wish, fresh.placements()
        self.controller.reset()
        self.figures.forget()

    def _fulfil(self) -> None:
        """Open what is wanted, until that is what was wanted last."""
        while not self._stop.is_set():
            with self._lock:
                wanted, shown = self._wanted, self._next.wish if self._next else self.wished
                if wanted == shown:
                    self._loader = None
                    return
                if wanted.same_models(shown):
                    (self._next or self._effect).changed(wanted)
                    if self._next is None:
                        self.wished = wanted
                    continue
            self._open(wanted)

    def _open(self, wanted: Wish) -> None:
        self.notice = f"opening {' and '.join(wanted.bundles()) or 'nothing'}…"
        try:
            fresh = Effect.opened(wanted)
            if self.source_size is not None:
                fresh.warm(*self.source_size)
        except (EdgekitError, OSError) as error:
            self.notice = str(error)
            with self._lock:
                if self._wanted == wanted:
                    self._wanted = self.wished
            return
        self.notice = ""
        with self._lock:
            stale, self._next = self._next, fresh
        if stale is not None:
            stale.close()
