"""Upscaler: any image, any size, enlarged by a super-resolution network, tile by tile where it is large."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import images, tiling
from edgekit.bundle import Bundle
from edgekit.errors import ManifestError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.task import Task
from edgekit.tensors import Array
from edgekit.tiling import Tile

MAX_TILE = 512  # input pixels a side where shapes are free: some 100 MB of activations at 32 channels


class UpscaleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scale`: enlargement; `halo`: input pixels around an output pixel that the network looks at."""

    scale: Annotated[int, Meta(ge=1, le=16)]
    halo: Annotated[int, Meta(ge=0, le=1024)]


class Upscaler(Task):
    """Call it with an image: uint8 height × width × (RGB, RGBA or grey) → uint8, `scale` times as large.

    Large images are cut into tiles whose results equal the untiled one, as every kept pixel sees its
    whole neighbourhood; memory stays bounded by the result and one tile. Alpha is enlarged bicubically.
    An image smaller than the bundle's smallest file of fixed sizes is first filled up to it by repeating
    its edge, on every engine, so that all give the same. Thread-safe.
    """

    name = "upscale"
    Settings = UpscaleSettings

    def __init__(self, bundle: Bundle, runtime: str = "auto", *, max_tile: int = MAX_TILE, **request: Any) -> None:
        """As `edgekit.load`; `max_tile`: input pixels a side of a tile, where shapes are free."""
        super().__init__(bundle, runtime, **request)
        self.scale: int = self.settings.scale
        self._max_tile = max_tile
        self._windows = self._fixed_windows()
        fixed = [v.sizes for v in bundle.component().variants if v.sizes]
        self._least = tuple(min((sizes[side] for sizes in fixed), default=1) for side in ("height", "width"))
        self._buffers = threading.local()
        self._session_of(next(iter(self._windows), None))  # errors come here, not with the first image

    def __call__(self, image: UInt8, *, progress: Callable[[], None] = lambda: None) -> UInt8:
        """Enlarge one image; `progress` is called after every tile.

        Raises:
            ImageError: not an image array; see `images.as_uint8` for what is taken.
        """
        image = images.as_uint8(image)
        height, width = image.shape[0] * self.scale, image.shape[1] * self.scale
        pieces = self._pieces(image[:, :, :3])
        top, left, piece = next(pieces)
        progress()
        if image.shape[2] == 3 and piece.shape[:2] == (height, width):
            return piece
        result = np.empty((height, width, image.shape[2]), np.uint8)
        result[: piece.shape[0], : piece.shape[1], :3] = piece
        for top, left, piece in pieces:
            result[top : top + piece.shape[0], left : left + piece.shape[1], :3] = piece
            progress()
        if image.shape[2] == 4:
            result[:, :, 3] = _enlarge_alpha(image[:, :, 3], height, width)
        return result

    def tiles(self, image: UInt8) -> Iterator[tuple[int, int, UInt8]]:
        """The result piece by piece: (top, left, uint8 RGB), in output pixels, row by row."""
        return self._pieces(images.as_uint8(image)[:, :, :3])

    def tile_count(self, image: UInt8) -> int:
        """How many pieces `tiles` will give, for progress bars."""
        return len(self._plan(*self._filled_size(*image.shape[:2]))[1])

    def info(self) -> dict[str, Any]:
        """Name, scale, sizes of tiles, and what runs where and why."""
        return {**super().info(), "tile_sizes": [list(w) for w in self._windows] or f"any up to {self._max_tile}"}

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The session, and the image, or its first tile, as it gets it."""
        image = self._filled(image)
        window, tiles = self._plan(*image.shape[:2])
        session, rows, columns = self._session_of(window), tiles[0].rows, tiles[0].columns
        part = image[rows.start : rows.stop, columns.start : columns.stop]
        return session, {session.inputs[0].name: self._tensor(session, part).copy()}

    def _pieces(self, image: UInt8) -> Iterator[tuple[int, int, UInt8]]:
        """What `tiles` gives, of an RGB image; what lies beyond the image's own end is cut off."""
        height, width = image.shape[0] * self.scale, image.shape[1] * self.scale
        image = self._filled(image)
        window, tiles = self._plan(*image.shape[:2])
        session = self._session_of(window)
        for tile in tiles:
            part = image[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            top, left = tile.rows.keep * self.scale, tile.columns.keep * self.scale
            yield top, left, self._crop(tile, self._run(session, part))[: height - top, : width - left]

    def _run(self, session: Session, part: UInt8) -> UInt8:
        target = session.outputs[0]
        tensor = self._tensor(session, part)
        with session.borrow({session.inputs[0].name: tensor}) as outputs:
            result = images.from_tensor(outputs[target.name], target)
        height, width = part.shape[:2]
        if result.shape[:2] != (height * self.scale, width * self.scale):
            raise ManifestError(
                f"{self.bundle.name}: the network made {result.shape[:2]} of {(height, width)}, its manifest says "
                f"scale {self.scale}: correct the setting, or export the bundle again"
            )
        return result

    def _tensor(self, session: Session, part: UInt8) -> Array:
        """A part of the image as the session takes it, in this thread's buffer."""
        source = session.inputs[0]
        return images.to_tensor(part, source, self._buffer(source.layout, part.shape, source.dtype))

    def _buffer(self, layout: str | None, shape: tuple[int, ...], dtype: str) -> Any:
        """One input buffer a thread, made anew when the size changes."""
        height, width, channels = shape
        wanted = (1, height, width, channels) if layout == "NHWC" else (1, channels, height, width)
        held = getattr(self._buffers, "input", None)
        if held is None or held.shape != wanted or held.dtype != dtype:
            held = self._buffers.input = np.empty(wanted, dtype)
        return held

    def _crop(self, tile: Tile, part: UInt8) -> UInt8:
        rows = slice((tile.rows.keep - tile.rows.start) * self.scale, (tile.rows.end - tile.rows.start) * self.scale)
        columns = slice(
            (tile.columns.keep - tile.columns.start) * self.scale, (tile.columns.end - tile.columns.start) * self.scale
        )
        return part[rows, columns]

    def _filled(self, image: UInt8) -> UInt8:
        """The image, its edge repeated at the right and the bottom up to `_filled_size`."""
        height, width = self._filled_size(*image.shape[:2])
        missing = height - image.shape[0], width - image.shape[1]
        return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else image

    def _filled_size(self, height: int, width: int) -> tuple[int, int]:
        """At least the smallest sizes that any engine's files have; and at least one window of this engine's."""
        height, width = max(height, self._least[0]), max(width, self._least[1])
        if not self._windows or any(w[0] <= height and w[1] <= width for w in self._windows):
            return height, width
        return min(((max(height, w[0]), max(width, w[1])) for w in self._windows), key=lambda size: size[0] * size[1])

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int] | None, list[Tile]]:
        """The file's window (None where shapes are free) and the tiles over an image."""
        halo = self.settings.halo
        if not self._windows:
            if height * width <= self._max_tile**2:
                return None, tiling.plan(height, width, (height, width), halo)
            return None, tiling.plan(height, width, (self._max_tile, self._max_tile), halo)
        inside = [w for w in self._windows if w[0] <= height and w[1] <= width]
        window = min(inside, key=lambda w: tiling.cost(height, width, w, halo))
        return window, tiling.plan(height, width, window, halo)

    def _fixed_windows(self) -> list[tuple[int, int]]:
        picked = self._picked.variant
        alike = [
            v for v in self.bundle.component().variants if (v.format, v.precision) == (picked.format, picked.precision)
        ]
        return [(v.sizes["height"], v.sizes["width"]) for v in alike if v.sizes]

    def _session_of(self, window: tuple[int, int] | None) -> Session:
        return self._session({"height": window[0], "width": window[1]} if window else None)


def _enlarge_alpha(alpha: UInt8, height: int, width: int) -> UInt8:
    cv2 = images.opencv()
    enlarged: UInt8 = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC)
    return enlarged
