"""Window view: OpenCV's own window, with the figures over the picture, keys and the mouse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.demos.live import report
from edgekit.demos.live.frames import Shown
from edgekit.demos.live.pipeline import Pipeline
from edgekit.demos.live.recorder import Recorder, snapshot
from edgekit.demos.live.slots import now
from edgekit.demos.live.views.saying import Offer
from edgekit.demos.live.views.view import View
from edgekit.errors import DeviceUnavailable, EdgekitError, NotInstalled
from edgekit.images import UInt8, opencv

TITLE = "edgekit live"
TICK_S = 0.02
STATUS_S = 0.25  # between two looks at the figures
LEAST_SIDE, MOST_WIDTH = 320, 1280  # of the window as it opens
STEP = 0.05  # of the seam, by an arrow key
ELSEWHERE = "--view web shows it in a browser, and with --host on another machine"
ARROWS = {
    0xFF51: "left",
    0xFF53: "right",
    0x250000: "left",
    0x270000: "right",
    0xF702: "left",
    0xF703: "right",
}  # X11, Windows, macOS
HELP = "e effect  s style  u upscaler  g engine  p precision  c split  <- -> seam  m mirror  t steady  space snapshot  r record  h help  q quit"


class WindowView(View):
    """One window in the main thread; closing it ends the run."""

    def __init__(self, hud: bool = True) -> None:
        """Make sure of a display first: OpenCV aborts the process where there is none.

        Raises:
            NotInstalled: an OpenCV without windows. DeviceUnavailable: no display.
        """
        require_window()
        self._seen, self._help_until = 0, 0.0
        self._hud, self._status_at, self._line = hud, 0.0, ""
        self._said, self._said_until = "", 0.0
        self._latest: Shown | None = None

    def run(self, pipeline: Pipeline) -> None:
        cv2 = opencv()
        self._pipeline, self._offer = pipeline, Offer(pipeline.wished)
        keys = self._keys()
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.setMouseCallback(TITLE, self._mouse)
        self._help_until = now() + 4.0
        try:
            while not pipeline.over and self._there():
                self._draw()
                code = cv2.waitKeyEx(1)
                if code != -1 and (do := keys.get(ARROWS.get(code) or chr(code & 0xFF).lower())):
                    do()
        finally:
            pipeline.stop()
            if pipeline.recorder is not None:
                pipeline.recorder.close()
            cv2.destroyAllWindows()

    def _draw(self) -> None:
        """Show the next frame, if there is one within a moment."""
        cv2 = opencv()
        taken = self._pipeline.output.take(self._seen, TICK_S)
        if taken is None:
            return
        if self._latest is None:
            cv2.resizeWindow(TITLE, *_window_size(taken.item.image))
        self._seen, self._latest = taken
        image = cv2.cvtColor(self._latest.image, cv2.COLOR_RGB2BGR)
        if self._hud:
            _written(image, self._lines())
        cv2.imshow(TITLE, image)
        self._pipeline.shown(self._latest)

    def _lines(self) -> list[str]:
        if now() - self._status_at > STATUS_S:
            status = report.status(self._pipeline)
            self._status_at = now()
            wish = self._pipeline.wanted
            what = " ".join([wish.effect, *wish.bundles()])
            self._line = "\n".join(
                line
                for line in (report.line(status), f"{what} · {status['source']}, {status['state']}", status["notice"])
                if line
            )
        said = [self._said] if now() < self._said_until else []
        shown_help = [HELP] if now() < self._help_until else []
        return [*self._line.split("\n"), *said, *shown_help]

    def _there(self) -> bool:
        """Whether the window is still open; OpenCV raises where it was closed."""
        cv2 = opencv()
        try:
            return bool(cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) >= 0.5)
        except cv2.error:
            return False

    def _keys(self) -> dict[str, Callable[[], None]]:
        pipeline = self._pipeline
        return {
            "e": lambda: self._next("effect"),
            "s": lambda: self._next("style"),
            "u": lambda: self._next("upscaler"),
            "g": lambda: self._next("runtime"),
            "p": lambda: self._next("precision"),
            "m": lambda: pipeline.wish(mirror=not pipeline.wanted.mirror),
            "t": lambda: pipeline.wish(smooth=not pipeline.wanted.smooth),
            "c": lambda: pipeline.wish(split=0.5 if pipeline.wanted.split is None else None),
            "left": lambda: self._move(-STEP),
            "right": lambda: self._move(STEP),
            ",": lambda: self._move(-STEP),
            ".": lambda: self._move(STEP),
            " ": self._snapshot,
            "r": self._record,
            "h": self._help,
            "q": pipeline.stop,
            "\x1b": pipeline.stop,
        }

    def _next(self, field: str) -> None:
        names = self._offer.choices[field]
        chosen = names[(names.index(getattr(self._pipeline.wanted, field)) + 1) % len(names)]
        self._pipeline.wish(**{field: chosen})
        self._say(f"{field}: {chosen}")

    def _move(self, by: float) -> None:
        split = self._pipeline.wanted.split
        if split is not None:
            self._pipeline.wish(split=min(1.0, max(0.0, split + by)))

    def _mouse(self, event: int, x: int, y: int, flags: int, _: Any) -> None:
        """The seam follows the mouse while its button is down."""
        down = flags & opencv().EVENT_FLAG_LBUTTON
        if down and self._pipeline.wanted.split is not None and self._latest is not None:
            self._pipeline.wish(split=min(1.0, max(0.0, x / self._latest.image.shape[1])))

    def _snapshot(self) -> None:
        if self._latest is not None:
            try:
                self._say(f"wrote {snapshot(self._latest, Path.cwd())}")
            except EdgekitError as error:
                self._say(str(error))

    def _record(self) -> None:
        """Begin to record to a new file, or end what is recorded."""
        pipeline = self._pipeline
        if pipeline.recorder is not None:
            recorder, pipeline.recorder = pipeline.recorder, None
            recorder.close()
            self._say(f"wrote {recorder.path} ({recorder.frames} frames)")
        else:
            try:
                pipeline.recorder = Recorder.named(Path.cwd(), pipeline.capture.fps)
                self._say(f"recording to {pipeline.recorder.path}")
            except EdgekitError as error:
                self._say(str(error))

    def _help(self) -> None:
        """Figures and keys; figures alone; nothing."""
        if now() < self._help_until:
            self._hud, self._help_until = False, 0.0
        elif not self._hud:
            self._hud = True
        else:
            self._help_until = now() + 3600.0

    def _say(self, text: str) -> None:
        self._said, self._said_until = text, now() + 4.0


def require_window() -> None:
    """Make sure that a window can be opened, by doing so in a process of its own.

    Raises:
        NotInstalled: an OpenCV without windows. DeviceUnavailable: no display, or one that does not answer.
    """
    cv2 = opencv()
    if _toolkit(cv2.getBuildInformation()) == "NONE":
        raise NotInstalled(
            "--view window needs an OpenCV with windows, and this one has none: pip uninstall -y opencv-python-headless, then "
            f"pip install --force-reinstall opencv-python (each overwrites the other); or {ELSEWHERE}"
        )
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise DeviceUnavailable(f"--view window needs a display, and DISPLAY is not set: {ELSEWHERE}")
    probe = "import cv2; cv2.namedWindow('edgekit'); cv2.destroyAllWindows()"
    try:
        tried = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceUnavailable(f"the display '{os.environ.get('DISPLAY')}' does not answer: {ELSEWHERE}") from error
    if tried.returncode != 0:
        said = tried.stderr.decode(errors="replace").strip().splitlines()
        reason = said[0] if said else f"exit code {tried.returncode}"
        raise DeviceUnavailable(
            f"no window can be opened on the display '{os.environ.get('DISPLAY')}' ({reason}): {ELSEWHERE}"
        )


def _toolkit(information: str) -> str:
    """What OpenCV's build information says about windows: "QT5", "GTK3", "NONE" …"""
    for line in information.splitlines():
        name, _, value = line.strip().partition(":")
        if name == "GUI":
            return value.strip() or "some"
    return "some"


def _window_size(image: UInt8) -> tuple[int, int]:
    height, width = image.shape[:2]
    factor = min(1.0, MOST_WIDTH / width) if min(height, width) >= LEAST_SIDE else 2.0
    return round(width * factor), round(height * factor)


def _written(image: UInt8, lines: list[str]) -> None:
    """Lines of text over the top of a BGR image, which is written to: white on a darkened ground."""
    cv2 = opencv()
    scale = max(0.35, min(0.5, image.shape[1] / 1400))
    height = round(34 * scale) + 2
    for at, line in enumerate(lines):
        text = line.replace("·", "|").replace("×", "x").encode("ascii", "replace").decode()
        width = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
        ground = image[at * height : (at + 1) * height, : min(image.shape[1], width + 12)]
        ground //= 3
        cv2.putText(
            image,
            text,
            (6, (at + 1) * height - round(9 * scale) - 1),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
