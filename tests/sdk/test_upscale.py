"""Upscaler: every kind and size of image, tiles that equal the whole, threads, quality and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdk.doubles import edit_manifest, write_double

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import BundleError, EdgekitError, ImageError, InputError, ManifestError, SessionClosed
from edgekit.images import psnr_y, resize_bicubic
from edgekit.opening import runtime as find_runtime
from edgekit.tasks.upscale import Upscaler

ENGINES = ("onnxruntime", "openvino", "litert")
PRECISIONS = ("fp32", "int8")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def repeated(image: np.ndarray) -> np.ndarray:
    """What the double makes of an image."""
    return image.repeat(2, axis=0).repeat(2, axis=1)


def shipped(runtime: str = "onnxruntime", precision: str = "fp32", max_tile: int = 512) -> Upscaler:
    return Upscaler(Bundle.open("sr-x2"), runtime, precision=precision, threads=1, max_tile=max_tile)


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two images, in levels."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


@pytest.fixture
def double(tmp_path: Path) -> Upscaler:
    return Upscaler(write_double(tmp_path / "double"), "reference")


@pytest.fixture(params=["double", *ENGINES])
def upscaler(request: pytest.FixtureRequest, tmp_path: Path) -> Upscaler:
    """The double, and the shipped bundle on every engine."""
    if request.param == "double":
        return Upscaler(write_double(tmp_path / "double"), "reference")
    return shipped(request.param)


# Kinds of images


def test_the_double_repeats_pixels(double: Upscaler) -> None:
    image = noise(7, 9, 3)
    np.testing.assert_array_equal(double(image), repeated(image))


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_gives_rgb(upscaler: Upscaler, shape: tuple[int, ...]) -> None:
    grey = noise(*shape)
    result = upscaler(grey)
    assert (result.shape, result.dtype) == ((40, 60, 3), np.uint8)
    np.testing.assert_array_equal(result, upscaler(grey.reshape(20, 30, 1).repeat(3, axis=2)))


def test_alpha_is_kept_and_enlarged(upscaler: Upscaler) -> None:
    image = noise(20, 30, 4)
    image[:, :, 3] = 0
    image[:, 15:, 3] = 255
    result = upscaler(image)
    assert (result.shape, result.dtype) == ((40, 60, 4), np.uint8)
    np.testing.assert_array_equal(result[:, :, :3], upscaler(image[:, :, :3]))
    assert (result[:, :26, 3] == 0).all()
    assert (result[:, 34:, 3] == 255).all()


def test_a_single_pixel(upscaler: Upscaler) -> None:
    assert upscaler(np.full((1, 1, 3), 128, np.uint8)).shape == (2, 2, 3)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (13, 2)])
def test_thin_images(upscaler: Upscaler, size: tuple[int, int]) -> None:
    assert upscaler(noise(*size, 3)).shape == (size[0] * 2, size[1] * 2, 3)


def test_16_bit_and_float_images_give_what_8_bit_gives(upscaler: Upscaler) -> None:
    image = noise(12, 14, 3)
    expected = upscaler(image)
    np.testing.assert_array_equal(upscaler(image.astype(np.uint16) * np.uint16(257)), expected)
    np.testing.assert_array_equal(upscaler((image / 255.0).astype(np.float32)), expected)


def test_views_and_read_only_images_are_taken_and_left_untouched(upscaler: Upscaler) -> None:
    image = noise(30, 28, 3)
    image.flags.writeable = False
    kept = image.copy()
    np.testing.assert_array_equal(upscaler(image[::-1, ::2]), upscaler(image[::-1, ::2].copy()))
    np.testing.assert_array_equal(image, kept)


def test_a_result_is_the_callers_own(upscaler: Upscaler) -> None:
    first = upscaler(np.zeros((10, 12, 3), np.uint8))
    kept = first.copy()
    upscaler(np.full((10, 12, 3), 255, np.uint8))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


@pytest.mark.parametrize("given", [None, "photo.png", np.zeros((4, 4, 7), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(double: Upscaler, given: Any) -> None:
    with pytest.raises(ImageError, match="expected"):
        double(given)


# Tiles


@pytest.mark.parametrize("size", [(10, 10), (11, 10), (23, 57), (100, 9), (9, 100)])
def test_tiles_of_the_double_equal_the_whole(double: Upscaler, size: tuple[int, int]) -> None:
    tiled = Upscaler(double.bundle, "reference", max_tile=10)
    image = noise(*size, 3)
    np.testing.assert_array_equal(tiled(image), repeated(image))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tiles_equal_the_whole_within_one_level(photo: np.ndarray, engine: str, precision: str) -> None:
    image = photo[90:240, 150:321]
    tiled, whole = shipped(engine, precision, max_tile=64), shipped(engine, precision)
    assert (tiled.tile_count(image), whole.tile_count(image)) == (12, 1)
    assert furthest(tiled(image), whole(image)) <= 1


@pytest.mark.parametrize("size", [(100, 150), (64, 64), (256, 300), (361, 70)])
def test_fixed_windows_equal_free_shapes_on_images_as_large(photo: np.ndarray, size: tuple[int, int]) -> None:
    image = photo[: size[0], 100 : 100 + size[1]]
    assert furthest(shipped("litert")(image), shipped("onnxruntime")(image)) <= 1


@pytest.mark.parametrize(
    "size", [(40, 50), (64, 50), (40, 64), (30, 200), (1, 1), (1, 512), (63, 63), (100, 70), (250, 250)]
)
def test_fixed_windows_equal_free_shapes_on_small_images(photo: np.ndarray, size: tuple[int, int]) -> None:
    """To the last pixel, also where the image is smaller than every window."""
    image = photo[: size[0], : size[1]]
    expected = shipped("onnxruntime")(image)
    assert expected.shape == (2 * size[0], 2 * size[1], 3)
    assert furthest(shipped("litert")(image), expected) <= 1
    assert furthest(shipped("openvino")(image), expected) <= 1


@pytest.mark.parametrize("size", [(40, 50), (30, 200), (9, 300)])
def test_filling_a_window_up_does_not_show_at_the_border(photo: np.ndarray, size: tuple[int, int]) -> None:
    image = photo[100 : 100 + size[0], 100 : 100 + size[1]]
    assert psnr_y(shipped("litert")(image), shipped("onnxruntime")(image)) > 40


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_the_tiles_generator_reassembles_to_the_result(photo: np.ndarray, runtime: str) -> None:
    upscaler, image = shipped(runtime, max_tile=64), photo[:150, :130]
    result = np.zeros((300, 260, 3), np.uint8)
    covered = np.zeros((300, 260), int)
    pieces = list(upscaler.tiles(image))
    for top, left, part in pieces:
        result[top : top + part.shape[0], left : left + part.shape[1]] = part
        covered[top : top + part.shape[0], left : left + part.shape[1]] += 1
    assert (covered == 1).all()
    assert len(pieces) == upscaler.tile_count(image) > 1
    np.testing.assert_array_equal(result, upscaler(image))


def test_progress_is_told_of_every_tile(double: Upscaler) -> None:
    tiled, told = Upscaler(double.bundle, "reference", max_tile=10), []
    image = noise(23, 57, 4)
    tiled(image, progress=lambda: told.append(1))
    assert len(told) == tiled.tile_count(image)


def test_tiles_can_be_stopped_and_begun_again(double: Upscaler) -> None:
    tiled = Upscaler(double.bundle, "reference", max_tile=10)
    image = noise(30, 30, 3)
    next(tiled.tiles(image))
    np.testing.assert_array_equal(tiled(image), repeated(image))


def test_tiles_that_are_all_halo_are_refused(double: Upscaler) -> None:
    with pytest.raises(InputError, match="halo"):
        Upscaler(double.bundle, "reference", max_tile=2)(noise(20, 20, 3))


# One upscaler, many callers


@pytest.mark.parametrize("engine", ENGINES)
def test_one_upscaler_may_be_called_from_four_threads(photo: np.ndarray, engine: str) -> None:
    upscaler = shipped(engine, max_tile=64)
    pieces = [photo[20 * i : 20 * i + 40 + 7 * (i % 3), 10 * i : 10 * i + 60] for i in range(12)]
    expected = [upscaler(piece) for piece in pieces]
    with ThreadPoolExecutor(4) as pool:
        for found, single in zip(pool.map(upscaler, pieces), expected, strict=True):
            np.testing.assert_array_equal(found, single)


def test_a_closed_upscaler_says_so(upscaler: Upscaler) -> None:
    upscaler.close()
    upscaler.close()
    with pytest.raises(SessionClosed):
        upscaler(noise(4, 4, 3))


# Settings and facts


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(speed=3),
        lambda s: s.pop("scale"),
        lambda s: s.pop("halo"),
        lambda s: s.update(scale="2"),
        lambda s: s.update(scale=0),
        lambda s: s.update(scale=-2),
        lambda s: s.update(halo=-1),
    ],
    ids=["unknown key", "no scale", "no halo", "text", "scale 0", "scale -2", "halo -1"],
)
def test_wrong_settings_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    folder = write_double(tmp_path / "double").folder
    edit_manifest(folder, lambda m: change(m["task"]["settings"]))
    with pytest.raises(ManifestError, match="double: the settings of task 'upscale' are wrong"):
        edgekit.load(folder, "reference")


def test_a_network_that_looks_at_the_whole_image_is_never_cut(tmp_path: Path) -> None:
    folder = write_double(tmp_path / "double").folder
    edit_manifest(folder, lambda m: m["task"]["settings"].update(halo=None))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    with edgekit.load(folder, "reference") as upscale:
        upscale._max_tile = 32
        assert upscale.tile_count(image) == 1
        np.testing.assert_array_equal(upscale(image), image.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize("scale", [1, 3])
def test_a_network_of_another_scale_than_stated_is_refused(tmp_path: Path, scale: int) -> None:
    """Else part of the result would be memory that nothing was written to."""
    folder = write_double(tmp_path / "double").folder
    edit_manifest(folder, lambda m: m["task"]["settings"].update(scale=scale))
    with pytest.raises(EdgekitError, match="scale|shape"):
        edgekit.load(folder, "reference")(noise(8, 8, 3))


def test_a_bundle_without_a_task_is_refused_with_the_remedy(tmp_path: Path) -> None:
    bundle = write_double(tmp_path / "double", task=None)
    with pytest.raises(BundleError, match=r"states no task.*open_session"):
        edgekit.load(bundle, "reference")


def test_an_unknown_task_lists_those_there_are(tmp_path: Path) -> None:
    bundle = write_double(tmp_path / "double", task="paint")
    with pytest.raises(InputError, match="no task 'paint': expected one of upscale"):
        edgekit.load(bundle, "reference")


@pytest.mark.parametrize("engine", ENGINES)
def test_info_says_what_runs_where_and_why(engine: str) -> None:
    info = edgekit.load("sr-x2", engine, precision="int8", threads=1).info()
    assert (info["name"], info["task"], info["scale"]) == ("sr-x2", "upscale", 2)
    floats = "; without VNNI sums of int8 products would overflow: openvino computes the int8 file in float"
    assert info["why"] == f"asked for{floats if find_runtime(engine).computes('int8') == 'fp32' else ''}"
    placement = info["placement"]
    ran = (placement["runtime"], placement["device"], placement["precision"])
    assert ran == (engine, "cpu", find_runtime(engine).computes("int8"))
    sizes = [v.sizes for v in Bundle.open("sr-x2").component().variants if v.sizes and v.precision == "int8"]
    fixed = [[s["height"], s["width"]] for s in sizes]
    assert info["tile_sizes"] == (fixed if engine == "litert" else "any up to 512")


def test_auto_says_why() -> None:
    info = edgekit.load("sr-x2", threads=1).info()
    assert "default order" in info["why"]
    assert info["placement"]["why"] == info["why"]


# What it is for


@pytest.mark.parametrize(("engine", "precision"), [(e, p) for e in ENGINES for p in PRECISIONS])
def test_a_photo_comes_out_better_than_bicubic(photo: np.ndarray, engine: str, precision: str) -> None:
    height, width = photo.shape[:2]
    small = resize_bicubic(photo, height // 2, width // 2)
    bicubic = psnr_y(resize_bicubic(small, height, width), photo, shave=2)
    assert psnr_y(shipped(engine, precision)(small), photo, shave=2) > bicubic + 1.0


HUGE = """
import sys
import numpy as np
from edgekit.benchmarks.measurement import sample_photo
from edgekit.bundle import Bundle
from edgekit.images import read_image
from edgekit.tasks.upscale import Upscaler

photo = read_image(sample_photo())
image = np.empty((9000, 12000, 3), np.uint8)
for top in range(0, 9000, 512):
    for left in range(0, 12000, 512):
        part = image[top : top + 512, left : left + 512]
        part[:] = photo[: part.shape[0], : part.shape[1]]
result = Upscaler(Bundle.open("sr-x2"), "openvino", precision="int8")(image)
assert result.shape == (18000, 24000, 3), result.shape
assert abs(float(result[::97, ::97].mean()) - float(image[::97, ::97].mean())) < 3
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(image.nbytes, result.nbytes, int(peak_kb) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_huge_image_needs_little_more_than_itself_and_its_result() -> None:
    """108 megapixels in, 432 out: the rest is the engine and one tile."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given, made, peak = (int(n) for n in done.stdout.split())
    assert peak < given + made + 700 * 2**20, f"{(peak - given - made) / 2**20:.0f} MiB beside input and result"
