"""What `edgekit run` does with a video or a folder of images: progress with the time left, and going on after a stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.show import err_console, progress_bar
from edgekit.errors import ImageError, InputError

if TYPE_CHECKING:
    from edgekit.cli.running import Work


def takes(source: Path, out: Path) -> bool:
    """Whether the source is a folder, or source or result a video."""
    from edgekit import video

    return source.is_dir() or bool(
        {source.suffix.lower(), out.suffix.lower()} & {*video.CODECS, ".mkv", ".mov", ".gif"}
    )


def run(work: Work, do: Callable[[Any, Any], Any], **settings: float | None) -> None:
    """Put a folder's images or a video's frames through `do(task, image)`; `settings` are those that change the result.

    Raises:
        InputError: a video to a file of no video format. As `edgekit.batch`.
    """
    from edgekit import video

    source, out = work.needed("an image, a folder of images, or a video"), work.target("what becomes of it")
    if not source.is_dir() and out.suffix.lower() not in video.CODECS:
        raise InputError(f"cannot write '{out}': a video is written to one of the endings {' '.join(video.CODECS)}")
    (_folder if source.is_dir() else _video)(work, source, out, do, settings)


def _video(
    work: Work, source: Path, out: Path, do: Callable[[Any, Any], Any], settings: dict[str, float | None]
) -> None:
    from edgekit import batch

    done = 0
    with work.open() as task, progress_bar() as progress, work.timed():
        bar = progress.add_task("frames", total=None)

        def tell(frames: int, total: int) -> None:
            nonlocal done
            if not done and frames > 1:  # an earlier run's: the time left is reckoned without them
                progress.reset(bar, completed=frames - 1)
            done = frames
            progress.update(bar, completed=frames, total=total or None)

        film = batch.Film(0, 0, "")
        try:
            film = batch.video(_job(work, task, source, out, settings), lambda frame: do(task, frame), tell)
        except KeyboardInterrupt:
            if not done:
                raise
            work.stopped = True
        except ImageError as error:
            raise ImageError(f"{error}; '{out}' has the {done} frames before" if done else str(error)) from error
    made = done - film.resumed
    work.answer |= {"out": str(out), "frames": done, "resumed": film.resumed, "sound": film.sound}
    how = ", stopped early: the same command goes on from here," if work.stopped else f" {film.sound}"
    before = f" ({film.resumed} from before)" if film.resumed else ""
    work.text = f"{source} → {out}: {done} frames{before}{how} at {made / work.seconds:.1f} frames a second,"


def _folder(
    work: Work, source: Path, out: Path, do: Callable[[Any, Any], Any], settings: dict[str, float | None]
) -> None:
    from edgekit import batch

    with work.open() as task, progress_bar() as progress, work.timed():
        bar = progress.add_task("images", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        album = batch.folder(_job(work, task, source, out, settings), lambda image: do(task, image), tell)
    for path, reason in album.failed.items():
        err_console.print(f"left out {path}: {reason}", style="yellow", soft_wrap=True)
    failed = {str(path): reason for path, reason in album.failed.items()}
    work.answer |= {"out": str(out), "images": album.made, "kept": album.kept, "failed": failed}
    kept = f", {album.kept} were there" if album.kept else ""
    left = f", {len(album.failed)} left out" if album.failed else ""
    work.text = f"{source} → {out}: {album.made} images{kept}{left}"


def _job(work: Work, task: Any, source: Path, out: Path, settings: dict[str, float | None]) -> Any:
    from edgekit import batch

    model = task.variant.files[0].sha256
    return batch.Job(source, out, {"bundle": work.bundle.name, "model": model, **settings})
