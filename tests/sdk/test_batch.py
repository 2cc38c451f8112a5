"""Batches: a video goes on where it was killed, keeps its sound, and a folder's images are made once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit import batch
from edgekit.batch import Job
from edgekit.cli import main
from edgekit.errors import ImageError, InputError
from edgekit.images import UInt8, read_image, write_image
from edgekit.video import VideoReader, VideoWriter


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PART_FRAMES", 4)


def clip(path: Path, frames: int = 11) -> Path:
    with VideoWriter(path, 10.0) as writer:
        for number in range(frames):
            writer.write(np.full((48, 64, 3), 20 + 20 * number, np.uint8))
    return path


def levels(path: Path) -> list[int]:
    with VideoReader(path) as reader:
        return [round(float(frame.mean())) for frame in reader]


class Doing:
    """Turns a frame into its negative, and ends everything at the `at`th."""

    def __init__(self, at: int = 10**9, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.count, self.at, self.error = 0, at, error

    def __call__(self, frame: UInt8) -> UInt8:
        self.count += 1
        if self.count == self.at:
            raise self.error("ended")
        return 255 - frame


@pytest.mark.parametrize("with_ffmpeg", [True, False])
def test_a_video_goes_on_where_it_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_ffmpeg: bool
) -> None:
    if with_ffmpeg and not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    if not with_ffmpeg:
        monkeypatch.setattr(shutil, "which", lambda name: None)
    job, told = Job(clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"), []
    with pytest.raises(KeyboardInterrupt):
        batch.video(job, Doing(at=7), lambda done, total: told.append((done, total)))
    assert len(levels(job.out)) == 6 and told[-1] == (6, 11)  # what is done can be looked at
    second = Doing()
    film = batch.video(job, second)
    assert (film.frames, film.resumed, second.count) == (11, 6, 5)
    assert levels(job.out) == pytest.approx([235 - 20 * n for n in range(11)], abs=6)
    assert not list(tmp_path.glob(".*"))  # no parts are left
    assert "ffmpeg" in film.sound or with_ffmpeg


def test_a_kill_loses_no_more_than_a_part(tmp_path: Path) -> None:
    job = Job(clip(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    with pytest.raises(SystemExit):
        batch.video(job, Doing(at=11, error=SystemExit))
    parts = tmp_path / ".out.mp4.parts"
    last = sorted(parts.glob("0*"))[-1]
    last.rename(parts / ".writing.partial.mp4")  # as a kill leaves it: half a file, without its name
    again = Doing()
    assert batch.video(job, again).resumed == 8 and again.count == 3 and len(levels(job.out)) == 11


def test_another_source_or_setting_begins_anew(tmp_path: Path) -> None:
    source, out = clip(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        batch.video(Job(source, out, {"strength": 1.0}), Doing(at=7))
    assert batch.video(Job(source, out, {"strength": 0.5}), Doing()).resumed == 0
    with pytest.raises(KeyboardInterrupt):
        batch.video(Job(source, out), Doing(at=7))
    clip(source, 9)
    assert batch.video(Job(source, out), Doing()) == batch.Film(9, 0, batch.video(Job(source, out), Doing()).sound)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_the_sound_is_kept(tmp_path: Path, suffix: str) -> None:
    silent, source = clip(tmp_path / "silent.mp4"), tmp_path / "in.mp4"
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=1.1"]
    ffmpeg("-i", str(silent), *tone, "-c:v", "copy", "-c:a", "aac", "-shortest", str(source))
    out = tmp_path / f"out{suffix}"
    film = batch.video(Job(source, out), Doing())
    streams = subprocess.run(["ffmpeg", "-i", str(out)], capture_output=True, text=True, check=False).stderr
    assert "Audio:" in streams and "Video:" in streams and film.frames == len(levels(out)) == 11
    assert batch.video(Job(silent, out), Doing()).frames == 11  # and where there is none


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    (source / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.jpg", "c.png"):
        write_image(source / name, np.full((8, 8, 3), 50, np.uint8))
    (source / "broken.png").write_text("no image")
    told: list[tuple[int, int]] = []
    album = batch.folder(Job(source, out), Doing(), lambda done, total: told.append((done, total)))
    assert (album.made, album.kept, list(album.failed)) == (3, 0, [source / "broken.png"]) and told[-1] == (4, 4)
    assert read_image(out / "a.png").mean() == 205 and (out / "sub" / "b.jpg").exists()
    (out / "c.png").unlink()
    os.utime(source / "a.png", ns=(2**62, 2**62))  # changed since
    again = batch.folder(Job(source, out), Doing())
    assert (again.made, again.kept) == (2, 1)
    other = batch.folder(Job(source, out, {"strength": 0.5}), Doing())
    assert (other.made, other.kept) == (3, 0)


def test_results_of_nobody_s_are_not_taken_for_ours(tmp_path: Path) -> None:
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="is not of an earlier run"):
        batch.folder(Job(tmp_path / "in", tmp_path / "out"), Doing())


def test_says_what_is_wrong(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4")
    with pytest.raises(ImageError, match="read and to write"):
        batch.video(Job(source, source), Doing())
    with pytest.raises(ImageError, match="endings"):
        batch.video(Job(source, tmp_path / "out.gif"), Doing())
    with pytest.raises(ImageError, match="no video file"):
        batch.video(Job(tmp_path / "none.mp4", tmp_path / "out.mp4"), Doing())
    with pytest.raises(ImageError, match="no images"):
        batch.folder(Job(tmp_path, tmp_path / "out"), Doing())
    with pytest.raises(InputError, match="another folder"):
        batch.folder(Job(tmp_path, tmp_path), Doing())


def ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, capture_output=True)


def test_from_the_command_line(tmp_path: Path, photo: UInt8) -> None:
    """Videos and folders of both tasks, told as JSON; the second time nothing of a folder is made again."""
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in" / "a.png", np.ascontiguousarray(photo[:64, :64]))
    source, large = clip(tmp_path / "in.mp4", 5), tmp_path / "large.mp4"

    def run(*arguments: str | Path) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["run", *map(str, arguments), "--runtime", "onnxruntime", "--json"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    assert run("sr-x2", source, "-o", large)["frames"] == 5
    with VideoReader(large) as reader:
        assert (reader.facts.width, reader.facts.height) == (128, 96)
    assert run("style-wave", tmp_path / "in", "-o", tmp_path / "out", "--strength", "0.5")["images"] == 1
    again = run("style-wave", tmp_path / "in", "-o", tmp_path / "out", "--strength", "0.5")
    assert (again["images"], again["kept"]) == (0, 1)
    assert run("style-wave", tmp_path / "in", "-o", tmp_path / "out")["images"] == 1
