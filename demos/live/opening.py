"""Opening: from what the command line asks for to a pipeline and its view."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.demos.live.capture import Pace
from edgekit.demos.live.effects import Wish
from edgekit.demos.live.pipeline import Pipeline, Setup
from edgekit.demos.live.recorder import DEFAULT_FPS, Recorder
from edgekit.demos.live.sources import Source, Wanted, opener
from edgekit.demos.live.views.null import NullView
from edgekit.demos.live.views.view import View
from edgekit.errors import InputError
from edgekit.video import writable_video

TARGET_FPS = 24.0  # of the views that somebody looks at
PATIENCE_S = 30.0  # for a lost source, where nobody looks


@dataclass(frozen=True)
class Address:
    """Where the page is served: `host` None is this machine alone; port 0 is a free one."""

    host: str | None = None
    port: int = 8765
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Asked:
    """The command line. `fps` None: TARGET_FPS where somebody looks, else as fast as it goes."""

    source: str
    wish: Wish
    view: str = "null"
    fps: float | None = None
    size: tuple[int, int] | None = None
    seconds: float | None = None
    record: Path | None = None
    loop: bool = False
    hud: bool = True
    address: Address = field(default_factory=Address)

    @property
    def watched(self) -> bool:
        return self.view in ("window", "web")


@contextlib.contextmanager
def opened(asked: Asked, say: Callable[[str], Any]) -> Iterator[tuple[Pipeline, View]]:
    """The pipeline, not yet started, and its view; `say` is told what a person needs to know, such as an address.

    Raises:
        InputError: options that do not go together. EdgekitError: as source, models and view say.
    """
    if asked.view == "file" and asked.record is None:
        raise InputError("--view file needs the file: --record OUT.mp4")
    if asked.source == "browser" and asked.view != "web":
        raise InputError("--source browser is the camera of whoever looks at the page: it needs --view web")
    if asked.record is not None:
        writable_video(asked.record)
    view = VIEWS[asked.view](asked, say)  # first: without a display or a free port, no model is opened
    make = _source(asked, view)
    with contextlib.ExitStack() as stack:
        pipeline = stack.enter_context(Pipeline(make, asked.wish, _setup(asked)))
        if asked.record is not None:
            recorder = Recorder(asked.record, pipeline.capture.fps if 0 < pipeline.capture.fps <= 120 else DEFAULT_FPS)
            pipeline.recorder = stack.enter_context(recorder)
        yield pipeline, view


def replaced(wish: Wish, **changes: Any) -> Wish:
    """The wish with other bundles."""
    return replace(wish, **changes)


def left_behind() -> bool:
    """Whether a thread still hangs in a driver: the interpreter's own way out would then abort the process."""
    return any(thread.name.startswith("live-") for thread in threading.enumerate())


def _setup(asked: Asked) -> Setup:
    fps = asked.fps if asked.fps is not None else TARGET_FPS if asked.watched else 0.0
    pace = Pace(
        asked.size,
        demand=not asked.watched and not fps,
        loop=asked.loop,
        patience=None if asked.watched else PATIENCE_S,
    )
    return Setup(pace, fps, asked.seconds)


def _source(asked: Asked, view: View) -> Callable[[], Source]:
    if asked.source == "browser":
        return view.camera
    return opener(asked.source, Wanted(asked.size, asked.fps or None))


def _null(asked: Asked, say: Callable[[str], Any]) -> View:
    return NullView()


def _window(asked: Asked, say: Callable[[str], Any]) -> View:
    from edgekit.demos.live.views.window import WindowView

    return WindowView(asked.hud)


def _web(asked: Asked, say: Callable[[str], Any]) -> View:
    from edgekit.demos.live.views.web import WebView

    return WebView(asked.address, say)


VIEWS: dict[str, Callable[[Asked, Callable[[str], Any]], View]] = {
    "null": _null,
    "file": _null,
    "window": _window,
    "web": _web,
}
