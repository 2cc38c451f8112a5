"""Status: the line below the picture: figures, progress, and how large it is shown."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QLabel, QProgressBar, QStatusBar, QToolButton


class Status(QStatusBar):
    """Says what was done, or is being done."""

    def __init__(self, views: list[QAction]) -> None:
        super().__init__()
        self._said, self._zoom, self._progress = QLabel(), QLabel(), QProgressBar()
        self._said.setContentsMargins(8, 0, 0, 0)
        self._said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._zoom.setMinimumWidth(self._zoom.fontMetrics().horizontalAdvance("0000 %"))
        self._zoom.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._progress.setTextVisible(False)
        self._progress.setMaximumSize(180, 14)
        self._progress.hide()
        self.addWidget(self._said, 1)
        self.addPermanentWidget(self._progress)
        self.addPermanentWidget(self._zoom)
        for action in views:
            button = QToolButton(autoRaise=True)
            button.setDefaultAction(action)
            self.addPermanentWidget(button)

    def text(self) -> str:
        return self._said.text()

    def say(self, text: str) -> None:
        """Show a line, and no progress."""
        self._said.setText(text)
        self._progress.hide()

    def busy(self, text: str) -> None:
        """Show a line, and that something is being done whose end is not known."""
        self._said.setText(text)
        self._progress.setRange(0, 0)
        self._progress.show()

    def progress(self, done: int, total: int) -> None:
        """How many tiles are done; a single one has no middle."""
        self._progress.setRange(0, total if total > 1 else 0)
        self._progress.setValue(done)

    def zoom(self, percent: float | None) -> None:
        """How large the picture is shown, None where there is none."""
        self._zoom.setText("" if percent is None else f"{percent:.0f} %")
