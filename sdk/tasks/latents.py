"""Latents: what a diffusion network draws, and how it becomes a picture: pixels themselves, or an autoencoder's codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.schedulers import Float
from edgekit.tasks.drawing import array_of, check_seed, drawn
from edgekit.tensors import Array, TensorSpec

LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
Runs = Callable[[Mapping[str, Array], str], dict[str, Array]]  # a component's outputs for its inputs
Shape = tuple[int, int, int]  # channels, height, width
MAX_LATENT = 1e4  # far beyond what N(0, 1) gives, and far from what overflows
DECODER, ENCODER = "vae_decoder", "vae_encoder"


class LatentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Codes of an autoencoder, `factor` pixels a side each; `height` and `width` of the picture where none is named.

    `preview`: for red, green and blue the weights of each channel of a code and a constant, which together come
    near the colour, −1…1, that the decoder makes of it.
    """

    factor: Annotated[int, Meta(ge=1, le=256)]
    height: Annotated[int, Meta(ge=1, le=2**15)]
    width: Annotated[int, Meta(ge=1, le=2**15)]
    preview: tuple[tuple[float, ...], ...] = ()


class Pixels:
    """The network draws the picture itself, 1 or 3 channels in −1…1."""

    def __init__(self, bundle: Bundle) -> None:
        sample = sample_spec(bundle)
        self._shape = tuple(d for d in sample.shape[1:] if isinstance(d, int))
        if len(self._shape) != 3 or self._shape[0] not in (1, 3):
            raise ManifestError(f"{bundle.name}: sample is {sample}: expected 1 × (1 or 3) × height × width (NCHW)")

    def shape(self, height: int | None, width: int | None) -> Shape:
        """channels, height, width of what is drawn for a picture of this size.

        Raises:
            InputError: another size than there is.
        """
        channels, rows, columns = self._shape
        _agree((height, width), (rows, columns))
        return channels, rows, columns

    def encode(self, image: UInt8, shape: Shape) -> Float:
        """An image as the network knows them: 1 × channels × height × width in −1…1."""
        channels, height, width = shape
        small = images.middle(images.as_uint8(image)[:, :, :3], height, width).astype(np.float64)
        planes = (small @ LUMA)[None] if channels == 1 else small.transpose(2, 0, 1)
        return np.asarray(planes[None] / 127.5 - 1.0, np.float32)

    def picture(self, drawn: Float) -> UInt8:
        """What was drawn, as uint8 height × width × RGB."""
        return picture(drawn)

    preview = picture


class Codes:
    """The network draws codes, which `vae_decoder` turns into a picture, and `vae_encoder` a picture into."""

    def __init__(self, bundle: Bundle, settings: LatentSettings, runs: Runs) -> None:
        self._settings, self._runs = settings, runs
        self._sample = sample_spec(bundle)
        self._name = bundle.name
        self._encodes = ENCODER in bundle.manifest.components
        bundle.component(DECODER)

    def shape(self, height: int | None, width: int | None) -> Shape:
        """As `Pixels.shape`; free sizes are multiples of the autoencoder's factor."""
        settings = self._settings
        channels, *sides = self._sample.shape[1:]
        if all(isinstance(side, int) for side in sides):
            _agree((height, width), (settings.height, settings.width))
            height, width = settings.height, settings.width
        height, width = height or settings.height, width or settings.width
        for name, size in (("height", height), ("width", width)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1 or size % settings.factor:
                raise InputError(f"got {name}={size!r}: expected a multiple of {settings.factor}")
        assert isinstance(channels, int)
        return channels, int(height) // settings.factor, int(width) // settings.factor

    def encode(self, image: UInt8, shape: Shape) -> Float:
        """The codes of an image's middle.

        Raises:
            InputError: the bundle has no encoder. ImageError: no image.
        """
        if not self._encodes:
            raise InputError(f"got an image, but {self._name} has no '{ENCODER}' to read it with: leave it out")
        height, width = (side * self._settings.factor for side in shape[1:])
        small = images.middle(images.as_uint8(image)[:, :, :3], height, width)
        planes = np.broadcast_to(small, (height, width, 3)).transpose(2, 0, 1)[None]
        (codes,) = self._runs({"image": np.asarray(planes / 127.5 - 1.0, np.float32)}, ENCODER).values()
        return codes

    def picture(self, drawn: Float) -> UInt8:
        """The decoder's picture, as uint8 height × width × RGB."""
        (planes,) = self._runs({"latent": drawn}, DECODER).values()
        return picture(planes)

    def preview(self, drawn: Float) -> UInt8:
        """About what the decoder would make of it, without its run: one colour for each code."""
        weights = np.asarray(self._settings.preview or np.zeros((3, drawn.shape[1] + 1)), np.float32)
        colours = np.einsum("kc,chw->khw", weights[:, :-1], drawn[0]) + weights[:, -1, None, None]
        factor = self._settings.factor
        return np.ascontiguousarray(picture(colours[None]).repeat(factor, 0).repeat(factor, 1))


def picture(planes: Array) -> UInt8:
    """1 × channels × height × width in −1…1 → uint8 height × width × RGB, rounded; grey is repeated."""
    levels = np.clip((planes[0] + 1.0) * 127.5 + 0.5, 0.0, 255.0).astype(np.uint8)
    return images.as_uint8(levels.transpose(1, 2, 0))


def sample_spec(bundle: Bundle) -> TensorSpec:
    """What the network takes as "sample".

    Raises:
        ManifestError: none, or not in NCHW.
    """
    specs = {spec.name: spec for spec in bundle.component("model").inputs}
    if "sample" not in specs or specs["sample"].layout != "NCHW" or len(bundle.component("model").outputs) != 1:
        raise ManifestError(f"{bundle.name} takes {', '.join(specs)}: 'diffuse' needs a sample (NCHW) and one output")
    return specs["sample"]


def _agree(asked: tuple[int | None, int | None], fixed: tuple[int, int]) -> None:
    for name, size, own in zip(("height", "width"), asked, fixed, strict=True):
        if size is not None and size != own:
            raise InputError(
                f"got {name}={size!r}: this bundle draws {fixed[0]} × {fixed[1]}; export it with free sides"
            )


def noises(n: int, shape: Shape, seed: int | None, latents: Array | None) -> list[Float]:
    """The noise of each of `n` images, 1 × channels × height × width: drawn from a seed, or what the caller gave.

    Raises:
        InputError: latents of another shape, or not of numbers like those of N(0, 1).
    """
    check_seed(seed)  # also beside latents, where it decides what a sampler adds
    if latents is None:
        return list(drawn(n, math.prod(shape), seed).reshape(n, 1, *shape))
    array = array_of(latents)
    expected = " × ".join(str(size) for size in (n, *shape))
    if array.dtype.kind not in "fiu" or array.shape not in ((n, *shape), shape if n == 1 else None):
        given = " × ".join(str(size) for size in array.shape) or "one value"
        raise InputError(f"got latents of {array.dtype} {given}: expected float {expected}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError("latents hold NaN or infinity: expected numbers like those of N(0, 1)")
    if (largest := float(np.abs(array).max())) > MAX_LATENT:
        raise InputError(
            f"got latents of up to {largest:g}: expected numbers like those of N(0, 1), {MAX_LATENT:g} at most"
        )
    return list(array.reshape(n, 1, *shape))
