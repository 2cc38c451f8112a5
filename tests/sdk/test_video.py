"""Video files: what is written is read again, what is broken is named, what is begun is kept."""

from __future__ import annotations

import itertools
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import ImageError
from edgekit.video import CODECS, VideoReader, VideoWriter


def moving(count: int = 6, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A bright square on a coloured slope, further to the right in every frame."""
    slope = np.linspace(40, 200, width)[None, :, None] * np.array([1.0, 0.6, 0.3])
    frames = np.repeat(np.broadcast_to(slope, (height, width, 3)).astype(np.uint8)[None], count, axis=0)
    for i, frame in enumerate(frames):
        frame[10:26, 4 * i : 4 * i + 16] = (220, 230, 90)
    return list(frames)


def written(path: Path, frames: list[np.ndarray], fps: float = 12.5) -> Path:
    with VideoWriter(path, fps) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.mark.parametrize("ending", CODECS)
def test_a_round_trip(tmp_path: Path, ending: str) -> None:
    frames = moving()
    with VideoReader(written(tmp_path / f"clip{ending}", frames)) as reader:
        facts, again = reader.facts, list(reader)
    assert (facts.width, facts.height, facts.fps, facts.frames) == (64, 48, 12.5, 6)
    assert len(again) == len(frames)
    for frame, back in zip(frames, again, strict=True):
        assert (back.shape, back.dtype) == ((48, 64, 3), np.uint8)
        assert np.abs(frame.astype(int) - back).mean() < 6  # lossy, but RGB stays RGB


def test_frames_are_arrays_of_their_own(tmp_path: Path) -> None:
    with VideoReader(written(tmp_path / "clip.avi", moving(3))) as reader:
        first, second, _ = list(reader)
    kept = second.copy()
    first[:] = 0
    np.testing.assert_array_equal(second, kept)


@pytest.mark.parametrize("ending", CODECS)
def test_a_pass_goes_on_where_the_last_one_broke_off(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"clip{ending}", moving())
    with VideoReader(path) as reader:
        whole = list(reader)
        assert list(reader) == [] and list(reader) == []
    with VideoReader(path) as reader:
        first = next(iter(reader))
        np.testing.assert_array_equal([first, *reader], whole)
    with VideoReader(path) as reader:
        assert len(list(itertools.islice(reader, 5))) == 5
        assert len(list(reader)) == 1 and not list(reader)


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    with VideoReader(written(tmp_path / "odd.mp4", moving(3, 47, 33))) as reader:
        assert next(iter(reader)).shape == (48, 34, 3)


def test_frames_have_one_size(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(moving(1)[0])
        with pytest.raises(ImageError, match="of one size"):
            writer.write(moving(1, 50, 64)[0])


def test_the_file_is_there_once_it_is_closed_and_whole_after_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 25) as writer:
        for frame in moving(4):
            writer.write(frame)
            assert not path.exists()
        raise KeyboardInterrupt
    with VideoReader(path) as reader:
        assert len(list(reader)) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_nothing_is_left_of_a_video_without_frames(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 25):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, complaint", [(None, "no video file at"), (b"", "is empty"), (b"not a video " * 80, "960 bytes")]
)
def test_what_is_no_video_is_named(
    tmp_path: Path, content: bytes | None, complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=complaint):
        VideoReader(path)
    assert "clip.mp4" not in capfd.readouterr().err


def test_a_video_cut_short_is_named_after_its_frames(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data / "content.zip") as archive:
        content = archive.read("fox.mp4")
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 8])
    with VideoReader(tmp_path / "cut.mp4") as reader:
        frames = iter(reader)
        assert len(list(itertools.islice(frames, 5))) == 5
        with pytest.raises(ImageError, match=r"ends after \d+ of 420 frames"):
            list(frames)


def test_a_picture_without_index_is_no_video(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data / "content.zip") as archive:
        content = archive.read("fox.mp4")
    (tmp_path / "tail.mp4").write_bytes(content[len(content) // 2 :])
    with pytest.raises(ImageError, match="no frame that OpenCV can decode"):
        VideoReader(tmp_path / "tail.mp4")


@pytest.mark.parametrize(
    "name, complaint", [("clip.gif", r"\.mp4 \.webm \.avi"), ("clip", "endings"), ("no/clip.mp4", "no folder")]
)
def test_where_no_video_can_be_written_is_said_before_the_work(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        VideoWriter(tmp_path / name, 25)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ImageError, match="writable"), VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        writer.write(moving(1)[0])
