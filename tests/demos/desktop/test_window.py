"""The desktop program's window without a screen: open, drop, paste, pick, run, cancel, save, and all that goes wrong."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from PySide6.QtGui import QAccessible, QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QFileDialog

import edgekit
from edgekit.benchmarks.measurement import sample_photo
from edgekit.bundle import Bundle, shipped
from edgekit.demos.desktop import look, making
from edgekit.demos.desktop.painting import from_qimage, to_qimage
from edgekit.demos.desktop.pictures import Picture
from edgekit.demos.desktop.window import Window
from edgekit.images import read_image, write_image


def after(signal: Any, act: Callable[[], Any], seconds: float = 60) -> Any:
    """What a signal says after something was done; the event loop runs meanwhile."""
    got: list[Any] = []
    connection = signal.connect(lambda *what: got.append(what[0] if what else None))
    act()
    until(lambda: bool(got), seconds)
    signal.disconnect(connection)
    return got[0]


def until(there: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        QTest.qWait(5)


def files(*paths: Path) -> QMimeData:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    return data


def drop(window: Window, data: QMimeData) -> None:
    """A drag that enters the window and ends in it, as Qt tells of one."""
    at, copy, left, none = (
        QPointF(300, 300), Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip
    enter = QDragEnterEvent(at.toPoint(), copy, data, left, none)
    QApplication.sendEvent(window, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(window, QDropEvent(at, copy, data, left, none))


def test_open_run_and_save(window: Window, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not window.does.save.isEnabled() and not window.does.run.isEnabled()
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_: (str(sample_photo()), ""))
    made = after(window.ran, window.does.open.trigger)
    assert window.comparison.after is made.picture and window.windowTitle().startswith(sample_photo().name)
    said = window.status.text()
    for word in ("512 × 512  →  1024 × 1024", "sr-x2", made.placement.runtime, made.placement.precision, " ms"):
        assert word in said
    proposed: list[str] = []

    def ask(parent: Any, title: str, path: str, kinds: str) -> tuple[str, str]:
        proposed.append(path)
        return str(tmp_path / "large"), "PNG (*.png)"

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    saved = after(window.stored, window.does.save.trigger)
    assert Path(proposed[0]).name == "astronaut-sr-x2.png" and saved == tmp_path / "large.png"
    np.testing.assert_array_equal(read_image(saved), edgekit.load("sr-x2")(photo))
    assert "Saved" in window.status.text()


def test_picking_another_bundle_engine_precision_or_strength_runs_again(window: Window, photo: np.ndarray) -> None:
    after(window.ran, lambda: window.open(sample_photo()))
    box = window.controls.bundle
    assert window.controls._painting.isHidden()

    def pick(name: str) -> None:
        box.setCurrentIndex(box.findData(name))
        box.activated.emit(box.currentIndex())

    made = after(window.ran, lambda: pick("style-wave"))
    assert made.bundle == "style-wave" and made.picture.size == "512 × 512"
    assert not window.controls._painting.isHidden()

    def engine() -> None:
        window.controls.engine.setCurrentText("onnxruntime")
        window.controls.engine.activated.emit(window.controls.engine.currentIndex())

    assert after(window.ran, engine).placement.runtime == "onnxruntime"
    made = after(window.ran, lambda: window.controls.strength.setValue(50))
    expected = edgekit.load("style-wave", "onnxruntime")(photo, 0.5)
    np.testing.assert_array_equal(made.picture.image, expected)


def test_drop_a_picture_and_a_bundle(window: Window, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo[:64, :96])
    made = after(window.ran, lambda: drop(window, files(tmp_path / "a.png", tmp_path / "b.png")))
    assert made.picture.size == "192 × 128"
    archive = Bundle.open("style-udnie").pack(tmp_path / "mine.zip")
    made = after(window.ran, lambda: drop(window, files(archive)))
    assert made.bundle == "style-udnie" and window.controls.bundle.currentText() == "mine.zip"
    shutil.copytree(shipped()["sr-x4"], tmp_path / "folder")
    made = after(window.ran, lambda: drop(window, files(tmp_path / "folder")))
    assert made.bundle == "sr-x4" and made.picture.size == "384 × 256"
    data = QMimeData()
    data.setUrls([QUrl("https://example.org/a.png")])
    drop(window, data)
    assert "address on the network" in window.banner.text()


def test_a_folder_or_zip_can_be_looked_for(window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shipped()["style-scream"], tmp_path / "mine")
    after(window.ran, lambda: window.open(sample_photo()))
    box = window.controls.bundle
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    box.activated.emit(box.findText("A bundle's folder …"))
    assert box.currentData() == "sr-x2"  # nothing was picked: nothing changes
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "mine"))
    made = after(window.ran, lambda: box.activated.emit(box.findText("A bundle's folder …")))
    assert made.bundle == "style-scream" and box.currentText() == "mine"


def test_paste_pixels_and_a_path_and_copy_the_result(window: Window, photo: np.ndarray) -> None:
    clipboard = QGuiApplication.clipboard()
    clipboard.setImage(to_qimage(np.ascontiguousarray(photo[:50, :70])))
    made = after(window.ran, window.does.paste.trigger)
    np.testing.assert_array_equal(made.job.picture.image, photo[:50, :70])
    window.does.copy.trigger()
    np.testing.assert_array_equal(from_qimage(clipboard.image())[:, :, :3], made.picture.image)
    clipboard.setText(str(sample_photo()))
    assert after(window.ran, window.does.paste.trigger).picture.size == "1024 × 1024"
    clipboard.setText("words")
    window.does.paste.trigger()
    assert "no picture in that" in window.banner.text()


def test_cancel_stops_between_tiles_and_the_window_stays_alive(window: Window, photo: np.ndarray) -> None:
    window.controls.pick("sr-x4")
    tiles: list[tuple[int, int]] = []
    window._worker.progressed.connect(lambda job, done, total: tiles.append((done, total)))
    beats: list[int] = []
    heart = QTimer(interval=5)
    heart.timeout.connect(lambda: beats.append(1))
    after(window._worker.opened, lambda: window.asked_read.emit(np.tile(photo, (5, 5, 1))))
    heart.start()
    until(lambda: bool(tiles) and tiles[-1][0] >= 2)
    assert window.does.cancel.isVisible() and not window.does.save.isEnabled() and len(beats) > 2
    after(window._worker.cancelled, window.does.cancel.trigger)
    assert tiles[-1][0] < tiles[-1][1]
    assert window.made is None and window.comparison.after is None
    assert window.does.run.isEnabled() and "Cancelled" in window.status.text()
    window.controls.pick("style-wave")  # and the program goes on
    after(window._worker.opened, lambda: window.asked_read.emit(photo))
    until(lambda: window.made is not None)


def test_a_run_that_was_given_up_for_another_shows_nothing(window: Window, photo: np.ndarray) -> None:
    shown: list[Any] = []
    window.ran.connect(shown.append)
    after(window.ran, lambda: window.open(sample_photo()))
    window.controls.pick("style-wave")
    window.run()
    window.controls.pick("shakespeare-gpt")
    window.run()
    window.controls.pick("style-udnie")
    window.run()
    until(lambda: window._job is None)
    assert [made.bundle for made in shown] == ["sr-x2", "style-udnie"] and window.banner.text() == ""


def test_what_goes_wrong_is_said_and_the_old_picture_stays(window: Window, tmp_path: Path, photo: np.ndarray) -> None:
    after(window.ran, lambda: window.open(sample_photo()))
    before = window.comparison.before
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    (tmp_path / "text.txt").write_text("no picture")
    for path, word in ((tmp_path / "bad.png", "not an image"), (tmp_path / "text.txt", "not an image"),
                       (tmp_path / "absent.png", "no image file"), (tmp_path, "no image file")):  # fmt: skip
        assert word in after(window.told, lambda path=path: drop(window, files(path)))
        assert word in window.banner.text() and window.comparison.before is before
    window.controls.pick("shakespeare-gpt")
    assert "needs a bundle that turns a picture into another" in after(window.told, window.run)
    (tmp_path / "no.zip").write_bytes(b"no zip")
    assert "zip" in after(window.told, lambda: drop(window, files(tmp_path / "no.zip")))
    window.controls.pick("style-wave")
    after(window.ran, window.run)
    assert window.banner.text() == ""
    assert "no folder" in after(window.told, lambda: window.save(tmp_path / "absent" / "a.png"))
    assert window.does.save.isEnabled()


def test_faults_of_the_program_and_want_of_memory_are_said(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[..., None]:
        def make(*_: Any) -> None:
            raise error

        return make

    monkeypatch.setattr(making.Maker, "make", fails(MemoryError()))
    assert "memory" in after(window.told, lambda: window.open(sample_photo()))
    monkeypatch.setattr(making.Maker, "make", fails(ZeroDivisionError("oh")))
    assert "unforeseen went wrong (ZeroDivisionError: oh)" in after(window.told, window.run)


def test_alpha_is_kept_shown_on_a_chequerboard_and_refused_by_jpeg(window: Window, tmp_path: Path) -> None:
    image = np.zeros((80, 120, 4), np.uint8)
    image[:, :60] = (200, 30, 30, 255)
    write_image(tmp_path / "a.png", image)
    made = after(window.ran, lambda: window.open(tmp_path / "a.png"))
    assert made.picture.image.shape == (160, 240, 4)
    shown = from_qimage(window.comparison.grab().toImage())[:, :, :3]
    clear = shown[300:400, window.comparison.width() // 2 + 60 : window.comparison.width() // 2 + 160].reshape(-1, 3)
    assert {tuple(pixel) for pixel in clear} == {(255, 255, 255), (204, 204, 204)}
    assert "JPEG has no alpha" in after(window.told, lambda: window.save(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(read_image(after(window.stored, lambda: window.save(tmp_path / "b.png"))), made.picture.image)  # fmt: skip


def test_a_huge_picture_is_shown_in_every_size_and_refused_with_the_limit(window: Window) -> None:
    window.controls.pick("sr-x4")
    huge = np.broadcast_to(np.linspace(0, 255, 30000).astype(np.uint8)[None, :, None], (1200, 30000, 3))
    assert "limit is 537" in after(window.told, lambda: window.asked_read.emit(np.ascontiguousarray(huge)))
    assert window.source is not None and window.source.picture.size == "30000 × 1200"
    for act in (window.does.fit, window.does.actual, window.does.closer, window.does.farther):
        act.trigger()
        shown = from_qimage(window.comparison.grab().toImage())
        row = shown[shown.shape[0] // 2, 30:-30, 0].astype(int)
        assert (np.diff(row) >= -1).all() and row.max() > 0  # still the ramp


def test_the_seam_by_mouse_and_keys(window: Window) -> None:
    seen = window.comparison
    seen.show_before(Picture.of(np.full((300, 400, 3), (255, 0, 0), np.uint8)))
    seen.show_after(Picture.of(np.full((600, 800, 3), (0, 0, 255), np.uint8)))
    seen.setFocus()
    for key, value in ((Qt.Key.Key_Right, 510), (Qt.Key.Key_Left, 500), (Qt.Key.Key_PageUp, 600), (Qt.Key.Key_PageDown, 500),
                       (Qt.Key.Key_Home, 0), (Qt.Key.Key_End, 1000)):  # fmt: skip
        QTest.keyClick(seen, key)
        assert seen.value() == value
    seen.setValue(500)
    start, goal = QPoint(round(seen.seam), 100), QPoint(round(seen.seam) + 120, 100)
    QTest.mousePress(seen, Qt.MouseButton.LeftButton, pos=start)
    QTest.mouseMove(seen, goal)
    QTest.mouseRelease(seen, Qt.MouseButton.LeftButton, pos=goal)
    assert abs(seen.seam - goal.x()) <= 2
    row = from_qimage(seen.grab().toImage())[60]
    assert tuple(row[goal.x() - 30][:3]) == (255, 0, 0) and tuple(row[goal.x() + 30][:3]) == (0, 0, 255)
    told = QAccessible.queryAccessibleInterface(seen)
    assert told.role() == QAccessible.Role.Slider
    assert "before and after" in told.text(QAccessible.Text.Name)


def test_zooming_keeps_the_point_under_the_pointer_and_dragging_moves(window: Window) -> None:
    seen = window.comparison
    ramp = np.broadcast_to(np.linspace(0, 255, 2000).astype(np.uint8)[None, :, None], (1500, 2000, 3))
    seen.show_before(Picture.of(np.ascontiguousarray(ramp)))

    def grey(x: int) -> int:
        return int(from_qimage(seen.grab().toImage())[seen.height() // 2, x, 0])

    x = seen.width() // 3
    held = grey(x)
    seen.zoom(4.0, QPointF(x, seen.height() / 2))
    assert not seen.fitted and abs(grey(x) - held) <= 2
    QTest.mousePress(seen, Qt.MouseButton.LeftButton, pos=QPoint(x, 200))
    QTest.mouseMove(seen, QPoint(x + 100, 200))
    QTest.mouseRelease(seen, Qt.MouseButton.LeftButton, pos=QPoint(x + 100, 200))
    assert abs(grey(x + 100) - held) <= 2
    QTest.mouseDClick(seen, Qt.MouseButton.LeftButton, pos=QPoint(x, 200))
    assert seen.fitted
    seen.actual_size()
    assert round(seen.percent) == 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_palettes(application: QApplication, scheme: str) -> None:
    look.dress(application, scheme)
    palette = application.palette()
    assert (palette.window().color().lightness() < 128) == (scheme == "dark")
    assert abs(palette.window().color().lightness() - palette.windowText().color().lightness()) > 120
    look.dress(application)


def test_closing_in_the_middle_of_a_run(application: QApplication, photo: np.ndarray) -> None:
    window = Window("sr-x4")
    window.show()
    after(window._worker.progressed, lambda: window.asked_read.emit(np.tile(photo, (5, 5, 1))))
    window.close()
    window.shut()
    assert window._worker_thread.isFinished()


def test_closing_right_after_save_loses_nothing(application: QApplication, tmp_path: Path) -> None:
    window = Window()
    made = after(window.ran, lambda: window.open(sample_photo()))
    window.save(tmp_path / "a.png")
    window.close()
    window.shut()
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), made.picture.image)
