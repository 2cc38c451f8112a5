"""Window: the program's one window; it asks the worker, and shows what the worker tells."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import QMimeData, QStandardPaths, QThread, Signal
from PySide6.QtGui import QCloseEvent, QDragEnterEvent, QDropEvent, QGuiApplication, QImage
from PySide6.QtWidgets import QFileDialog, QMainWindow, QSizePolicy, QVBoxLayout, QWidget

from edgekit.bundle import MANIFEST
from edgekit.demos.desktop.actions import Actions
from edgekit.demos.desktop.banner import Banner
from edgekit.demos.desktop.comparison import Comparison
from edgekit.demos.desktop.controls import Controls
from edgekit.demos.desktop.making import Job, Made
from edgekit.demos.desktop.painting import from_qimage, to_qimage
from edgekit.demos.desktop.status import Status
from edgekit.demos.desktop.worker import Source, Worker
from edgekit.images import SUFFIXES

TITLE = "edgekit"
CLOSER = 1.25  # a step of enlarging
OPENS = f"Pictures ({' '.join('*' + suffix for suffix in SUFFIXES)});;All files (*)"
SAVES = "PNG (*.png);;JPEG (*.jpg);;WebP (*.webp);;TIFF (*.tiff)"


class Window(QMainWindow):
    """Open, drop or paste a picture: it runs at once. Whatever takes time happens in the worker's thread."""

    asked_read = Signal(object)
    asked_make = Signal(Job)
    asked_write = Signal(object, object)
    asked_close = Signal()
    ran = Signal(object)  # Made: a result is shown
    stored = Signal(object)  # Path: it was saved
    told = Signal(str)  # something went wrong

    def __init__(self, bundle: str | None = None) -> None:
        super().__init__()
        self.setWindowTitle(TITLE)
        self.setAcceptDrops(True)
        self.comparison, self.controls, self.banner = Comparison(), Controls(bundle), Banner()
        self.source: Source | None = None
        self.made: Made | None = None
        self._job: Job | None = None
        self._busy = ""  # "opening" or "saving": what the worker does beside jobs
        self.does = Actions(self)
        self.status = Status([self.does.fit, self.does.actual])
        self._lay_out()
        self._connect()
        self._start_worker()
        self._refresh()

    def open(self, path: str | Path) -> None:
        """Read a picture's file, then run."""
        self._begin("opening")
        self.asked_read.emit(Path(path))

    def run(self) -> None:
        """Do to the picture what is picked; a run that is under way is given up for it."""
        if self.source is None:
            return
        self._give_up()
        self.banner.hide()
        self._job = Job(self.source.picture, self.controls.wish())
        self.asked_make.emit(self._job)
        self._refresh()

    def cancel(self) -> None:
        """Stop the run: the worker stops at the next tile, and what it has is dropped now."""
        self._give_up()
        self._refresh("Cancelled")

    def save(self, path: str | Path) -> None:
        """Write the result."""
        if self.made is not None:
            self._begin("saving")
            self.asked_write.emit(self.made.picture.image, Path(path))

    def take(self, data: QMimeData) -> None:
        """What was dropped or pasted: a picture's file or pixels, or a bundle's folder or .zip."""
        files = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
        if files:
            self._take_file(files[0])
        elif data.hasImage():
            image = QImage(data.imageData())
            self._begin("opening")
            self.asked_read.emit(from_qimage(image))
        elif data.urls():
            self.banner.say("that is an address on the network: save the picture first, and open the file")
        elif data.hasText() and Path(data.text().strip()).is_file():
            self._take_file(Path(data.text().strip()))
        else:
            self.banner.say("there is no picture in that: copy or drop a picture, or its file")

    def shut(self) -> None:
        """Let the worker end, and wait for it: one tile's time, or until a picture is saved that was to be."""
        self._give_up()
        self.asked_close.emit()
        self._worker_thread.wait()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if event.mimeData().hasUrls() or event.mimeData().hasImage():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        event.acceptProposedAction()
        self.take(event.mimeData())

    def closeEvent(self, event: QCloseEvent) -> None:
        self._give_up()  # the worker's thread is waited for when the window is gone
        event.accept()

    def _start_worker(self) -> None:
        self._worker_thread = QThread()
        self._worker = Worker()
        self._worker.moveToThread(self._worker_thread)
        self.asked_read.connect(self._worker.read)
        self.asked_make.connect(self._worker.make)
        self.asked_write.connect(self._worker.write)
        self._worker.opened.connect(self._opened)
        self._worker.progressed.connect(self._progressed)
        self._worker.made.connect(self._made)
        self._worker.saved.connect(self._saved)
        self._worker.failed.connect(self._failed)
        self.asked_close.connect(self._worker.close)
        self._worker_thread.start()

    def _opened(self, source: Source) -> None:
        self._busy, self.source, self.made = "", source, None
        self.comparison.show_before(source.picture)
        self.setWindowTitle(f"{source.path.name if source.path else 'pasted picture'} – {TITLE}")
        self.run()

    def _progressed(self, job: Job, done: int, total: int) -> None:
        if job is self._job:
            self.status.progress(done, total)

    def _made(self, made: Made) -> None:
        if made.job is not self._job:
            return  # given up for another
        self._job, self.made = None, made
        self.comparison.show_after(made.picture)
        self._refresh()
        self.ran.emit(made)

    def _saved(self, path: Path) -> None:
        self._busy = ""
        self._refresh(f"Saved {path}")
        self.stored.emit(path)

    def _failed(self, why: str, job: Job | None) -> None:
        if job is not self._job and job is not None:
            return  # given up for another
        self._busy, self._job = "", None
        self.banner.say(why)
        self._refresh()
        self.told.emit(why)

    def _give_up(self) -> None:
        if self._job is not None:
            self._job.stop.set()
            self._job = None

    def _begin(self, what: str) -> None:
        if what == "opening":
            self._give_up()
        self.banner.hide()
        self._busy = what
        self._refresh()

    def _take_file(self, path: Path) -> None:
        if (path / MANIFEST).is_file() or path.suffix.lower() == ".zip":
            self.controls.pick(str(path))
            self.run()
        else:
            self.open(path)

    def _lay_out(self) -> None:
        bar, middle = self.addToolBar("Tools"), QWidget()
        bar.setMovable(False)
        bar.toggleViewAction().setEnabled(False)
        self.controls.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.does.fill(self.menuBar(), bar, self.controls)
        self.setMinimumWidth(bar.sizeHint().width())  # a narrower toolbar would hide the controls
        column = QVBoxLayout(middle)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.banner)
        column.addWidget(self.comparison, 1)
        self.setCentralWidget(middle)
        self.setStatusBar(self.status)

    def _connect(self) -> None:
        does, seen = self.does, self.comparison
        for action, do in (
            (does.open, self._ask_open), (does.paste, self._paste), (does.save, self._ask_save), (does.copy, self._copy),
            (does.run, self.run), (does.cancel, self.cancel), (does.fit, seen.fit), (does.actual, seen.actual_size),
            (does.closer, lambda: seen.zoom(CLOSER)), (does.farther, lambda: seen.zoom(1 / CLOSER)), (does.quit, self.close),
        ):  # fmt: skip
            action.triggered.connect(lambda _, do=do: do())
        seen.zoomed.connect(lambda: self.status.zoom(seen.percent if self.source else None))
        self.controls.changed.connect(self.run)

    def _refresh(self, said: str = "") -> None:
        """Offer what can be done now, and say what is being done, or else what was, or what is shown."""
        running = self._job is not None
        self.does.offer(
            there=self.source is not None, running=running, busy=bool(self._busy), done=self.made is not None
        )
        if self._job is not None:
            self.status.busy(f"Running {Path(self._job.wish.bundle).name} …")
        elif self._busy:
            self.status.busy(f"{self._busy.capitalize()} …")
        else:
            shown = self.made.figures if self.made else self.source.picture.size if self.source else ""
            self.status.say(said or shown)

    def _ask_open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a picture", str(self._folder()), OPENS)
        if path:
            self.open(path)

    def _ask_save(self) -> None:
        assert self.source is not None and self.made is not None  # else the action is disabled
        stem = self.source.path.stem if self.source.path else "picture"
        proposed = self._folder() / f"{stem}-{self.made.bundle}.png"
        path, kind = QFileDialog.getSaveFileName(self, "Save the result", str(proposed), SAVES)
        if path:
            suffix = kind.partition("*")[2].rstrip(")") or ".png"
            self.save(path if Path(path).suffix else path + suffix)

    def _folder(self) -> Path:
        pictures = QStandardPaths.writableLocation(QStandardPaths.StandardLocation.PicturesLocation)
        return self.source.path.parent if self.source and self.source.path else Path(pictures or ".")

    def _paste(self) -> None:
        self.take(QGuiApplication.clipboard().mimeData())

    def _copy(self) -> None:
        assert self.made is not None
        QGuiApplication.clipboard().setImage(to_qimage(self.made.picture.image))
        self._refresh("Copied")
