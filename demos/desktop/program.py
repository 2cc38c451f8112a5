"""Program: the application around the window, with hands or without."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from edgekit.demos.desktop.look import dress
from edgekit.demos.desktop.making import Made
from edgekit.demos.desktop.window import Window

SIZE = 1180, 780
HEARTBEAT_MS = 200


def run(picture: Path | None, bundle: str | None, scheme: str, save: Path | None) -> int:
    """Show the window until it is closed; returns the exit code.

    Args:
        save: run on the picture, write the result there, say the figures, and close.
    """
    # before anything imports OpenCV: its wheel with windows points Qt to plugins of its own
    application = QApplication(sys.argv[:1])
    application.setApplicationName("edgekit")
    dress(application, scheme)
    window = Window(bundle)
    unattended = Unattended(window, save) if save else None
    signal.signal(signal.SIGINT, lambda *_: window.close())
    heartbeat = QTimer(interval=HEARTBEAT_MS)  # Python sees Ctrl+C only while Python runs
    heartbeat.timeout.connect(lambda: None)
    heartbeat.start()
    window.resize(*SIZE)
    window.show()
    window.comparison.setFocus()
    if picture is not None:
        window.open(picture)
    application.exec()
    window.shut()
    return unattended.code if unattended else 0


class Unattended:
    """One picture through the whole program without hands: for scripts, and to try a frozen program."""

    def __init__(self, window: Window, path: Path) -> None:
        self.code = 1  # until the file is there
        self._window, self._path = window, path
        window.ran.connect(self._ran)
        window.stored.connect(self._stored)
        window.told.connect(self._failed)

    def _ran(self, made: Made) -> None:
        click.echo(made.figures)
        self._window.save(self._path)

    def _stored(self, path: Path) -> None:
        self.code = 0
        self._window.close()

    def _failed(self, why: str) -> None:
        click.echo(f"error: {why}", err=True)
        self._window.close()
