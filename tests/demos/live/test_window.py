"""The window in Xvfb under a window manager: it shows the picture, takes keys, records, and closes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from demos.live.doubles import until

from edgekit.demos.live.stamps import read_stamp
from edgekit.demos.live.views.window import _toolkit
from edgekit.errors import DeviceUnavailable, NotInstalled
from edgekit.images import UInt8, opencv, read_image
from edgekit.video import VideoReader

TOOLS = ("Xvfb", "openbox", "xdotool", "import")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
WINDOWS = _toolkit(opencv().getBuildInformation()) != "NONE"
needs_window = [
    pytest.mark.slow,
    pytest.mark.skipif(not WINDOWS, reason="this OpenCV has no windows: the tests of the window need opencv-python"),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]


@pytest.fixture
def display(tmp_path: Path) -> Iterator[str]:
    """A screen of its own with a window manager, without which some windows stay black."""
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "900x700x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    os.close(write)
    with os.fdopen(read) as answer:
        name = f":{answer.readline().strip()}"
    manager = subprocess.Popen(["openbox"], env={**os.environ, "DISPLAY": name}, stderr=subprocess.DEVNULL)
    yield name
    for process in (manager, screen):
        process.terminate()
        process.wait(10)


class Desk:
    """One `edgekit live` in a window, and hands."""

    def __init__(self, display: str, folder: Path, *arguments: str) -> None:
        self.environment = {**os.environ, "DISPLAY": display}
        self.folder, self.report = folder, folder / "r.json"
        command = [sys.executable, "-m", "edgekit.cli", "live", "--view", "window", "--source", "synthetic"]
        command += ["--size", "640x480", "--report", str(self.report), *arguments]
        self.process = subprocess.Popen(
            command, env=self.environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert until(lambda: bool(self._search()), 30)
        self.window = self._search()[0]
        assert until(lambda: self.number() is not None, 20)

    def keys(self, *keys: str) -> None:
        for key in keys:
            self._tool("windowfocus", "--sync", self.window)
            self._tool("key", "--window", self.window, key)
            time.sleep(0.3)

    def picture(self) -> UInt8:
        path = self.folder / "screen.png"
        subprocess.run(["import", "-window", self.window, str(path)], env=self.environment, check=True)
        return read_image(path)[:, :, :3]

    def number(self) -> int | None:
        """The frame's number in the window, whose picture is as large as the source's; read without the figures."""
        return read_stamp(self.picture()[:480, :640])

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=20)
        return self.process.returncode, said

    def _search(self) -> list[str]:
        found = subprocess.run(
            ["xdotool", "search", "--name", "^edgekit live$"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.split()

    def _tool(self, *arguments: str) -> None:
        subprocess.run(["xdotool", *arguments], env=self.environment, check=True, capture_output=True)


class TestWindow:
    pytestmark = needs_window

    def test_keys_and_numbered_frames(self, display: str, tmp_path: Path) -> None:
        desk = Desk(display, tmp_path, "--effect", "none", "--no-hud")
        first = desk.number()
        assert until(lambda: (number := desk.number()) is not None and first is not None and number > first)
        desk.keys("space", "r", "m")
        time.sleep(0.7)
        desk.keys("r", "h", "h", "c", "Right", "q")
        code, said = desk.end()
        assert code == 0, said
        assert read_stamp(read_image(next(tmp_path.glob("edgekit-*.png")))) is not None
        with VideoReader(next(tmp_path.glob("edgekit-*.mp4"))) as reader:
            assert len(list(reader)) > 3
        assert json.loads(desk.report.read_text())["frames"] > 10

    def test_closing_the_window_ends_it(self, display: str, tmp_path: Path) -> None:
        desk = Desk(display, tmp_path, "--effect", "none", "--no-hud")
        desk.keys("alt+F4")
        code, said = desk.end()
        assert code == 0 and "Traceback" not in said, said


@pytest.mark.skipif(WINDOWS, reason="this OpenCV has windows")
def test_an_opencv_without_windows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.demos.live.views.window import require_window

    with pytest.raises(NotInstalled, match="pip uninstall -y opencv-python-headless"):
        require_window()


def test_a_display_that_is_not_there_is_no_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.demos.live.views import window

    monkeypatch.setattr(window, "_toolkit", lambda information: "QT5")
    monkeypatch.setenv("DISPLAY", ":987")
    with pytest.raises(DeviceUnavailable, match="--view web"):
        window.require_window()
    assert _toolkit("  GUI:                           QT5\n") == "QT5" and _toolkit("  GUI:   NONE") == "NONE"
