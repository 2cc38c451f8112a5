"""Stylizer: photos, frames and video files in the manner of a painting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import ImageError, InputError
from edgekit.images import UInt8
from edgekit.tasks.tiled import TiledTask
from edgekit.video import VideoReader, VideoWriter

WHOLE = (
    1536  # a square of so many pixels a side is stylised in one piece, so a frame of 1,920 × 1,080 too; tiles overlap
)


class StylizeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`halo`: pixels around an output pixel that the network looks at, None where that is the whole image;
    `step`: what the sizes that it takes are multiples of; `border`: pixels of reflection put around
    an image, so that the network's zeros beyond it lie outside; `contrast`: see `evened`; `style`: the painting
    and its painter.
    """

    halo: Annotated[int, Meta(ge=0, le=1024)] | None
    step: Annotated[int, Meta(ge=1, le=1024)] = 4
    border: Annotated[int, Meta(ge=0, le=256)] = 0
    contrast: Annotated[float, Meta(ge=1, le=256)] = 1.0
    style: str = ""


class Stylizer(TiledTask):
    """Call it with an image: uint8 height × width × (RGB, RGBA or grey) → uint8 of the same size.

    The network has no norms: what it paints depends on a pixel's neighbourhood alone, so that large images
    can be cut into tiles. Of a whole image only one tone curve is taken, before it is cut (`evened`), which
    gives the network something to paint from in a clear sky, and moves slowly in a video. Alpha is kept; grey
    gives RGB. Thread-safe.
    """

    name = "stylize"
    largest_tile = WHOLE
    Settings = StylizeSettings

    def __init__(self, bundle: Bundle, runtime: str = "auto", *, max_tile: int | None = None, **request: Any) -> None:
        """As `edgekit.load`; `max_tile`: pixels a side of a tile, where shapes are free; left out, what was tuned."""
        super().__init__(bundle, runtime, max_tile=max_tile, **request)
        self.border = self.settings.border

    def __call__(self, image: UInt8, strength: float = 1.0, *, progress: Callable[[], None] = lambda: None) -> UInt8:
        """Stylise one image; `progress` is called after every tile.

        Args:
            strength: 0 gives the photo, 1 the painting, what lies between a blend of both.

        Raises:
            ImageError: not an image array. InputError: a strength beyond 0…1. EngineError: the model gives NaN.
        """
        require_strength(strength)
        image = images.as_uint8(image)
        if strength == 0.0:
            progress()
            return image.copy()
        result = self._whole(image, progress)
        if strength < 1.0:
            cv2 = images.opencv()
            blended: UInt8 = cv2.addWeighted(result, strength, image, 1.0 - strength, 0.0)
            result = blended
        if image.shape[2] == 4:
            result[:, :, 3] = image[:, :, 3]
        return result

    def frames(self, frames: Iterable[UInt8], strength: float = 1.0) -> Iterator[UInt8]:
        """Each frame stylised, as it comes.

        Raises:
            As a call.
        """
        require_strength(strength)
        return (self(frame, strength) for frame in frames)

    def video(
        self,
        source: str | Path,
        out: str | Path,
        strength: float = 1.0,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Stylise a video file frame by frame, at its own rate and size, without its sound.

        What ends the work early, an error or Ctrl-C, leaves a file with the frames done so far.

        Args:
            out: a .mp4, .webm or .avi to write.
            progress: told the frames done and those the file says it has (0: unknown), after each.

        Returns:
            How many frames were written.

        Raises:
            ImageError: no video at `source`, a damaged one, or `out` cannot be written. InputError, EngineError.
        """
        require_strength(strength)
        if Path(out).exists() and Path(source).exists() and Path(out).samefile(source):
            raise ImageError(f"got '{out}' to read and to write: name another file to write")
        with VideoReader(source) as reader, VideoWriter(out, reader.facts.fps) as writer:
            for frame in self.frames(reader, strength):
                writer.write(frame)
                progress(writer.frames, reader.facts.frames)
        return writer.frames

    def _filled(self, image: UInt8) -> UInt8:
        return super()._filled(evened(image, self.settings.contrast))


def evened(image: UInt8, contrast: float) -> UInt8:
    """The RGB image with its tones spread more evenly; `contrast` is the most that any of them is stretched by.

    One curve for the three channels, from the histogram of the luma, clipped at `contrast` times its mean with the
    excess shared out evenly: 1 changes nothing (Pizer et al. 1987, "Adaptive Histogram Equalization and Its
    Variations", here of the whole image).
    """
    if contrast <= 1.0:
        return image
    cv2 = images.opencv()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() * (256 / grey.size)
    clipped = np.minimum(counts, contrast)
    clipped += (256.0 - clipped.sum()) / 256
    curve = (np.cumsum(clipped) - 0.5 * clipped).clip(0, 255).astype(np.uint8)
    result: UInt8 = cv2.LUT(image, curve)
    return result


def require_strength(strength: float) -> None:
    """Refuse what is not a number from 0 to 1.

    Raises:
        InputError.
    """
    if not (isinstance(strength, (int, float)) and 0.0 <= strength <= 1.0):
        raise InputError(f"got strength={strength!r}: expected a number from 0 (the photo) to 1 (the painting)")
