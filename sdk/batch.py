"""Batch: a video with its sound, or a folder of images, through a task; what was broken off goes on where it was."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edgekit import images
from edgekit.errors import ImageError, InputError
from edgekit.images import UInt8
from edgekit.video import VideoReader, VideoWriter, writable_video

PART_FRAMES = 240  # what is lost at most where the process is killed: some ten seconds of film
MARK = ".edgekit.json"  # in a folder of results: what they were made of and by
SOUND = {".mp4": "aac", ".webm": "libopus", ".avi": "libmp3lame"}  # where the source's own does not fit the format


@dataclass(frozen=True)
class Job:
    """What is made of what. `settings` are all else that the result depends on, such as the bundle's file."""

    source: Path
    out: Path
    settings: Mapping[str, str | float | None] = field(default_factory=dict)

    def mark(self) -> bytes:
        """What earlier work must have been done for, to be gone on with."""
        told = self.source.stat()
        changed = {} if self.source.is_dir() else {"bytes": told.st_size, "modified": told.st_mtime_ns}
        return msgspec.json.encode({"source": str(self.source.resolve()), **changed, **self.settings}, order="sorted")


@dataclass(frozen=True)
class Film:
    """Frames written, how many of them an earlier run had made, and what became of the sound, in words."""

    frames: int
    resumed: int
    sound: str


@dataclass(frozen=True)
class Album:
    """Images made, those that an earlier run had made, and what could not be done, by file."""

    made: int
    kept: int
    failed: dict[Path, str]


def video(
    job: Job, do: Callable[[UInt8], UInt8], progress: Callable[[int, int], None] = lambda done, total: None
) -> Film:
    """Put every frame of a video through `do`, and the source's sound beside them where ffmpeg is installed.

    The frames are kept in parts beside `out` until all are there: after a kill, the same job goes on from the last
    whole part. What ends it early, an error or Ctrl-C, leaves the parts, and a video of the frames done so far.

    Args:
        do: uint8 height × width × RGB → the same, of one size for all frames.
        progress: told the frames done and those the file says it has (0: unknown), after each.

    Raises:
        ImageError: no video at the source, a damaged one, or `out` cannot be written. As `do`.
    """
    out = writable_video(job.out)
    if out.exists() and out.samefile(job.source):
        raise ImageError(f"got '{out}' to read and to write: name another file to write")
    with VideoReader(job.source) as reader:
        parts = _begun(out.with_name(f".{out.name}.parts"), job)
        resumed = done = sum(_frames(part) for part in _parts(parts))
        frames = iter(reader)
        next(itertools.islice(frames, done, done), None)  # passes over what is done
        try:
            while count := _part(
                parts, done, map(do, frames), reader.facts.fps, lambda n: progress(n, reader.facts.frames)
            ):
                done += count
        except BaseException:
            if made := _parts(parts):
                _joined(made, job, reader.facts.fps)
            raise
        sound = _joined(_parts(parts), job, reader.facts.fps)
    shutil.rmtree(parts)
    return Film(done, resumed, sound)


def folder(
    job: Job, do: Callable[[UInt8], UInt8], progress: Callable[[int, int], None] = lambda done, total: None
) -> Album:
    """Put every image of a folder, and of those in it, through `do`, to files of the same names in `out`.

    A file that is there already, and newer than its source, is kept, if the same job has made it. One that cannot be
    read or written is left out, and the others go on.

    Raises:
        ImageError: there are none. InputError: `out` lies where the images are. As `do`, but for ImageError.
    """
    source, out = job.source.resolve(), job.out.resolve()
    if out == source or out.is_file():
        raise InputError(f"got '{job.out}' to write the images of '{job.source}' to: name another folder")
    found = [p for p in sorted(source.rglob("*")) if p.suffix.lower() in images.SUFFIXES and not p.is_relative_to(out)]
    if not found:
        raise ImageError(f"no images in '{job.source}': expected a folder of PNG, JPEG, WebP, BMP or TIFF files")
    out.mkdir(parents=True, exist_ok=True)
    mark = out / MARK
    same = mark.is_file() and mark.read_bytes() == job.mark()
    kept, failed = 0, {}
    if not same and not mark.is_file():
        _refuse_foreign(out, found, source)
    if not same:  # what lies there is of another job: it must not be taken for ours after a second start
        _outdated(out, found, source)
        mark.write_bytes(job.mark())
    for done, path in enumerate(found, 1):
        target = out / path.relative_to(source)
        if target.exists() and target.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            kept += 1
        else:
            try:
                _image(path, target, do)
            except ImageError as error:
                failed[path] = str(error)
        progress(done, len(found))
    return Album(len(found) - kept - len(failed), kept, failed)


def _refuse_foreign(out: Path, found: list[Path], source: Path) -> None:
    """Refuse to take files for results that no job of ours has made.

    Raises:
        InputError.
    """
    there = next((target for target in (out / path.relative_to(source) for path in found) if target.exists()), None)
    if there is not None:
        raise InputError(
            f"'{there}' is there already, and is not of an earlier run: name an empty folder, or remove it"
        )


def _image(path: Path, target: Path, do: Callable[[UInt8], UInt8]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = images.read_image(path)
    images.writable(target, picture.shape[2])
    images.write_image(target, do(picture), consume=True)


def _outdated(out: Path, found: list[Path], source: Path) -> None:
    """Remove results of another job, which the new ones will replace."""
    if (out / MARK).is_file():
        for path in found:
            (out / path.relative_to(source)).unlink(missing_ok=True)


def _begun(parts: Path, job: Job) -> Path:
    """The folder of the parts, with those of this very job alone."""
    mark = parts / MARK
    if not (mark.is_file() and mark.read_bytes() == job.mark()):
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        mark.write_bytes(job.mark())
    return parts


def _part(parts: Path, done: int, frames: Iterator[UInt8], fps: float, tell: Callable[[int], None]) -> int:
    """Write the next part, and return its frames; it has its name once it is whole, or work was broken off."""
    suffix = Path(parts.name.removesuffix(".parts")).suffix
    writing = parts / f"writing{suffix}"
    writer = VideoWriter(writing, fps)
    try:
        with writer:
            for frame in itertools.islice(frames, PART_FRAMES):
                writer.write(frame)
                tell(done + writer.frames)
    finally:
        if writer.frames:
            writing.rename(parts / f"{done:08d}-{writer.frames}{suffix}")
    return writer.frames


def _parts(parts: Path) -> list[Path]:
    """The parts that follow on one another without a gap; what lies beyond one is removed."""
    found, expected = [], 0
    for path in sorted(parts.glob("????????-*")):
        if int(path.name[:8]) == expected:
            found.append(path)
            expected += _frames(path)
        else:
            path.unlink()
    return found


def _frames(part: Path) -> int:
    return int(part.stem.partition("-")[2])


def _joined(parts: list[Path], job: Job, fps: float) -> str:
    """Write `out` from the parts; returns what became of the sound."""
    if shutil.which("ffmpeg"):
        for sound in ("copy", SOUND[job.out.suffix.lower()], None):
            if _by_ffmpeg(parts, job, sound):
                return "without sound" if sound is None else "with the source's sound, if it has any"
    if len(parts) == 1:
        partial = job.out.with_name(f".{job.out.stem}.partial{job.out.suffix}")
        shutil.copyfile(parts[0], partial)
        partial.replace(job.out)
    else:  # no tool that joins without decoding: what comes out is compressed twice
        with VideoWriter(job.out, fps) as writer:
            for part in parts:
                with VideoReader(part) as reader:
                    for frame in reader:
                        writer.write(frame)
    return "without sound, which needs ffmpeg"


def _by_ffmpeg(parts: list[Path], job: Job, sound: str | None) -> bool:
    """Join the parts as they are, with the sound copied, encoded, or left out; False where ffmpeg cannot."""
    listed = parts[0].parent / "parts.txt"
    listed.write_text("".join(f"file '{part.name}'\n" for part in parts), encoding="utf-8")
    partial = job.out.with_name(f".{job.out.stem}.partial{job.out.suffix}")
    beside = ["-map", "1:a?", "-c:a", sound, "-shortest"] if sound else ["-an"]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "concat", "-safe", "0", "-i", str(listed.resolve())]
    command += ["-i", str(job.source.resolve()), "-map", "0:v:0", "-c:v", "copy", *beside, str(partial.resolve())]
    try:
        fine = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if fine:
            partial.replace(job.out)
        return fine
    finally:
        partial.unlink(missing_ok=True)
