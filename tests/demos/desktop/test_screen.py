"""The desktop program on a real screen (Xvfb and a window manager), worked by mouse and keys from outside the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.demos.desktop import display as displays
from edgekit.errors import EdgekitError
from edgekit.images import UInt8, decode_image, read_image, write_image

TOOLS = ("Xvfb", "openbox", "xdotool", "import")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
SOURCE = """
import sys
from PySide6.QtCore import QMimeData, Qt, QUrl
from PySide6.QtGui import QDrag
from PySide6.QtWidgets import QApplication, QLabel

class Source(QLabel):
    def mouseMoveEvent(self, event):
        drag, data = QDrag(self), QMimeData()
        data.setUrls([QUrl.fromLocalFile(sys.argv[1])])
        drag.setMimeData(data)
        drag.exec(Qt.DropAction.CopyAction)

application = QApplication([])
source = Source("drag me", windowTitle="the source")
source.setWindowFlag(Qt.WindowType.WindowStaysOnTopHint)
source.setGeometry(1250, 700, 120, 120)
source.show()
application.exec()
"""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A screen of its own with a window manager; skips where Qt cannot show windows on one."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "2560x1700x24"], pass_fds=[write], stderr=subprocess.DEVNULL
    )
    os.close(write)
    with os.fdopen(read) as answer:
        name = f":{answer.readline().strip()}"
    monkeypatch.setenv("DISPLAY", name)
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    manager = subprocess.Popen(["openbox"], stderr=subprocess.DEVNULL)
    try:
        displays.require_display()
        yield name
    except EdgekitError as error:
        pytest.skip(str(error))
    finally:
        for process in (manager, server):
            process.terminate()
            process.wait(10)


class Desk:
    """The program in a window, and hands."""

    def __init__(self, *arguments: object, scale: int = 1) -> None:
        self.scale = scale
        command = [sys.executable, "-m", "edgekit.demos.desktop", *map(str, arguments)]
        environment = {**os.environ, "QT_SCALE_FACTOR": str(scale)}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        until(lambda: bool(tool("search", "--onlyvisible", "--name", "edgekit$")))
        self.window = tool("search", "--onlyvisible", "--name", "edgekit$").split()[0]
        tool("windowmove", "--sync", self.window, "20", "40")
        tool("windowactivate", "--sync", self.window)

    def title(self) -> str:
        return tool("getwindowname", self.window)

    def keys(self, *keys: str) -> None:
        for key in keys:
            tool("key", key)
            time.sleep(0.15)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press at the first point, move over the others, let go; in parts of the window's size."""
        width, height = self.picture().shape[1::-1]
        places = [(str(round(20 + x * width)), str(round(40 + y * height))) for x, y in points]
        tool("mousemove", *places[0])
        tool("mousedown", "1")
        for place in places[1:]:
            time.sleep(0.1)
            tool("mousemove", *place)
        time.sleep(0.1)
        tool("mouseup", "1")

    def picture(self) -> UInt8:
        """The window as it is seen."""
        done = subprocess.run(["import", "-window", self.window, "ppm:-"], capture_output=True, check=True)
        return decode_image(done.stdout, "the window")[:, :, :3]

    def column(self, x: float) -> UInt8:
        """A column of the lower picture, at a part of the window's width: what lies there, before or after."""
        shown = self.picture()
        return shown[round(shown.shape[0] * 0.65) : round(shown.shape[0] * 0.85), round(shown.shape[1] * x)]

    def quit(self) -> str:
        """End it by its key; returns what it said."""
        tool("windowactivate", "--sync", self.window)
        self.keys("ctrl+q")
        said = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, said
        return said


def tool(*arguments: str) -> str:
    done = subprocess.run(["xdotool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip()


def until(there: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def alike(one: UInt8, other: UInt8) -> bool:
    return bool(np.abs(one.astype(int) - other.astype(int)).mean() < 4)


@pytest.mark.parametrize("scale", [1, 2])
def test_keys_and_mouse_move_the_seam(screen: str, scale: int, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    desk = Desk(tmp_path / "a.png", "--bundle", "style-wave", "--scheme", "dark", scale=scale)
    until(lambda: desk.title().startswith("a.png") and seam_is_there(desk))
    photo_left, painted_right = desk.column(0.4), desk.column(0.6)
    desk.keys("End")
    until(lambda: not alike(desk.column(0.6), painted_right))
    photo_right = desk.column(0.6)
    desk.keys("Home")
    until(lambda: not alike(desk.column(0.4), photo_left))
    painted_left = desk.column(0.4)
    desk.keys("End", *["Page_Down"] * 5)
    until(lambda: alike(desk.column(0.4), photo_left) and alike(desk.column(0.6), painted_right))
    desk.drag((0.5, 0.4), (0.55, 0.4), (0.68, 0.4))
    until(lambda: alike(desk.column(0.6), photo_right))
    desk.drag((0.68, 0.4), (0.5, 0.4), (0.33, 0.4))
    until(lambda: alike(desk.column(0.4), painted_left))
    assert "Traceback" not in desk.quit()


def seam_is_there(desk: Desk) -> bool:
    """Whether the white knob is in the middle, as it is when there is a result."""
    shown = desk.picture()
    middle = shown[:, shown.shape[1] // 2 - 12 * desk.scale]
    return bool((middle == 255).all(axis=1).sum() > 10 * desk.scale)


def test_drop_from_another_program_run_and_save_by_keys(screen: str, tmp_path: Path, photo: np.ndarray) -> None:
    small = photo[100:200, 100:260]
    write_image(tmp_path / "dropped.png", small)
    desk = Desk()
    source = subprocess.Popen([sys.executable, "-c", SOURCE, str(tmp_path / "dropped.png")])
    try:
        until(lambda: bool(tool("search", "--onlyvisible", "--name", "the source")))
        other = tool("search", "--onlyvisible", "--name", "the source").split()[0]
        tool("windowmove", "--sync", other, "1400", "700")

        def dropped() -> bool:
            tool("mousemove", "1450", "750")
            tool("mousedown", "1")
            for x in (1440, 1420, 1100, 800, 620, 600):
                tool("mousemove", str(x), "500")
                time.sleep(0.15)
            tool("mouseup", "1")
            time.sleep(1)
            return desk.title().startswith("dropped.png")

        until(dropped)
    finally:
        source.terminate()
        source.wait(10)
    tool("windowactivate", "--sync", desk.window)
    until(lambda: seam_is_there(desk))
    desk.keys("ctrl+s")
    until(lambda: bool(tool("search", "--onlyvisible", "--name", "Save the result")))
    dialog = tool("search", "--onlyvisible", "--name", "Save the result").split()[0]
    tool("windowactivate", "--sync", dialog)
    desk.keys("ctrl+a")
    tool("type", "--delay", "30", str(tmp_path / "saved.png"))
    desk.keys("Return")
    until(lambda: (tmp_path / "saved.png").is_file())
    np.testing.assert_array_equal(read_image(tmp_path / "saved.png"), edgekit.load("sr-x2")(small))
    assert "Traceback" not in desk.quit()
