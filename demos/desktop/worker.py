"""Worker: reads, runs and writes in a thread of its own, and tells the window by signals."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, Signal, Slot

from edgekit.demos.desktop.making import Cancelled, Job, Maker
from edgekit.demos.desktop.pictures import Picture
from edgekit.errors import EdgekitError
from edgekit.images import UInt8, as_uint8, read_image, write_image


@dataclass(frozen=True)
class Source:
    """A picture to work on, and its file, None where it was pasted."""

    picture: Picture
    path: Path | None


class Worker(QObject):
    """Lives in a QThread: its slots are called by queued signals, one after another; none of them raises."""

    opened = Signal(Source)
    progressed = Signal(Job, int, int)  # tiles done, tiles there are
    made = Signal(object)  # Made
    cancelled = Signal(Job)
    saved = Signal(Path)
    failed = Signal(str, object)  # why, and the Job where it was one

    def __init__(self) -> None:
        super().__init__()
        self._maker = Maker()

    @Slot(object)
    def read(self, source: Path | UInt8) -> None:
        """Open a file, or take an array that was pasted."""

        def work() -> None:
            image = read_image(source) if isinstance(source, Path) else as_uint8(source)
            self.opened.emit(Source(Picture.of(image), source if isinstance(source, Path) else None))

        self._told(work)

    @Slot(object)
    def make(self, job: Job) -> None:
        """Run a job, unless it was stopped before its turn."""

        def work() -> None:
            try:
                self.made.emit(self._maker.make(job, lambda done, total: self.progressed.emit(job, done, total)))
            except Cancelled:
                self.cancelled.emit(job)

        if job.stop.is_set():
            self.cancelled.emit(job)
        else:
            self._told(work, job)

    @Slot(object, object)
    def write(self, image: UInt8, path: Path) -> None:
        """Save an image in the format of the path's ending."""

        def work() -> None:
            write_image(path, image)
            self.saved.emit(path)

        self._told(work)

    @Slot()
    def close(self) -> None:
        """Free the model and end the thread, after all that was asked before."""
        self._maker.close()
        self.thread().quit()

    def _told(self, work: Callable[[], Any], job: Job | None = None) -> None:
        """Do it; whatever goes wrong is told in words, for an exception would get no further than Qt."""
        try:
            work()
        except (EdgekitError, OSError) as error:
            self.failed.emit(str(error), job)
        except MemoryError:
            self.failed.emit(
                "there is not memory enough for this picture: take a smaller one, or close other programs", job
            )
        except Exception as error:  # a fault of the program: told as well, and its trace printed for a report
            traceback.print_exc()
            self.failed.emit(f"something unforeseen went wrong ({type(error).__name__}: {error})", job)
