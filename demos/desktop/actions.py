"""Actions: what can be done, by menu, button and key, and when."""

from __future__ import annotations

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenuBar, QToolBar, QToolButton, QWidget


class Actions(QObject):
    """The program's QActions; the window connects them."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        keys = QKeySequence.StandardKey
        self.open = self._action("&Open …", keys.Open)
        self.paste = self._action("&Paste", keys.Paste)
        self.save = self._action("&Save …", keys.Save)
        self.copy = self._action("&Copy", keys.Copy)
        self.run = self._action("R&un", "Ctrl+R")
        self.cancel = self._action("Canc&el", "Esc")
        self.fit = self._action("&Fit", "Ctrl+0")
        self.actual = self._action("&Actual size", "Ctrl+1")
        self.closer = self._action("Zoom &in", keys.ZoomIn)
        self.farther = self._action("Zoom &out", keys.ZoomOut)
        self.quit = self._action("&Quit", "Ctrl+Q")

    @property
    def views(self) -> list[QAction]:
        """Those that only change what is seen."""
        return [self.fit, self.actual, self.closer, self.farther]

    def fill(self, menus: QMenuBar, bar: QToolBar, controls: QWidget) -> None:
        """Put them into menus, and what is used most around the controls in the toolbar."""
        file, picture, view = (menus.addMenu(name) for name in ("&File", "&Picture", "&View"))
        file.addActions([self.open, self.paste, self.save, self.copy])
        file.addSeparator()
        file.addAction(self.quit)
        picture.addActions([self.run, self.cancel])
        view.addActions(self.views)
        bar.addActions([self.open, self.paste])
        bar.addSeparator()
        bar.addWidget(controls)
        bar.addActions([self.run, self.cancel, self.save])
        for button in bar.findChildren(QToolButton):
            if button.defaultAction() is not None:
                button.setAutoRaise(False)  # with a frame: it reads as a button

    def offer(self, *, there: bool, running: bool, busy: bool, done: bool) -> None:
        """Enable what can be done: a picture is there, a job is running, a file is read or written, a result is shown."""
        self.run.setEnabled(there and not running and not busy)
        self.run.setVisible(not running)
        self.cancel.setEnabled(running)
        self.cancel.setVisible(running)
        for action in (self.save, self.copy):
            action.setEnabled(done and not running and not busy)
        for action in self.views:
            action.setEnabled(there)

    def _action(self, text: str, keys: QKeySequence.StandardKey | str) -> QAction:
        action = QAction(text, self)
        action.setShortcut(QKeySequence(keys))
        said = text.replace("&", "").replace(" …", "")
        action.setToolTip(f"{said} ({action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)})")
        return action
