"""Viewport: which part of a picture a widget shows, fitted to it or enlarged about a point."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSizeF

MOST = 32.0  # pixels of the screen, of one pixel of the picture
MARGIN = 16.0  # units around a fitted picture


class Viewport:
    """Where the picture lies in the widget. Units are the widget's; `ratio` pixels of the screen make one.

    `factor` is units for one pixel of the picture as it was opened; None fits it to the view. A result that is
    twice as large covers the same place.
    """

    def __init__(self) -> None:
        self.view, self.picture, self.ratio = QSizeF(1, 1), QSizeF(1, 1), 1.0
        self.factor: float | None = None
        self._centre = QPointF(0.5, 0.5)  # the point in the middle of the view, in parts of the picture

    @property
    def fitting(self) -> float:
        """The factor that shows the whole picture, and does not enlarge a small one beyond four times."""
        room = QSizeF(max(1.0, self.view.width() - 2 * MARGIN), max(1.0, self.view.height() - 2 * MARGIN))
        return min(
            room.width() / self.picture.width(), room.height() / self.picture.height(), max(1.0, 4.0 / self.ratio)
        )

    @property
    def whole(self) -> QRectF:
        """The rectangle that the picture covers, most of it outside the view where it is enlarged."""
        factor = self.fitting if self.factor is None else self.factor
        width, height = self.picture.width() * factor, self.picture.height() * factor
        left = _placed(self.view.width(), width, self._centre.x())
        top = _placed(self.view.height(), height, self._centre.y())
        return QRectF(left, top, width, height)

    @property
    def movable(self) -> bool:
        """Whether the picture is larger than the view."""
        return self.whole.width() > self.view.width() + 1 or self.whole.height() > self.view.height() + 1

    def fit(self) -> None:
        """Show the whole picture."""
        self.factor, self._centre = None, QPointF(0.5, 0.5)

    def zoom(self, factor: float, about: QPointF | None = None) -> None:
        """Enlarge to `factor`, the point `about` (the middle) staying where it is; fit where that shows all."""
        about = about or QPointF(self.view.width() / 2, self.view.height() / 2)
        before = self.whole
        held = QPointF((about.x() - before.left()) / before.width(), (about.y() - before.top()) / before.height())
        if factor <= self.fitting:
            self.fit()
            return
        self.factor = min(factor, MOST / self.ratio)
        width, height = self.picture.width() * self.factor, self.picture.height() * self.factor
        self._look(
            held.x() + (self.view.width() / 2 - about.x()) / width,
            held.y() + (self.view.height() / 2 - about.y()) / height,
        )

    def move(self, by: QPointF) -> None:
        """Shift the picture by so many units."""
        whole = self.whole
        self._look(self._centre.x() - by.x() / whole.width(), self._centre.y() - by.y() / whole.height())

    def _look(self, x: float, y: float) -> None:
        """Bring a point to the middle, as far as no edge of the picture comes into the view."""
        factor = self.fitting if self.factor is None else self.factor
        half_x = min(0.5, self.view.width() / 2 / (self.picture.width() * factor))
        half_y = min(0.5, self.view.height() / 2 / (self.picture.height() * factor))
        self._centre = QPointF(min(max(x, half_x), 1 - half_x), min(max(y, half_y), 1 - half_y))


def _placed(view: float, length: float, centre: float) -> float:
    """Where a side of the picture begins: in the middle where it fits, else so that its centre is the view's."""
    return (view - length) / 2 if length <= view else min(0.0, max(view - length, view / 2 - centre * length))
