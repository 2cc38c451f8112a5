"""The desktop program as a process: unattended, without a display, with a dead one, and without Qt's libraries."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.demos.desktop import display
from edgekit.errors import DeviceUnavailable, NotInstalled
from edgekit.images import read_image, write_image


def program(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """python -m edgekit.demos.desktop, on Qt's platform without a screen unless told otherwise."""
    command = [sys.executable, "-m", "edgekit.demos.desktop", *map(str, arguments)]
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")}
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=120)


def test_unattended_it_saves_and_says_the_figures(tmp_path: Path, photo: np.ndarray) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    write_image(tmp_path / "a.png", photo[:100, :120])
    done = program(tmp_path / "a.png", "--bundle", "sr-x4", "--save", tmp_path / "b.png", QT_QPA_PLATFORM="offscreen")
    assert done.returncode == 0, done.stderr
    assert "120 × 100  →  480 × 400   ·   sr-x4" in done.stdout
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), edgekit.load("sr-x4")(photo[:100, :120]))


@pytest.mark.parametrize("arguments, word", [
    (("absent.png", "--save", "b.png"), "no image file"),
    (("a.png", "--save", "b.txt"), "expected one of the endings"),
    (("a.png", "--bundle", "folk-gru", "--save", "b.png"), "needs a bundle that turns a picture"),
    (("--save", "b.png"), "needs a PICTURE"),
])  # fmt: skip
def test_unattended_what_goes_wrong_is_an_exit_code(
    arguments: tuple[str, ...], word: str, tmp_path: Path, photo: np.ndarray
) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    write_image(tmp_path / "a.png", photo[:50, :50])
    places = [str(tmp_path / a) if a.endswith((".png", ".txt")) else a for a in arguments]
    done = program(*places, QT_QPA_PLATFORM="offscreen")
    assert done.returncode in (1, 2) and word in done.stderr and not list(tmp_path.glob("*b.*"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there always is a display")
def test_without_a_display_it_says_so_and_does_not_abort() -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    done = program()
    assert done.returncode == 2 and "no display" in done.stderr and "edgekit run" in done.stderr
    for environment in ({"DISPLAY": ":987"}, {"WAYLAND_DISPLAY": "absent", "DISPLAY": ":987"}):
        done = program(**environment)
        # a machine without Qt's libraries for X names these instead
        assert done.returncode == 2 and ("does not answer" in done.stderr or "Qt cannot show windows" in done.stderr)


def test_a_missing_library_of_the_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

    def missing(name: str) -> None:
        raise OSError("libxcb-cursor.so.0: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(DeviceUnavailable, match=r"libxcb-cursor.so.0.*apt install .*libxcb-cursor0"):
        display._require_x11(":0")


def test_without_pyside_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PySide6", None)
    monkeypatch.delitem(sys.modules, "PySide6.QtWidgets", raising=False)
    with pytest.raises(NotInstalled, match=r"edgekit\[desktop\]"):
        display.require_display()
