"""TiledTask: what tasks share that turn an image into another, tile by tile where it is large."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from edgekit import images, tiling
from edgekit.bundle import Bundle
from edgekit.errors import ImageError, ManifestError
from edgekit.images import UInt8
from edgekit.profile import pixels
from edgekit.session import Session
from edgekit.tasks.task import Task
from edgekit.tensors import Array
from edgekit.tiling import Tile

MAX_TILE = 512  # input pixels a side where shapes are free: some 100 MB of activations at 32 channels
OTHER = 2.0  # times the pixels: what was measured with so many says little
MAX_WINDOW = 2**24  # pixels of a file of fixed sizes


class TiledTask(Task):
    """An image in, an image `scale` times as large out; its settings state `halo` and `step`. Thread-safe.

    Large images are cut into tiles whose results equal the untiled one, as every kept pixel sees its
    whole neighbourhood; memory stays bounded by the result and one tile. An image smaller than the
    bundle's smallest file of fixed sizes is first filled up to it by repeating its edge, on every engine,
    so that all give the same. The network takes sizes that are multiples of `step`; `border` pixels of the
    image's reflection are put around it, and cut off again.

    A halo of None says that the network looks at the whole image, as norms over it do: it is never cut, and
    only filled up where a file has fixed sizes; where it is larger than these, it is refused.
    """

    largest_tile: ClassVar[int] = MAX_TILE
    scale: int = 1
    border: int = 0
    step: int = 1

    def __init__(self, bundle: Bundle, runtime: str = "auto", *, max_tile: int | None = None, **request: Any) -> None:
        """As `edgekit.load`; `max_tile`: input pixels a side of a tile, where shapes are free; left out, what was tuned."""
        super().__init__(bundle, runtime, **request)
        self.step = self.settings.step
        self._max_tile = -(-(max_tile or self._picked.tile or self.largest_tile) // self.step) * self.step
        fixed = [v.sizes for v in bundle.component().variants if v.sizes]
        wrong = [s for s in fixed if set(s) != {"height", "width"} or s["height"] * s["width"] > MAX_WINDOW]
        if wrong:
            raise ManifestError(
                f"{bundle.name} has files of the sizes {wrong[0]}: expected height and width, {MAX_WINDOW} pixels at most"
            )
        self._windows = self._fixed_windows()
        whole = self.settings.halo is None
        self._least = tuple(
            1 if whole else min((sizes[side] for sizes in fixed), default=1) for side in ("height", "width")
        )
        self._buffers = threading.local()
        self._seen: tuple[int, int] | None = None  # height and width of the last image
        self._session_of(next(iter(self._windows), None))  # errors come here, not with the first image

    def tiles(self, image: UInt8) -> Iterator[tuple[int, int, UInt8]]:
        """The result piece by piece: (top, left, uint8 RGB), in output pixels, row by row."""
        return self._pieces(images.as_uint8(image)[:, :, :3])

    def tile_count(self, image: UInt8) -> int:
        """How many pieces `tiles` will give, for progress bars."""
        return len(self._plan(*self._filled_size(*image.shape[:2]))[1])

    def info(self) -> dict[str, Any]:
        """Name, settings, sizes of tiles, and what runs where and why."""
        return {**super().info(), "tile_sizes": [list(w) for w in self._windows] or f"any up to {self._max_tile}"}

    def _why(self, told: str) -> str:
        """As the session tells; whether images are of quite another size than that which was measured."""
        size, seen = self._picked.size, self._seen
        if size is None or seen is None or 1 / OTHER < pixels(seen) / pixels(size) < OTHER:
            return told
        shape = f"{seen[1]}x{seen[0]}"
        return f"{told}; the last image was {shape}: `edgekit tune {self.bundle.name} --size {shape}` measures that"

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The session, and the image, or its first tile, as it gets it."""
        image = self._filled(image)
        window, tiles = self._plan(*image.shape[:2])
        session, rows, columns = self._session_of(window), tiles[0].rows, tiles[0].columns
        part = image[rows.start : rows.stop, columns.start : columns.stop]
        return session, {session.inputs[0].name: self._tensor(session, part).copy()}

    def _whole(self, image: UInt8, progress: Callable[[], None]) -> UInt8:
        """The result of an image with 3 or 4 channels, of as many: the fourth is left for the caller to fill."""
        height, width = image.shape[0] * self.scale, image.shape[1] * self.scale
        pieces = self._pieces(image[:, :, :3])
        top, left, piece = next(pieces)
        progress()
        if image.shape[2] == 3 and piece.shape[:2] == (height, width):
            return np.ascontiguousarray(piece)
        result = np.empty((height, width, image.shape[2]), np.uint8)
        result[: piece.shape[0], : piece.shape[1], :3] = piece
        for top, left, piece in pieces:
            result[top : top + piece.shape[0], left : left + piece.shape[1], :3] = piece
            progress()
        return result

    def _pieces(self, image: UInt8) -> Iterator[tuple[int, int, UInt8]]:
        """What `tiles` gives, of an RGB image; what lies beyond the image's own ends is cut off."""
        self._seen = image.shape[0], image.shape[1]
        height, width = image.shape[0] * self.scale, image.shape[1] * self.scale
        image = self._filled(image)
        window, tiles = self._plan(*image.shape[:2])
        session = self._session_of(window)
        for tile in tiles:
            part = image[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            top, left = ((span.keep - self.border) * self.scale for span in (tile.rows, tile.columns))
            piece = self._crop(tile, self._run(session, part))[
                max(0, -top) : height - top, max(0, -left) : width - left
            ]
            if piece.size:
                yield max(0, top), max(0, left), piece

    def _run(self, session: Session, part: UInt8) -> UInt8:
        target = session.outputs[0]
        tensor = self._tensor(session, part)
        with session.borrow({session.inputs[0].name: tensor}) as outputs:
            array = outputs[target.name]
            self._require_finite(array, target.name)
            result = images.from_tensor(array, target)
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
        """The image with its border, and its edge repeated at the right and the bottom up to `_filled_size`."""
        height, width = self._filled_size(*image.shape[:2])
        if self.border:
            cv2, around = images.opencv(), [self.border] * 4
            image = cv2.copyMakeBorder(image, *around, cv2.BORDER_REFLECT_101)
        missing = height - image.shape[0], width - image.shape[1]
        return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge") if any(missing) else image

    def _filled_size(self, height: int, width: int) -> tuple[int, int]:
        """With the border, multiples of `step`, at least any engine's smallest files and one window of this engine's."""
        height, width = (
            -(-max(side + 2 * self.border, least) // self.step) * self.step
            for side, least in zip((height, width), self._least, strict=True)
        )
        if self._windows and self.settings.halo is None:
            return self._holding(height, width)
        if not self._windows or any(w[0] <= height and w[1] <= width for w in self._windows):
            return height, width
        return min(((max(height, w[0]), max(width, w[1])) for w in self._windows), key=lambda size: size[0] * size[1])

    def _holding(self, height: int, width: int) -> tuple[int, int]:
        """The smallest file of fixed sizes that takes an image whole.

        Raises:
            ImageError: none does.
        """
        holding = [w for w in self._windows if w[0] >= height and w[1] >= width]
        if not holding:
            have = ", ".join(f"{w[1]} × {w[0]}" for w in self._windows)
            raise ImageError(
                f"got an image of {width} × {height}: the {self._picked.variant.format} files of {self.bundle.name} take "
                f"at most {have}, and its network looks at the whole image, so that it cannot be cut into tiles: "
                "shrink it, or use runtime='onnxruntime' or 'openvino', which take any size"
            )
        return min(holding, key=lambda window: window[0] * window[1])

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int] | None, list[Tile]]:
        """The file's window (None where shapes are free) and the tiles over an image."""
        halo = self.settings.halo
        if halo is None:
            return (height, width) if self._windows else None, tiling.plan(height, width, (height, width), 0)
        if not self._windows:
            if height * width <= self._max_tile**2:
                return None, tiling.plan(height, width, (height, width), halo, self.step)
            return None, tiling.plan(height, width, (self._max_tile, self._max_tile), halo, self.step)
        inside = [w for w in self._windows if w[0] <= height and w[1] <= width]
        window = min(inside, key=lambda w: tiling.cost(height, width, w, halo, self.step))
        return window, tiling.plan(height, width, window, halo, self.step)

    def _fixed_windows(self) -> list[tuple[int, int]]:
        picked = self._picked.variant
        alike = [
            v for v in self.bundle.component().variants if (v.format, v.precision) == (picked.format, picked.precision)
        ]
        windows = [(v.sizes["height"], v.sizes["width"]) for v in alike if v.sizes]
        return [w for w in windows if max(w) <= (self._picked.tile or MAX_WINDOW)] or windows

    def _session_of(self, window: tuple[int, int] | None) -> Session:
        return self._session({"height": window[0], "width": window[1]} if window else None)
