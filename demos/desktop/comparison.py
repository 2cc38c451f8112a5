"""Comparison: before and after on one place, parted by a seam that mouse and keys move; a slider to Qt and to screen readers."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, QSize, QSizeF, Qt, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QPixmap,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractSlider, QWidget

from edgekit.demos.desktop.painting import drawn
from edgekit.demos.desktop.pictures import Picture
from edgekit.demos.desktop.viewport import Viewport

WHOLE = 1000  # steps from the left edge of the view to the right
GRIP = 14.0  # units from the seam within which the mouse takes it
KNOB = 17.0  # the handle's radius
SHADE = QColor(0, 0, 0, 150)


class Comparison(QAbstractSlider):
    """Two pictures of one subject. The value is the seam's place, 0…1000 from the picture's left edge to its right.

    ← → move the seam by a step, Page keys by ten, Home and End to the ends, as of any slider. The wheel enlarges
    about the pointer, dragging moves the enlarged picture, a double click changes between fitted and actual size.
    """

    zoomed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setRange(0, WHOLE)
        self.setSingleStep(WHOLE // 100)
        self.setPageStep(WHOLE // 10)
        self.setValue(WHOLE // 2)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMouseTracking(True)
        self.setMinimumSize(240, 180)
        self.setAccessibleName("Seam between before and after")
        self.before: Picture | None = None
        self.after: Picture | None = None
        self._viewport = Viewport()
        self._drawn: dict[object, QPixmap] = {}
        self._held: str | None = None  # what the mouse drags: "seam" or "picture"
        self._at = QPointF()

    def show_before(self, picture: Picture) -> None:
        """Begin anew with a picture that has no result yet."""
        self.before, self.after = picture, None
        self._viewport.picture = QSizeF(picture.width, picture.height)
        self.fit()

    def show_after(self, picture: Picture | None) -> None:
        """Show the result, or that there is none; what is seen stays where it is."""
        self.after = picture
        self._fresh()

    def fit(self) -> None:
        """The whole picture."""
        self._viewport.fit()
        self._fresh()

    def actual_size(self) -> None:
        """One pixel of the result, or of the picture where there is none, on one of the screen."""
        self._zoom_to(self._detail)

    def zoom(self, times: float, about: QPointF | None = None) -> None:
        """Enlarge by a factor, about a point of the widget."""
        self._zoom_to(self.percent / 100 * self._detail * times, about)

    @property
    def fitted(self) -> bool:
        return self._viewport.factor is None

    @property
    def percent(self) -> float:
        """Pixels of the screen for a hundred of the result's, or of the picture's where there is no result."""
        if self.before is None:
            return 100.0
        pixels = self._viewport.whole.width() * self.devicePixelRatioF()
        return 100 * pixels / (self.before.width * self._detail)

    @property
    def seam(self) -> float:
        """The seam's place in the widget."""
        seen = self._seen
        return seen.left() + seen.width() * self.value() / WHOLE

    def sizeHint(self) -> QSize:
        return QSize(960, 640)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.fillRect(self.rect(), ground(self.palette()))
        if self.before is None:
            self._invite(painter)
            return
        self._place()
        seen = self._seen
        painter.drawPixmap(0, 0, self._rendered(self.before))
        if self.after is None:
            return
        painter.save()
        painter.setClipRect(QRectF(self.seam, seen.top(), seen.right() - self.seam, seen.height()))
        painter.fillRect(self.rect(), ground(self.palette()))
        painter.drawPixmap(0, 0, self._rendered(self.after))
        painter.restore()
        self._label(painter, "Before", before=True)
        self._label(painter, "After", before=False)
        self._draw_seam(painter)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._fresh()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() not in (Qt.MouseButton.LeftButton, Qt.MouseButton.MiddleButton) or self.before is None:
            return
        self._at = event.position()
        near = self.after is not None and abs(self._at.x() - self.seam) <= GRIP
        seam = event.button() == Qt.MouseButton.LeftButton and (near or not self._viewport.movable)
        self._held = "seam" if seam else "picture"
        self._drag(event.position())

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._held:
            self._drag(event.position())
        near = self.after is not None and abs(event.position().x() - self.seam) <= GRIP
        moving = self._held == "picture" and self._viewport.movable
        shape = Qt.CursorShape.ClosedHandCursor if moving else Qt.CursorShape.SplitHCursor
        self.setCursor(shape if near or moving or self._held == "seam" else Qt.CursorShape.ArrowCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._held = None

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        if not self.fitted:
            self.fit()
        elif self.before is not None:
            self._zoom_to(self._detail, event.position())

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self.before is not None:
            self.zoom(1.0015 ** event.angleDelta().y(), event.position())
        event.accept()

    def _drag(self, to: QPointF) -> None:
        if self._held == "picture":
            self._viewport.move(to - self._at)
            self._fresh()
        elif self.after is not None:
            self.setValue(round((to.x() - self._seen.left()) / max(1.0, self._seen.width()) * WHOLE))
        self._at = to

    def _zoom_to(self, factor: float, about: QPointF | None = None) -> None:
        """Pixels of the screen for one of the picture as it was opened."""
        self._place()
        self._viewport.zoom(factor / self.devicePixelRatioF(), about)
        self._fresh()

    @property
    def _detail(self) -> float:
        """How many pixels of the result make one of the picture as it was opened."""
        return self.after.width / self.before.width if self.after and self.before else 1.0

    @property
    def _seen(self) -> QRectF:
        """The part of the widget that the picture covers."""
        return self._viewport.whole.intersected(QRectF(self.rect()))

    def _place(self) -> None:
        self._viewport.view, self._viewport.ratio = QSizeF(self.size()), self.devicePixelRatioF()

    def _fresh(self) -> None:
        """What was drawn no longer holds."""
        self._place()
        self._drawn.clear()
        self.zoomed.emit()
        self.update()

    def _rendered(self, picture: Picture) -> QPixmap:
        """The picture as it is seen, drawn once, so that moving the seam costs two copies."""
        ratio = self.devicePixelRatioF()
        key = (id(picture), ratio)
        if key not in self._drawn:
            self._drawn[key] = drawn(picture, self._viewport.whole, QRectF(self.rect()), ratio)
        return self._drawn[key]

    def _draw_seam(self, painter: QPainter) -> None:
        x, seen = self.seam, self._seen
        for width, colour in ((4.0, QColor(0, 0, 0, 90)), (2.0, QColor(255, 255, 255))):
            painter.setPen(QPen(colour, width))
            painter.drawLine(QPointF(x, seen.top()), QPointF(x, seen.bottom()))
        centre = QPointF(x, seen.center().y())
        focus = self.hasFocus()
        accent = self.palette().color(QPalette.ColorRole.Highlight)
        painter.setPen(QPen(accent if focus else QColor(0, 0, 0, 90), 3.0 if focus else 1.5))
        painter.setBrush(QColor(255, 255, 255))
        painter.drawEllipse(centre, KNOB, KNOB)
        painter.setPen(QPen(QColor(40, 40, 40), 2.0, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap, Qt.PenJoinStyle.RoundJoin))  # fmt: skip
        for side in (-1, 1):
            tip, back = centre.x() + side * 9.0, centre.x() + side * 4.5
            painter.drawPolyline([QPointF(back, centre.y() - 4.5), QPointF(tip, centre.y()), QPointF(back, centre.y() + 4.5)])  # fmt: skip

    def _label(self, painter: QPainter, text: str, *, before: bool) -> None:
        """A word in the corner of its side, left out where the seam leaves no room for it."""
        seen, metrics = self._seen, painter.fontMetrics()
        width, height = metrics.horizontalAdvance(text) + 16.0, metrics.height() + 6.0
        left = seen.left() + 10 if before else seen.right() - 10 - width
        if (left + width > self.seam - 4) if before else (left < self.seam + 4):
            return
        chip = QRectF(left, seen.top() + 10, width, height)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(SHADE)
        painter.drawRoundedRect(chip, height / 2, height / 2)
        painter.setPen(QColor(255, 255, 255))
        painter.drawText(chip, Qt.AlignmentFlag.AlignCenter, text)

    def _invite(self, painter: QPainter) -> None:
        """What an empty window says."""
        palette = self.palette()
        faint = QColor(palette.color(QPalette.ColorRole.WindowText))
        faint.setAlpha(110)
        frame = QRectF(self.rect()).adjusted(28, 28, -28, -28)
        painter.setPen(QPen(faint, 2, Qt.PenStyle.DashLine, Qt.PenCapStyle.RoundCap))
        painter.drawRoundedRect(frame, 16, 16)
        large = QFont(self.font())
        large.setPointSizeF(large.pointSizeF() * 1.9)
        painter.setFont(large)
        painter.setPen(palette.color(QPalette.ColorRole.WindowText))
        painter.drawText(frame.adjusted(0, -28, 0, -28), Qt.AlignmentFlag.AlignCenter, "Drop a picture here")
        painter.setFont(self.font())
        painter.setPen(faint.darker(100))
        painter.drawText(frame.adjusted(0, 28, 0, 28), Qt.AlignmentFlag.AlignCenter, "or open one (Ctrl+O), or paste one (Ctrl+V)")  # fmt: skip


def ground(palette: QPalette) -> QColor:
    """The colour around a picture: a little darker than the window."""
    return palette.color(QPalette.ColorRole.Window).darker(108 if palette.window().color().lightness() > 127 else 125)
