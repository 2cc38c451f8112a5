"""Banner: what went wrong, in words, above the picture, until it is closed or something else is done."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QAccessible, QAccessibleEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton, QWidget

COLOURS = {
    True: ("#4d2321", "#f8dcd9", "#7a3733"),
    False: ("#fdecea", "#5f1713", "#f0b8b3"),
}  # dark: ground, text, edge


class Banner(QFrame):
    """A line of text with a button that closes it; hidden while there is nothing to say."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = QLabel(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self._text.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        close = QToolButton(autoRaise=True)
        close.setText("✕")
        close.setAccessibleName("Close the message")
        close.clicked.connect(self.hide)
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 8, 8, 8)
        row.addWidget(self._text, 1)
        row.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def text(self) -> str:
        """What is said, "" where nothing is."""
        return self._text.text() if not self.isHidden() else ""

    def say(self, text: str) -> None:
        """Show a message, and tell it to a screen reader."""
        ground, ink, edge = COLOURS[self.palette().window().color().lightness() < 128]
        self.setStyleSheet(
            f"Banner {{ background: {ground}; border: none; border-bottom: 1px solid {edge}; }}"
            f"Banner QLabel, Banner QToolButton {{ color: {ink}; background: transparent; border: none; }}"
        )
        self._text.setText(text)
        self._text.setAccessibleName(text)
        self.show()
        QAccessible.updateAccessibility(QAccessibleEvent(self._text, QAccessible.Event.Alert))
