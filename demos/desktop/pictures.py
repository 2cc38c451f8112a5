"""Pictures: what is shown of an image of any size, from copies that each halve the last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgekit.images import UInt8, opencv

SMALL = 1024  # pixels of the longer side that are not halved again


class Part(NamedTuple):
    """A rectangle in parts of a whole: 0…1 from the left and the top."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Picture:
    """An image and smaller copies of it, so that a small view of a large one is neither slow nor ragged.

    `levels`: uint8 height × width × (3 or 4), the image itself first; together a third more memory than it alone.
    """

    levels: tuple[UInt8, ...]

    @classmethod
    def of(cls, image: UInt8) -> Picture:
        """Halve the image until it is small; takes some milliseconds for every megapixel."""
        levels = [image]
        while max(levels[-1].shape[:2]) > SMALL:
            height, width = (max(1, side // 2) for side in levels[-1].shape[:2])
            levels.append(opencv().resize(levels[-1], (width, height), interpolation=opencv().INTER_AREA))
        return cls(tuple(levels))

    @property
    def image(self) -> UInt8:
        return self.levels[0]

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])

    @property
    def size(self) -> str:
        """As people write it: "512 × 512"."""
        return f"{self.width} × {self.height}"

    @property
    def alpha(self) -> bool:
        return bool(self.image.shape[2] == 4)

    def cut(self, part: Part, pixels: float) -> tuple[UInt8, Part]:
        """What to draw of a part that will be `pixels` wide on the screen, and the part that it really is.

        It comes from the smallest copy that is as fine as the screen, and reaches to whole pixels of that.
        """
        wanted = pixels / max(part.right - part.left, 1e-9)
        level = next((one for one in reversed(self.levels) if one.shape[1] >= wanted), self.image)
        height, width = level.shape[:2]
        left, top = max(0, int(part.left * width) - 1), max(0, int(part.top * height) - 1)
        right, bottom = min(width, int(part.right * width) + 2), min(height, int(part.bottom * height) + 2)
        really = Part(left / width, top / height, right / width, bottom / height)
        return np.ascontiguousarray(level[top:bottom, left:right]), really
