"""Smoothing: where the picture stands still, a stylised video does not shimmer; where it moves, nothing smears."""

from __future__ import annotations

import numpy as np

from edgekit.images import UInt8, opencv

SHRINK = 4  # motion is looked for at a quarter of the sides: the mean of 16 pixels has little of a camera's noise
STILL, MOVING = 3.0, 10.0  # levels of change below which a pixel stands still, and above which it moves
LEAST = 0.15  # share of the new picture where nothing moves: what changes slowly comes through in half a second
AROUND = np.ones((5, 5), np.uint8)  # motion counts in its neighbourhood too
SHARES = np.float32(LEAST + (1 - LEAST) * np.clip((np.arange(256) - STILL) / (MOVING - STILL), 0, 1))  # by change


class Smoother:
    """Blends each painted frame with the one before, the more so the less the source moved there.

    The source is compared with a copy of itself that is blended in the same way, so that a slow change, too small
    to be seen between two frames, adds up until it counts as motion. Where the camera noise of the source makes the
    network's strokes flicker, they stand; what moves is shown as it is painted.
    """

    def __init__(self) -> None:
        self._painted: UInt8 | None = None
        self._seen: UInt8 | None = None
        self._share: np.ndarray | None = None
        self._rest: np.ndarray | None = None

    def reset(self) -> None:
        """Forget the frames before: another effect follows."""
        self._painted = self._seen = None

    def __call__(self, source: UInt8, painted: UInt8) -> UInt8:
        """Both uint8 height × width × RGB of one size; returns `painted`, blended in place, not to be written to."""
        cv2 = opencv()
        height, width = painted.shape[:2]
        small_size = (max(1, width // SHRINK), max(1, height // SHRINK))
        small = cv2.resize(source, small_size, interpolation=cv2.INTER_AREA)
        if self._painted is None or self._seen is None or self._painted.shape != painted.shape:
            self._painted, self._seen = painted, small
            return painted
        fresh = self._fresh(small, self._seen)
        self._seen = cv2.blendLinear(small, self._seen, fresh, 1.0 - fresh)
        # into buffers that are there already: new ones of this size are paged in at every frame, which takes longer
        share = cv2.resize(fresh, (width, height), dst=self._share, interpolation=cv2.INTER_LINEAR)
        rest = cv2.subtract(1.0, share, dst=self._rest)
        self._share, self._rest = share, rest
        self._painted = cv2.blendLinear(painted, self._painted, share, rest, dst=painted)
        return self._painted

    @staticmethod
    def _fresh(small: UInt8, seen: UInt8) -> np.ndarray:
        """The share of the new frame, from LEAST to 1, float32 of the small size."""
        cv2 = opencv()
        red, green, blue = cv2.split(cv2.absdiff(small, seen))
        change = cv2.max(cv2.max(red, green), blue)
        change = cv2.blur(cv2.dilate(change, AROUND), (5, 5))
        return np.asarray(cv2.LUT(change, SHARES), np.float32)
