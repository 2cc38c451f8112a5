"""Look: Qt's Fusion style in a light or a dark palette, the desktop's own unless another is asked for."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication

DARK = {
    QPalette.ColorRole.Window: "#2b2b2e",
    QPalette.ColorRole.WindowText: "#ececec",
    QPalette.ColorRole.Base: "#1f1f22",
    QPalette.ColorRole.AlternateBase: "#2b2b2e",
    QPalette.ColorRole.Text: "#ececec",
    QPalette.ColorRole.Button: "#3a3a3e",
    QPalette.ColorRole.ButtonText: "#ececec",
    QPalette.ColorRole.BrightText: "#ffffff",
    QPalette.ColorRole.ToolTipBase: "#1f1f22",
    QPalette.ColorRole.ToolTipText: "#ececec",
    QPalette.ColorRole.PlaceholderText: "#9a9aa0",
    QPalette.ColorRole.Light: "#4a4a4f",
    QPalette.ColorRole.Midlight: "#424247",
    QPalette.ColorRole.Mid: "#1d1d20",
    QPalette.ColorRole.Dark: "#19191b",
    QPalette.ColorRole.Shadow: "#000000",
    QPalette.ColorRole.Highlight: "#3d8fd6",
    QPalette.ColorRole.HighlightedText: "#ffffff",
    QPalette.ColorRole.Link: "#6cb2f0",
}
GREYED = (QPalette.ColorRole.WindowText, QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText)
SCHEMES = {"system": Qt.ColorScheme.Unknown, "light": Qt.ColorScheme.Light, "dark": Qt.ColorScheme.Dark}


def dress(application: QApplication, scheme: str = "system") -> None:
    """Set style and palette; a desktop that does not tell Qt of its dark mode is asked for dark by hand."""
    application.setStyle("Fusion")
    application.styleHints().setColorScheme(SCHEMES[scheme])
    application.setPalette(application.style().standardPalette())
    if scheme == "dark" and application.palette().window().color().lightness() > 127:
        application.setPalette(_dark())


def _dark() -> QPalette:
    palette = QPalette()
    for role, colour in DARK.items():
        palette.setColor(role, QColor(colour))
    for role in GREYED:
        palette.setColor(QPalette.ColorGroup.Disabled, role, QColor("#77777d"))
    return palette
