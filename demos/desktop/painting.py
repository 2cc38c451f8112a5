"""Painting: a picture's visible part as Qt draws it, sharp on every screen, with a chequerboard where it is clear."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QImage, QPainter, QPixmap

from edgekit.demos.desktop.pictures import Part, Picture
from edgekit.images import UInt8, as_uint8

CHECK = 8  # pixels a side of the chequerboard's fields
LIGHT, GREY = QColor(255, 255, 255), QColor(204, 204, 204)


def to_qimage(image: UInt8) -> QImage:
    """A QImage of its own of uint8 RGB or RGBA, contiguous."""
    height, width, channels = image.shape
    form = QImage.Format.Format_RGBA8888 if channels == 4 else QImage.Format.Format_RGB888
    return QImage(image.data, width, height, width * channels, form).copy()


def from_qimage(image: QImage) -> UInt8:
    """uint8 RGB, or RGBA where the image has alpha, as an array of its own."""
    import numpy as np

    alpha = image.hasAlphaChannel()
    form = QImage.Format.Format_RGBA8888 if alpha else QImage.Format.Format_RGB888
    image = image.convertToFormat(form)
    channels = 4 if alpha else 3
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    pixels = rows[:, : image.width() * channels].reshape(image.height(), image.width(), channels)
    return as_uint8(pixels.copy())


def drawn(picture: Picture, whole: QRectF, view: QRectF, ratio: float) -> QPixmap:
    """What of a picture that covers `whole` is seen in `view`, as a pixmap of the view's size.

    Both are in the widget's units, of which `ratio` pixels of the screen make one.
    """
    pixmap = QPixmap((view.size() * ratio).toSize())
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(Qt.GlobalColor.transparent)
    seen = whole.intersected(view)
    if seen.isEmpty():
        return pixmap
    part = Part(
        (seen.left() - whole.left()) / whole.width(),
        (seen.top() - whole.top()) / whole.height(),
        (seen.right() - whole.left()) / whole.width(),
        (seen.bottom() - whole.top()) / whole.height(),
    )
    pixels, really = picture.cut(part, seen.width() * ratio)
    target = QRectF(
        whole.left() + really.left * whole.width(),
        whole.top() + really.top * whole.height(),
        (really.right - really.left) * whole.width(),
        (really.bottom - really.top) * whole.height(),
    )
    painter = QPainter(pixmap)
    painter.setClipRect(seen.translated(-view.topLeft()))
    painter.translate(-view.topLeft())
    if picture.alpha:
        _chequer(painter, seen)
    painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
    painter.drawImage(target, to_qimage(pixels))
    painter.end()
    return pixmap


def _chequer(painter: QPainter, area: QRectF) -> None:
    tile = QPixmap(2 * CHECK, 2 * CHECK)
    tile.fill(LIGHT)
    brush = QPainter(tile)
    brush.fillRect(0, 0, CHECK, CHECK, GREY)
    brush.fillRect(CHECK, CHECK, CHECK, CHECK, GREY)
    brush.end()
    painter.drawTiledPixmap(area, tile)
