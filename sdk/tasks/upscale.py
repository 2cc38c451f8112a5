"""Upscaler: any image, any size, enlarged by a super-resolution network, tile by tile where it is large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.images import UInt8
from edgekit.tasks.tiled import TiledTask


class UpscaleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scale`: enlargement; `halo`: input pixels around an output pixel that the network looks at, None where that
    is the whole image; `step`: what the sizes that it takes are multiples of.
    """

    scale: Annotated[int, Meta(ge=1, le=16)]
    halo: Annotated[int, Meta(ge=0, le=1024)] | None
    step: Annotated[int, Meta(ge=1, le=1024)] = 1


class Upscaler(TiledTask):
    """Call it with an image: uint8 height × width × (RGB, RGBA or grey) → uint8, `scale` times as large.

    Large images go through in tiles (`TiledTask`). Alpha is enlarged bicubically. Thread-safe.
    """

    name = "upscale"
    Settings = UpscaleSettings

    def __init__(self, bundle: Bundle, runtime: str = "auto", *, max_tile: int | None = None, **request: Any) -> None:
        """As `edgekit.load`; `max_tile`: input pixels a side of a tile, where shapes are free; left out, what was tuned."""
        super().__init__(bundle, runtime, max_tile=max_tile, **request)
        self.scale = self.settings.scale

    def __call__(self, image: UInt8, *, progress: Callable[[], None] = lambda: None) -> UInt8:
        """Enlarge one image; `progress` is called after every tile.

        Raises:
            ImageError: not an image array; see `images.as_uint8` for what is taken.
        """
        image = images.as_uint8(image)
        result = self._whole(image, progress)
        if image.shape[2] == 4:
            result[:, :, 3] = _enlarge_alpha(image[:, :, 3], *result.shape[:2])
        return result


def _enlarge_alpha(alpha: UInt8, height: int, width: int) -> UInt8:
    cv2 = images.opencv()
    enlarged: UInt8 = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC)
    return enlarged
