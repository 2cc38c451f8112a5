"""Images: what is taken and refused, files, the standard bicubic protocol, PSNR and tensors."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgekit import images
from edgekit.errors import ImageError
from edgekit.images import (
    as_uint8,
    from_tensor,
    photos,
    psnr_y,
    read_image,
    resize_bicubic,
    to_tensor,
    write_image,
)
from edgekit.tensors import Layout, TensorSpec

RANGES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]
LAYOUTS: list[Layout] = ["NCHW", "NHWC"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def spec(layout: Layout, dtype: str = "float32", values: tuple[float, float] | None = (0.0, 1.0)) -> TensorSpec:
    shape = (1, 3, "height", "width") if layout == "NCHW" else (1, "height", "width", 3)
    return TensorSpec("image", dtype, shape, layout, values)


# as_uint8


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_grey_is_repeated(shape: tuple[int, ...]) -> None:
    image = as_uint8(noise(*shape))
    assert image.shape == (4, 5, 3)
    assert (image == noise(*shape).reshape(4, 5, 1)).all()


def test_grey_and_alpha_becomes_rgba() -> None:
    image = as_uint8(noise(4, 5, 2))
    assert image.shape == (4, 5, 4)
    assert (image[:, :, :3] == noise(4, 5, 2)[:, :, :1]).all()
    assert (image[:, :, 3] == noise(4, 5, 2)[:, :, 1]).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_stays_as_it_is(channels: int) -> None:
    np.testing.assert_array_equal(as_uint8(noise(4, 5, channels)), noise(4, 5, channels))


def test_bool_becomes_black_and_white() -> None:
    assert as_uint8(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]


def test_uint16_is_divided_by_257_and_rounded() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(as_uint8(values)[:, :, 0], np.rint(values / 257.0).astype(np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_in_0_to_1_give_back_every_level(dtype: str) -> None:
    levels = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(as_uint8((levels / 255.0).astype(dtype))[:, :, 0], levels)


def test_result_is_contiguous_and_the_input_untouched() -> None:
    image = noise(6, 5, 3)
    kept = image.copy()
    flipped = as_uint8(image[::-1, ::-1])
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, kept[::-1, ::-1])
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array([[0.5, np.nan]], np.float32), ["nan", "0…1"]),
        (np.array([[0.0, 1.01]], np.float32), ["1.01", "0…1"]),
        (np.array([[-0.01, 1.0]], np.float32), ["-0.01", "0…1"]),
        (np.array([[0.0, np.inf]], np.float32), ["inf", "0…1"]),
        (np.zeros((4, 5, 5), np.uint8), ["5 channels", "RGB"]),
        (np.zeros((0, 5, 3), np.uint8), ["(0, 5, 3)", "1 × 1"]),
        (np.zeros((4, 5, 0), np.uint8), ["(4, 5, 0)"]),
        (np.zeros((4,), np.uint8), ["(4,)"]),
        (np.zeros((1, 4, 5, 3), np.uint8), ["(1, 4, 5, 3)", "height × width"]),
        (np.zeros((4, 5, 3), np.int64), ["int64", "uint8"]),
        (np.zeros((4, 5, 3), complex), ["complex128", "uint8"]),
        ([[1, 2], [3, 4]], ["list", "array"]),
        (None, ["NoneType"]),
    ],
)
def test_as_uint8_refuses_and_says_why(given: Any, words: list[str]) -> None:
    with pytest.raises(ImageError) as refused:
        as_uint8(given)
    assert all(word in str(refused.value) for word in words)


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", noise(10, 11, 3))
    monkeypatch.setattr(images, "MAX_PIXELS", 109)
    with pytest.raises(ImageError, match="11 × 10 pixels: the limit is 109"):
        as_uint8(noise(10, 11, 3))
    with pytest.raises(ImageError, match="11 × 10"):
        read_image(tmp_path / "a.png")


# Files


def test_png_round_trip_of_rgb_and_rgba(tmp_path: Path) -> None:
    for channels in (3, 4):
        write_image(tmp_path / "a.png", noise(6, 7, channels))
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), noise(6, 7, channels))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_grey_png_becomes_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), noise(6, 7))
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), noise(6, 7, 1).repeat(3, axis=2))


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3), (6, 7, 4)])
def test_16_bit_png_becomes_8_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels.astype(np.uint16) * 257)
    expected = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: shape[2]]]
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), expected)


def test_jpeg_keeps_the_order_of_colours(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", np.full((16, 16, 3), (200, 100, 50), np.uint8))
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no image file"),
        (b"", r"0 bytes.*not an image"),
        (b"hello, I am a text\n" * 9, "not an image"),
    ],
)
def test_files_that_are_no_images_are_refused_by_name(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "odd.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as refused:
        read_image(path)
    assert "odd.png" in str(refused.value)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_truncated_files_are_refused(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"cut{ending}"
    write_image(path, noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(ImageError, match="cut"):
        read_image(path)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image file"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["a.docx", "a", "nowhere/a.png"])
def test_failed_write_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="cannot write"):
        write_image(tmp_path / name, noise(4, 5, 3))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_image(path, noise(4, 5, 3))
    before = path.read_bytes()

    def half_written(partial: str, image: np.ndarray) -> bool:
        Path(partial).write_bytes(b"half")
        return False

    monkeypatch.setattr(cv2, "imwrite", half_written)
    with pytest.raises(ImageError):
        write_image(path, noise(9, 9, 3))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_over_a_folder_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match="cannot write"):
        write_image(tmp_path / "a.png", noise(4, 5, 3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_photos_of_a_folder_zip_and_file_come_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    write_image(folder / "b.png", noise(4, 5, 4))
    write_image(folder / "deep" / "a.PNG", noise(6, 7, 3))
    (folder / "notes.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    for source in (folder, tmp_path / "photos.zip"):
        found = list(photos(source))
        assert [Path(name).name for name, _ in found] == ["b.png", "a.PNG"]
        assert [image.shape for _, image in found] == [(4, 5, 3), (6, 7, 3)]
    assert [image.shape for _, image in photos(folder / "b.png")] == [(4, 5, 3)]


@pytest.mark.parametrize(("most", "taken"), [(None, 9), (20, 9), (3, 3), (1, 1)])
def test_some_of_many_photos_are_evenly_spread(tmp_path: Path, most: int | None, taken: int) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(9):
        write_image(tmp_path / "photos" / f"{index}.png", noise(4, 5, 3))
    (tmp_path / "photos" / "1.png").write_bytes(b"never read where three are taken")
    if most in (3, 1):
        found = [Path(name).stem for name, _ in photos(tmp_path / "photos", most)]
        assert found == {3: ["0", "4", "8"], 1: ["0"]}[most] and len(found) == taken
    else:
        write_image(tmp_path / "photos" / "1.png", noise(4, 5, 3))
        assert len(list(photos(tmp_path / "photos", most))) == taken


def test_photos_of_nothing_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    (tmp_path / "folder").mkdir()
    for source in ("empty.zip", "folder", "missing"):
        with pytest.raises(ImageError, match=f"no images in .*{source}"):
            list(photos(tmp_path / source))


def test_photos_of_a_broken_zip_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"this is no zip")
    with pytest.raises(ImageError, match=r"broken\.zip"):
        list(photos(tmp_path / "broken.zip"))


# Resizing and PSNR


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_resize_to_the_same_size_changes_nothing(dtype: str) -> None:
    image = noise(9, 11, 3).astype(dtype)
    np.testing.assert_array_equal(resize_bicubic(image, 9, 11), image)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 22), (40, 50)])
def test_resize_keeps_a_constant(size: tuple[int, int]) -> None:
    resized = resize_bicubic(np.full((9, 11, 3), 77, np.uint8), *size)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    assert (resized == 77).all()


def test_resize_clips_what_the_kernel_overshoots() -> None:
    edge = np.repeat(np.array([0, 255], np.uint8), 8)[None, :, None].repeat(8, axis=0).repeat(3, axis=2)
    enlarged = resize_bicubic(edge, 32, 64)
    assert (enlarged[:, :16] < 64).all()
    assert (enlarged[:, -16:] > 192).all()
    floats = resize_bicubic(edge.astype(np.float32), 32, 64)
    assert floats.dtype == np.float32
    assert floats.min() < 0 < 255 < floats.max()


@pytest.mark.parametrize(("scale", "published_db"), [(2, 33.66), (4, 28.42)])
def test_bicubic_of_set5_has_the_published_psnr(data: Path, scale: int, published_db: float) -> None:
    """The figures that every super-resolution paper since SRCNN gives for MATLAB's imresize."""
    found = []
    for _, photo in photos(data / "set5.zip"):
        height, width = (n // scale * scale for n in photo.shape[:2])
        truth = photo[:height, :width]
        small = resize_bicubic(truth, height // scale, width // scale)
        found.append(psnr_y(resize_bicubic(small, height, width), truth, shave=scale))
    assert len(found) == 5
    assert np.mean(found) == pytest.approx(published_db, abs=0.05)


def test_psnr_of_equal_images_is_infinite() -> None:
    assert psnr_y(noise(8, 8, 3), noise(8, 8, 3)) == math.inf


@pytest.mark.parametrize("step", [1, 10, 255])
def test_psnr_of_a_known_difference(step: int) -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    expected = 20 * math.log10(255 / (step * 219 / 255))  # studio-range Y spans 219 levels
    assert psnr_y(black + np.uint8(step), black) == pytest.approx(expected, abs=1e-6)


def test_psnr_leaves_the_shaved_border_out() -> None:
    one, other = noise(10, 10, 3), noise(10, 10, 3)
    other[:2] ^= 255
    other[:, -2:] ^= 255
    assert psnr_y(one, other, shave=2) == math.inf
    assert psnr_y(one, other, shave=1) < 20


def test_psnr_refuses_other_shapes() -> None:
    with pytest.raises(ImageError, match=r"\(8, 8, 3\) and \(8, 9, 3\)"):
        psnr_y(noise(8, 8, 3), noise(8, 9, 3))


def test_luma_is_the_studio_range() -> None:
    colours = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]], np.uint8)
    assert images.luma(colours)[0] == pytest.approx([16.0, 235.0, 81.481])


# Tensors


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_level_survives_the_round_trip(layout: Layout, values: tuple[float, float], dtype: str) -> None:
    image = np.stack([np.arange(256).reshape(16, 16) ^ mask for mask in (0, 85, 255)], axis=2).astype(np.uint8)
    described = spec(layout, dtype, values)
    tensor = to_tensor(image, described)
    assert tensor.dtype == dtype
    assert tensor.shape == ((1, 3, 16, 16) if layout == "NCHW" else (1, 16, 16, 3))
    assert (tensor.min(), tensor.max()) == pytest.approx(values)
    np.testing.assert_array_equal(from_tensor(tensor, described), image)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", [None, (0.0, 255.0)])
def test_uint8_tensors_carry_the_pixels_themselves(layout: Layout, values: tuple[float, float] | None) -> None:
    image, described = noise(6, 7, 3), spec(layout, "uint8", values)
    tensor = to_tensor(image, described)
    assert tensor.dtype == np.uint8
    np.testing.assert_array_equal(tensor[0] if layout == "NHWC" else tensor[0].transpose(1, 2, 0), image)
    np.testing.assert_array_equal(from_tensor(tensor, described), image)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (5, 3)])
def test_small_images_survive_the_round_trip(layout: Layout, size: tuple[int, int]) -> None:
    image = noise(*size, 3)
    np.testing.assert_array_equal(from_tensor(to_tensor(image, spec(layout)), spec(layout)), image)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_to_tensor_fills_the_buffer_it_is_given_from_any_view(layout: Layout) -> None:
    image = noise(8, 9, 4)[1:7, 2:8, :3]
    buffer = np.empty((1, 3, 6, 6) if layout == "NCHW" else (1, 6, 6, 3), np.float32)
    assert to_tensor(image, spec(layout), buffer) is buffer
    np.testing.assert_array_equal(from_tensor(buffer, spec(layout)), image)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("beyond", [0.01, 5.0, 1e6, math.inf])
def test_values_beyond_the_range_saturate(layout: Layout, values: tuple[float, float], beyond: float) -> None:
    low, high = values
    shape = (1, 3, 2, 2) if layout == "NCHW" else (1, 2, 2, 3)
    assert (from_tensor(np.full(shape, low - beyond, np.float32), spec(layout, values=values)) == 0).all()
    assert (from_tensor(np.full(shape, high + beyond, np.float32), spec(layout, values=values)) == 255).all()


@pytest.mark.parametrize("channels", [3, 4])
def test_consuming_an_image_writes_the_same_file(tmp_path: Path, channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (600, 20, channels), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", image.copy(), consume=True)
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
