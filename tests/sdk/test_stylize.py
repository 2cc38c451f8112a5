"""Stylizer: every kind and size of image, tiles that equal the whole, strength, frames and video files."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdk.doubles import write_double

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, ImageError, InputError, ManifestError, SessionClosed
from edgekit.runtimes.reference import Function
from edgekit.tasks.stylize import Stylizer, evened
from edgekit.tensors import TensorSpec
from edgekit.video import VideoReader, VideoWriter

FORMS = (("onnxruntime", "fp32"), ("openvino", "fp32"), *((e, "int8") for e in ("onnxruntime", "openvino", "litert")))
STYLES = ("wave", "scream", "shipwreck", "udnie")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def shipped(runtime: str = "onnxruntime", precision: str = "fp32", **options: Any) -> Stylizer:
    return Stylizer(Bundle.open("style-wave"), runtime, precision=precision, threads=1, **options)


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two images, in levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def clip(path: Path, count: int = 5, height: int = 40, width: int = 60) -> Path:
    """A video of a square that moves."""
    with VideoWriter(path, 10) as writer:
        for i in range(count):
            frame = np.full((height, width, 3), (30, 90, 160), np.uint8)
            frame[8:24, 6 * i : 6 * i + 14] = (240, 200, 40)
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    return shipped()


@pytest.fixture
def double(tmp_path: Path) -> Stylizer:
    """A network that repeats nothing: the stylised image is the image."""
    return Stylizer(write_same(tmp_path / "double"), "reference")


def write_same(folder: Path, **settings: Any) -> Bundle:
    import msgspec

    from edgekit.manifest import Task

    image, same = (TensorSpec(n, "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0)) for n in ("image", "same"))
    bundle = write_double(folder, Function((image,), (same,), repeat=1), "stylize")
    task = Task("stylize", {"halo": 4, "border": 2, **settings})
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, task=task))


# Kinds of images


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (41, 3), (37, 50), (64, 64), (30, 47)])
def test_any_size_comes_back_as_it_was(double: Stylizer, shape: tuple[int, int]) -> None:
    image = noise(*shape, 3)
    np.testing.assert_array_equal(double(image), image)


@pytest.mark.parametrize("runtime, precision", FORMS)
def test_every_engine_takes_odd_sizes(runtime: str, precision: str) -> None:
    with shipped(runtime, precision) as stylize:
        for shape in ((1, 1, 3), (37, 50, 3), (61, 45)):
            result = stylize(noise(*shape))
            assert (result.shape, result.dtype) == ((*shape[:2], 3), np.uint8)


def test_grey_gives_rgb(stylizer: Stylizer) -> None:
    grey = noise(20, 30)
    np.testing.assert_array_equal(stylizer(grey), stylizer(grey[:, :, None].repeat(3, axis=2)))


def test_alpha_is_kept(stylizer: Stylizer) -> None:
    image = noise(21, 30, 4)
    result = stylizer(image)
    np.testing.assert_array_equal(result[:, :, 3], image[:, :, 3])
    np.testing.assert_array_equal(result[:, :, :3], stylizer(image[:, :, :3]))


def test_views_and_read_only_images_are_left_untouched(stylizer: Stylizer) -> None:
    image = noise(30, 28, 3)
    image.flags.writeable = False
    kept = image.copy()
    np.testing.assert_array_equal(stylizer(image[::-1, ::2]), stylizer(image[::-1, ::2].copy()))
    np.testing.assert_array_equal(image, kept)


def test_a_result_is_the_callers_own(stylizer: Stylizer) -> None:
    for strength in (1.0, 0.0):
        image = np.zeros((12, 12, 3), np.uint8)
        first = stylizer(image, strength)
        kept = first.copy()
        image[:] = 255
        stylizer(image, strength)
        np.testing.assert_array_equal(first, kept)
        assert first.flags.writeable and first.flags.c_contiguous


@pytest.mark.parametrize("given", [None, "photo.png", np.zeros((4, 4, 7), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(double: Stylizer, given: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        double(given)


# Strength


def test_strength_blends_with_the_photo(stylizer: Stylizer, photo: np.ndarray) -> None:
    photo = photo[:80, :90]
    full = stylizer(photo)
    np.testing.assert_array_equal(stylizer(photo, 0.0), photo)
    np.testing.assert_array_equal(stylizer(photo, strength=1), full)
    assert furthest(stylizer(photo, 0.25), (0.25 * full + 0.75 * photo).round().astype(np.uint8)) <= 1
    assert furthest(full, photo) > 40


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan"), float("inf"), "much", None])
def test_strengths_beyond_0_to_1_are_refused(double: Stylizer, tmp_path: Path, strength: Any) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: double(noise(8, 8, 3), strength),
        lambda: double.frames([], strength),
        lambda: double.video("a.mp4", tmp_path / "b.mp4", strength),
    )
    for call in calls:
        with pytest.raises(InputError, match="strength"):
            call()


# Tiles


@pytest.mark.parametrize("max_tile", [92, 128, 190])
def test_tiles_equal_the_whole(photo: np.ndarray, max_tile: int) -> None:
    photo = photo[:251, :303]
    with shipped() as whole, shipped(max_tile=max_tile) as tiled:
        assert whole.tile_count(photo) == 1 and tiled.tile_count(photo) > 1
        assert furthest(tiled(photo), whole(photo)) <= 1


@pytest.mark.parametrize("runtime, precision, levels", [("openvino", "fp32", 0.1), ("litert", "int8", 0.75)])
def test_engines_agree(photo: np.ndarray, runtime: str, precision: str, levels: float) -> None:
    """On a size that .tflite files take in several tiles; int8 engines may round a value one step apart."""
    photo = photo[:290, :400]
    with shipped(precision=precision) as reference, shipped(runtime, precision) as stylize:
        assert np.abs(stylize(photo).astype(int) - reference(photo)).mean() <= levels


def test_tiles_come_row_by_row_and_progress_is_told(photo: np.ndarray) -> None:
    told = []
    with shipped(max_tile=128) as stylize:
        result = stylize(photo, progress=lambda: told.append(1))
        assert len(told) == stylize.tile_count(photo)
        again = np.zeros_like(result)
        for top, left, piece in stylize.tiles(photo):
            again[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    np.testing.assert_array_equal(again, result)


# Frames and videos


def test_a_frame_does_not_depend_on_those_before_it(stylizer: Stylizer, photo: np.ndarray) -> None:
    frames = [photo[:48, i : i + 64] for i in range(4)]
    results = list(stylizer.frames(iter(frames), 0.8))
    for frame, result in zip(frames, results, strict=True):
        np.testing.assert_array_equal(result, stylizer(frame, 0.8))
    assert next(stylizer.frames(itertools.repeat(frames[0]))).shape == (48, 64, 3)  # endless sources are fine


def test_only_the_tones_of_what_is_far_away_count(stylizer: Stylizer, photo: np.ndarray) -> None:
    """No statistics of the frame but its tone curve: the left half stays as it is when the right half is mirrored."""
    whole = photo[:64, :256].copy()
    half = whole.copy()
    half[:, 128:] = half[:, :127:-1]
    edge = 128 - stylizer.settings.halo
    assert furthest(stylizer(whole)[:, :edge], stylizer(half)[:, :edge]) == 0


# Contrast


def test_no_contrast_changes_nothing_and_more_spreads_the_tones(photo: np.ndarray) -> None:
    dim = (photo // 4 + 90).astype(np.uint8)
    assert evened(dim, 1.0) is dim
    spread = [float(evened(dim, contrast).std()) for contrast in (1.0, 1.5, 2.0, 4.0)]
    assert spread == sorted(spread) and spread[-1] > 2 * spread[0]
    steps = np.diff(
        evened(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3), 8.0)[:, :, 0].ravel().astype(int)
    )
    assert set(steps.tolist()) <= {0, 1, 2}  # tones that are even already stay


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_plain_image_stays_about_as_it_is(level: int) -> None:
    image = np.full((5, 7, 3), level, np.uint8)
    result = evened(image, 8.0)
    assert furthest(result, image) <= 5 and len(np.unique(result)) == 1


def test_no_tone_is_stretched_beyond_the_limit(photo: np.ndarray) -> None:
    ramp = np.repeat(np.arange(120, 136, dtype=np.uint8), 48).reshape(16, 16, 3)
    assert np.abs(np.diff(evened(ramp, 6.0)[:, 0, 0].astype(int))).max() <= 7


def test_the_task_evens_the_whole_image_before_it_is_cut(tmp_path: Path, photo: np.ndarray) -> None:
    with Stylizer(write_same(tmp_path / "double", contrast=6.0), "reference", max_tile=64) as stylize:
        image = np.ascontiguousarray(photo[:150, :130])
        np.testing.assert_array_equal(stylize(image), evened(image, 6.0))
        np.testing.assert_array_equal(stylize(image, 0.0), image)


@pytest.mark.parametrize("contrast", [0.5, 1000.0, "much"])
def test_a_contrast_beyond_its_range_is_refused(tmp_path: Path, contrast: Any) -> None:
    with pytest.raises(ManifestError, match="contrast"):
        Stylizer(write_same(tmp_path / "double", contrast=contrast), "reference")


@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_a_video_keeps_its_rate_and_size(double: Stylizer, tmp_path: Path, ending: str) -> None:
    told: list[tuple[int, int]] = []
    source, out = clip(tmp_path / "clip.mp4"), tmp_path / f"out{ending}"
    assert double.video(source, out, progress=lambda done, total: told.append((done, total))) == 5
    assert told == [(i, 5) for i in range(1, 6)]
    with VideoReader(source) as before, VideoReader(out) as after:
        assert before.facts == after.facts
        for one, other in zip(before, after, strict=True):
            assert np.abs(one.astype(int) - other).mean() < 6


def test_ctrl_c_keeps_the_part_that_is_done(double: Stylizer, tmp_path: Path) -> None:
    def impatient(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        double.video(clip(tmp_path / "clip.mp4"), tmp_path / "out.mp4", progress=impatient)
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert len(list(reader)) == 3
    assert sorted(p.name for p in tmp_path.glob("*.mp4")) == ["clip.mp4", "out.mp4"]


@pytest.mark.parametrize("content, complaint", [(b"", "is empty"), (b"moov" * 99, "no frame that OpenCV can decode")])
def test_a_corrupt_video_is_named_and_leaves_nothing(
    double: Stylizer, tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(ImageError, match=complaint):
        double.video(tmp_path / "clip.mp4", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_a_video_is_not_written_over_itself(double: Stylizer, tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.mp4")
    with pytest.raises(ImageError, match="name another file"):
        double.video(source, tmp_path / "." / "clip.mp4")


def test_a_real_video_in_int8(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data / "content.zip") as archive:
        archive.extract("fox.mp4", tmp_path)
    with VideoReader(tmp_path / "fox.mp4") as reader, VideoWriter(tmp_path / "short.mp4", reader.facts.fps) as writer:
        for frame in itertools.islice(reader, 8):
            writer.write(frame)
    with shipped("openvino", "int8") as stylize:
        assert stylize.video(tmp_path / "short.mp4", tmp_path / "out.mp4") == 8
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert (reader.facts.width, reader.facts.height) == (640, 640)
        assert reader.facts.fps == pytest.approx(29.97, abs=0.01)


# Settings, errors, threads


def test_settings_are_strict(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="colour"):
        Stylizer(write_same(tmp_path / "double", colour=1), "reference")


def test_nan_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stylize = Stylizer(write_same(tmp_path / "double"), "reference")
    session = stylize._session()
    original = session._run
    monkeypatch.setattr(session, "_run", lambda arrays, copy: [a * np.float32("nan") for a in original(arrays, copy)])
    with pytest.raises(EngineError, match="gave NaN"):
        stylize(noise(8, 8, 3))


def test_threads_share_a_task(stylizer: Stylizer, photo: np.ndarray) -> None:
    parts = [photo[:, i * 40 : i * 40 + 64][:72] for i in range(6)]
    expected = [stylizer(part) for part in parts]
    with ThreadPoolExecutor(3) as pool:
        for result, wanted in zip(pool.map(stylizer, parts * 2), expected * 2, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_closed_says_so(tmp_path: Path) -> None:
    stylize = Stylizer(write_same(tmp_path / "double"), "reference")
    stylize.close()
    with pytest.raises(SessionClosed):
        stylize(noise(8, 8, 3))


@pytest.mark.parametrize("style", STYLES)
def test_load_by_name(style: str, photo: np.ndarray) -> None:
    with edgekit.load(f"style-{style}", "onnxruntime", precision="int8", threads=1) as stylize:
        facts = stylize.info()
        result = stylize(photo[:96, :128])
    assert facts["task"] == "stylize" and facts["style"] and facts["tile_sizes"]
    assert result.shape == (96, 128, 3)
    assert result.std() > 10
