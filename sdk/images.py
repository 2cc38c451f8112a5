"""Images as uint8 height × width × RGB: files, resizing, and the PSNR that papers report."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import ImageError, NotInstalled
from edgekit.tensors import TensorSpec

UInt8 = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
JPEG = b"\xff\xd8\xff"
STRIP = 2**15  # pixels that are converted at a time: some 400 KB with their temporaries
MAX_PIXELS = 2**29  # 537 megapixels: the result of a 12,000 × 9,000 photo ×2 can still be read


def opencv() -> Any:
    """OpenCV, or NotInstalled with the extra that brings it."""
    # a picture that claims more is refused by OpenCV before it is allocated, if this is set before the import
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
    try:
        import cv2
    except ImportError as error:
        raise NotInstalled.named("reading, writing and converting images", "opencv", "image") from error
    return cv2


def read_image(path: str | Path) -> npt.NDArray[Any]:
    """Decode an image file to RGB or RGBA, uint8, height × width × (3 or 4).

    Grey becomes RGB; 16-bit and float files are scaled to 8 bits (`as_uint8`).

    Raises:
        ImageError: the file is missing, empty, no image, or larger than MAX_PIXELS.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"no image file at '{path}': expected the path of a PNG, JPEG, WebP, BMP or TIFF file")
    return decode_image(path.read_bytes(), str(path))


def decode_image(encoded: bytes, name: str) -> UInt8:
    """Decode the bytes of an image file as `read_image` does; `name` stands for them in errors."""
    cv2 = opencv()
    data = np.frombuffer(encoded, dtype=np.uint8)
    try:
        turned = encoded.startswith(JPEG)  # only IMREAD_COLOR heeds the camera's orientation, and it drops alpha
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR if turned else cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:
        raise ImageError(f"'{name}' cannot be decoded: {error}") from error
    if decoded is None:
        raise ImageError(
            f"'{name}' ({data.size} bytes) is not an image that OpenCV can decode: "
            "expected a PNG, JPEG, WebP, BMP or TIFF file, whole and undamaged"
        )
    if decoded.ndim == 3:
        decoded = _converted(decoded, cv2.COLOR_BGRA2RGBA if decoded.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return as_uint8(decoded)


def photos(source: str | Path, most: int | None = None) -> Iterator[tuple[str, UInt8]]:
    """(name, RGB image) of every image in a folder (searched recursively), a .zip, or a single file, by name.

    Of more than `most`, so many are read, evenly spread: collections lie sorted, by class as a rule.

    Raises:
        ImageError: there are none.
    """
    source = Path(source)
    if source.suffix == ".zip" and source.is_file():
        try:
            with zipfile.ZipFile(source) as archive:
                names = sorted(n for n in archive.namelist() if Path(n).suffix.lower() in SUFFIXES)
                for name in _some(names, most):
                    yield name, decode_image(archive.read(name), name)[:, :, :3]
        except zipfile.BadZipFile as error:
            raise ImageError(f"'{source}' is not a readable .zip: {error}") from error
    else:
        paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES)
        names = [str(p) for p in paths]
        for name in _some(names, most):
            yield name, read_image(name)[:, :, :3]
    if not names:
        raise ImageError(f"no images in '{source}': expected a folder or .zip of PNG, JPEG or WebP files")


def _some(names: list[str], most: int | None) -> list[str]:
    """At most so many names at even distances, the first and the last among them."""
    if most is None or len(names) <= most:
        return names
    return [names[place] for place in np.linspace(0, len(names) - 1, most).astype(int)]


def write_image(path: str | Path, image: UInt8, *, consume: bool = False) -> None:
    """Encode uint8 RGB or RGBA to the format of the path's ending; a failed write leaves nothing behind.

    `consume` lets the array be overwritten, which saves the memory of a second one.

    Raises:
        ImageError: another ending, no such folder, or beyond what the format can hold.
    """
    cv2 = opencv()
    image = as_uint8(image)
    path = writable(path, image.shape[2])
    code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        written = cv2.imwrite(str(partial), _converted(image, code) if consume else cv2.cvtColor(image, code))
        if not written:
            raise ImageError(
                f"cannot write '{path}': is the folder writable, and the image within the format's limits?"
            )
        partial.replace(path)
    except cv2.error as error:
        raise ImageError(f"cannot write '{path}': {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _converted(image: UInt8, code: int) -> UInt8:
    """The array itself in another order of channels; OpenCV copies the whole of an array that it converts in place."""
    cv2 = opencv()
    for top in range(0, image.shape[0], 256):
        image[top : top + 256] = cv2.cvtColor(image[top : top + 256], code)
    return image


def writable(path: str | Path, channels: int = 3) -> Path:
    """The path of an image to write, checked before the work that makes it.

    Raises:
        ImageError: its ending is of no image format, or of one without alpha for 4 channels, or its folder is not there.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"cannot write '{path}': expected one of the endings {' '.join(SUFFIXES)}")
    if channels == 4 and path.suffix.lower() in (".jpg", ".jpeg"):
        raise ImageError(f"cannot write '{path}': JPEG has no alpha; name a .png or .webp, or drop the fourth channel")
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise ImageError(f"cannot write '{path}': {reason}")
    return path


def as_uint8(image: npt.NDArray[Any]) -> UInt8:
    """Bring a decoded image to uint8 height × width × (3 or 4).

    uint8 stays, uint16 is divided by 257, floats are taken as 0…1, bool as 0 or 255; grey is repeated.

    Raises:
        ImageError: another dtype or shape, an empty image, NaN, or floats beyond 0…1.
    """
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or 0 in image.shape:
        given = f"shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"got {given}: expected an array of height × width × RGB, at least 1 × 1")
    if image.ndim == 2:
        image = image[:, :, None]
    channels = image.shape[2]
    if channels not in (1, 2, 3, 4):
        raise ImageError(f"got {channels} channels: expected grey (1), grey + alpha (2), RGB (3) or RGBA (4)")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(f"got {image.shape[1]} × {image.shape[0]} pixels: the limit is {MAX_PIXELS} pixels")
    image = _to_8_bits(image)
    if channels <= 2:
        image = np.concatenate([np.repeat(image[:, :, :1], 3, axis=2), image[:, :, 1:]], axis=2)
    return np.ascontiguousarray(image)


def _to_8_bits(image: npt.NDArray[Any]) -> UInt8:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * np.uint8(255)
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype in (np.float16, np.float32, np.float64):
        low, high = float(image.min()), float(image.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for NaN
            raise ImageError(f"got a float image with values {low:g}…{high:g}: expected 0…1 without NaN, or uint8")
        return (image * 255.0 + 0.5).astype(np.uint8)
    raise ImageError(f"got an image of dtype {image.dtype}: expected uint8, uint16, or float in 0…1")


def resize_bicubic(image: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """Resize height × width × channels with the antialiased bicubic kernel of MATLAB's `imresize`.

    Keys (1981), a = −0.5, widened when shrinking, edges mirrored: the degradation of the standard
    super-resolution protocol. uint8 in gives rounded uint8 out; floats stay float32.
    """
    data: npt.NDArray[Any] = _resample(image.astype(np.float32), height, axis=0)
    data = _resample(data, width, axis=1)
    if image.dtype == np.uint8:
        return np.asarray(np.clip(data + 0.5, 0, 255), dtype=np.uint8)
    return data


def _resample(data: npt.NDArray[np.float32], size: int, axis: int) -> npt.NDArray[np.float32]:
    """Weighted sums of the source rows (axis 0) or columns (axis 1) that each output one is made of."""
    indices, weights = _bicubic_taps(data.shape[axis], size)
    along = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    result = data.take(indices[:, 0], axis) * weights[:, 0].reshape(along)
    for tap in range(1, indices.shape[1]):
        result += data.take(indices[:, tap], axis) * weights[:, tap].reshape(along)
    return result


@lru_cache(maxsize=64)
def _bicubic_taps(size_in: int, size_out: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Source index and weight of each tap of each output sample, both size_out × taps."""
    scale = size_out / size_in
    shrink = min(scale, 1.0)
    centre = (np.arange(size_out) + 0.5) / scale - 0.5
    left = np.floor(centre - 2.0 / shrink).astype(np.intp)
    taps = left[:, None] + np.arange(int(np.ceil(4.0 / shrink)) + 2)
    weights = _keys_cubic((centre[:, None] - taps) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights.any(axis=0)
    mirrored = np.concatenate([np.arange(size_in), np.arange(size_in)[::-1]])
    return mirrored[taps[:, used] % (2 * size_in)], weights[:, used].astype(np.float32)


def _keys_cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def luma(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The BT.601 studio-range Y channel (16…235) of RGB in 0…255, as MATLAB's `rgb2ycbcr`."""
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    return np.asarray(16.0 + image[..., :3].astype(np.float64) @ weights, dtype=np.float64)


def middle(image: UInt8, height: int, width: int) -> UInt8:
    """The image's middle, as large as the aspect allows, shrunk (antialiased bicubic) to height × width."""
    factor = min(image.shape[0] / height, image.shape[1] / width)
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    part = image[top : top + rows, left : left + columns]
    return np.ascontiguousarray(part) if part.shape[:2] == (height, width) else resize_bicubic(part, height, width)


def sheet(pictures: Sequence[UInt8], columns: int = 10, enlarge: int = 2, gap: int = 2) -> UInt8:
    """Pictures of one size, in rows of `columns`, each pixel repeated `enlarge` times, on a grey ground: uint8 RGB."""
    rgb = [np.broadcast_to(as_uint8(p)[:, :, :3], (*p.shape[:2], 3)) for p in pictures]
    height, width = (n * enlarge for n in rgb[0].shape[:2])
    rows = -(-len(rgb) // columns)
    ground = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 128, np.uint8)
    for index, picture in enumerate(rgb):
        top, left = (n * (side + gap) + gap for n, side in zip(divmod(index, columns), (height, width), strict=True))
        ground[top : top + height, left : left + width] = picture.repeat(enlarge, 0).repeat(enlarge, 1)
    return ground


def psnr_y(image: UInt8, truth: UInt8, shave: int = 0) -> float:
    """Peak signal-to-noise ratio in dB on the Y channel, `shave` pixels of each border left out."""
    if image.shape != truth.shape:
        raise ImageError(f"got images of {image.shape} and {truth.shape}: PSNR needs equal shapes")
    error = luma(image) - luma(truth)
    if shave:
        error = error[shave:-shave, shave:-shave]
    mse = float(np.mean(error**2))
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def to_tensor(image: UInt8, spec: TensorSpec, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """uint8 height × width × RGB → the batch of one that `spec` describes (layout, dtype, range).

    `out` is a buffer of the result's shape and dtype to fill; None makes a new one.
    """
    height, width, channels = image.shape
    if spec.dtype == "uint8":
        return np.ascontiguousarray(image if spec.layout == "NHWC" else image.transpose(2, 0, 1))[None]
    shape = (1, height, width, channels) if spec.layout == "NHWC" else (1, channels, height, width)
    result = np.empty(shape, spec.dtype) if out is None else out
    low, high = spec.range or (0.0, 1.0)
    scale = np.float32((high - low) / 255.0)
    if spec.layout == "NHWC":
        np.multiply(image, scale, out=result[0], casting="unsafe", dtype=np.float32)
    else:
        for channel, plane in enumerate(opencv().split(image)):
            np.multiply(plane, scale, out=result[0, channel], casting="unsafe", dtype=np.float32)
    if low != 0.0:
        result += np.asarray(low, dtype=result.dtype)
    return result


def from_tensor(tensor: npt.NDArray[Any], spec: TensorSpec) -> UInt8:
    """The first image of a batch → uint8 height × width × RGB, rounded; values beyond `spec.range` saturate."""
    first = tensor[0]
    if spec.dtype == "uint8":
        return np.ascontiguousarray(first if spec.layout == "NHWC" else first.transpose(1, 2, 0))
    low, high = spec.range or (0.0, 1.0)
    scale, shift = 255.0 / (high - low), -low * 255.0 / (high - low)
    rows, width, channels = first.shape if spec.layout == "NHWC" else (*first.shape[1:], first.shape[0])
    result = np.empty((rows, width, channels), np.uint8)
    # In strips that stay in the cache: whole-image temporaries are given back to the system and paged in again
    # at every call, which took a third of an int8 model's time.
    for top in range(0, rows, max(1, STRIP // width)):
        strip = slice(top, top + max(1, STRIP // width))
        if spec.layout == "NHWC":
            result[strip] = _rounded(first[strip], high, scale, shift)
        else:
            opencv().merge([_rounded(plane[strip], high, scale, shift) for plane in first], dst=result[strip])
    return result


def _rounded(values: npt.NDArray[Any], high: float, scale: float, shift: float) -> UInt8:
    """values · scale + shift as uint8; OpenCV rounds by way of int32, so what is far too large is limited first."""
    cv2 = opencv()
    limited = cv2.threshold(np.asarray(values, np.float32), high, 0.0, cv2.THRESH_TRUNC)[1]
    rounded: UInt8 = cv2.addWeighted(limited, scale, limited, 0.0, shift, dtype=cv2.CV_8U)
    return rounded.reshape(values.shape)
