"""Upscaler: any image, any size, enlarged by a super-resolution network, tile by tile where it is large."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from edgekit import choice, images, tiling
from edgekit.bundle import Bundle
from edgekit.errors import ManifestError
from edgekit.images import UInt8
from edgekit.session import Placement, Session, open_session
from edgekit.tiling import Tile

MAX_TILE = 512  # input pixels a side where shapes are free: some 100 MB of activations at 32 channels


class UpscaleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`scale`: enlargement; `halo`: input pixels around an output pixel that the network looks at."""

    scale: int
    halo: int


class Upscaler:
    """Call it with an image: uint8 height × width × (RGB, RGBA or grey) → uint8, `scale` times as large.

    Large images are cut into tiles whose results equal the untiled one, as every kept pixel sees its
    whole neighbourhood; memory stays bounded by the result and one tile. Alpha is enlarged bicubically.
    Thread-safe.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: str = "auto",
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
        max_tile: int = MAX_TILE,
    ) -> None:
        assert bundle.manifest.task is not None
        try:
            self.settings = msgspec.convert(bundle.manifest.task.settings, UpscaleSettings)
        except msgspec.ValidationError as error:
            raise ManifestError(f"{bundle.name}: the settings of task 'upscale' are wrong: {error}") from error
        self.bundle = bundle
        self.scale = self.settings.scale
        picked = choice.pick(bundle, "model", runtime, device, precision, {}, threads)
        self._picked, self._device = picked, device
        self._max_tile = max_tile
        self._windows = self._fixed_windows(picked.variant.format)
        self._sessions: dict[tuple[int, int] | None, Session] = {}
        self._buffers = threading.local()
        self._lock = threading.Lock()
        self._session(next(iter(self._windows), None))  # errors come here, not with the first image

    def __call__(self, image: UInt8, *, progress: Callable[[], None] = lambda: None) -> UInt8:
        """Enlarge one image; `progress` is called after every tile.

        Raises:
            ImageError: not an image array; see `images.as_uint8` for what is taken.
        """
        image = images.as_uint8(image)
        parts = self._tiles(image[:, :, :3])
        first_tile, first = next(parts)
        progress()
        height, width = image.shape[0] * self.scale, image.shape[1] * self.scale
        if image.shape[2] == 3 and first.shape[:2] == (height, width):
            return first
        result = np.empty((height, width, image.shape[2]), np.uint8)
        self._place(result, first_tile, first)
        for tile, part in parts:
            self._place(result, tile, part)
            progress()
        if image.shape[2] == 4:
            result[:, :, 3] = _enlarge_alpha(image[:, :, 3], height, width)
        return result

    def tiles(self, image: UInt8) -> Iterator[tuple[int, int, UInt8]]:
        """The result piece by piece: (top, left, uint8 RGB), in output pixels, row by row."""
        for tile, part in self._tiles(images.as_uint8(image)[:, :, :3]):
            yield tile.rows.keep * self.scale, tile.columns.keep * self.scale, part

    def tile_count(self, image: UInt8) -> int:
        """How many pieces `tiles` will give, for progress bars."""
        return len(self._plan(*image.shape[:2])[1])

    def info(self) -> dict[str, Any]:
        """Name, scale, what runs where and why."""
        return {
            "name": self.bundle.name,
            "task": "upscale",
            "scale": self.scale,
            "why": self._picked.why,
            "tile_sizes": [list(w) for w in self._windows] or f"any up to {self._max_tile}",
            "placement": msgspec.to_builtins(self.placement()),
        }

    def placement(self) -> Placement:
        """Where the model runs, read from the engine."""
        with self._lock:
            session = next(iter(self._sessions.values()))
        return session.placement()

    def close(self) -> None:
        """Free the engine's memory."""
        with self._lock:
            for session in self._sessions.values():
                session.close()

    def session_for(self, height: int, width: int) -> Session:
        """The session that computes images (or tiles) of this size."""
        return self._session(self._plan(height, width)[0])

    def _tiles(self, image: UInt8) -> Iterator[tuple[Tile, UInt8]]:
        window, tiles = self._plan(*image.shape[:2])
        session = self._session(window)
        for tile in tiles:
            part = image[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
            yield tile, self._crop(tile, self._run(session, part, window))

    def _run(self, session: Session, part: UInt8, window: tuple[int, int] | None) -> UInt8:
        height, width = part.shape[:2]
        if window is not None and (height, width) != window:
            part = np.pad(part, ((0, window[0] - height), (0, window[1] - width), (0, 0)), mode="edge")
        source, target = session.inputs[0], session.outputs[0]
        tensor = images.to_tensor(part, source, self._buffer(source.layout, part.shape, source.dtype))
        output = session.run({source.name: tensor})[target.name]
        return images.from_tensor(output, target)

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

    def _place(self, result: UInt8, tile: Tile, part: UInt8) -> None:
        top, left = tile.rows.keep * self.scale, tile.columns.keep * self.scale
        result[top : top + part.shape[0], left : left + part.shape[1], :3] = part

    def _plan(self, height: int, width: int) -> tuple[tuple[int, int] | None, list[Tile]]:
        """The file's window (None where shapes are free) and the tiles over an image."""
        halo = self.settings.halo
        if not self._windows:
            if height * width <= self._max_tile**2:
                return None, tiling.plan(height, width, (height, width), halo)
            return None, tiling.plan(height, width, (self._max_tile, self._max_tile), halo)
        window = min(self._windows, key=lambda w: tiling.cost(height, width, w, halo))
        return window, tiling.plan(height, width, window, halo)

    def _fixed_windows(self, format: str) -> list[tuple[int, int]]:
        variants = self.bundle.component().variants
        precision = self._picked.variant.precision
        sizes = [v.sizes for v in variants if v.format == format and v.precision == precision and v.sizes]
        return [(s["height"], s["width"]) for s in sizes]

    def _session(self, window: tuple[int, int] | None) -> Session:
        with self._lock:
            if window not in self._sessions:
                sizes = {"height": window[0], "width": window[1]} if window else None
                session = open_session(
                    self.bundle,
                    self._picked.runtime,
                    device=self._device,
                    precision=self._picked.variant.precision,
                    threads=self._picked.threads,
                    sizes=sizes,
                )
                session.why = self._picked.why
                self._sessions[window] = session
            return self._sessions[window]


def _enlarge_alpha(alpha: UInt8, height: int, width: int) -> UInt8:
    cv2 = images.opencv()
    enlarged: UInt8 = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_CUBIC)
    return enlarged
