"""Tiles: windows of equal size over an image, and the part of each that no border can have touched."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from edgekit.errors import InputError


@dataclass(frozen=True)
class Span:
    """One tile along one axis: the window [start, stop) that is computed, and [keep, end) that is kept."""

    start: int
    stop: int
    keep: int
    end: int


@dataclass(frozen=True)
class Tile:
    """A window of rows and columns in input pixels."""

    rows: Span
    columns: Span


def spans(length: int, window: int, halo: int, step: int = 1) -> list[Span]:
    """Cover `length` by windows that overlap by at least 2 · halo; the kept parts touch and do not overlap.

    A kept part lies `halo` or more from its window's ends, but for the ends of the axis itself: computed
    from a network whose outputs depend on no more than `halo` neighbours, it equals the untiled result.
    Windows start at multiples of `step`, of which `length` and `window` are multiples too: a network that
    works on cells of that size sees the same cells in every tile.
    """
    if window >= length:
        return [Span(0, length, 0, length)]
    overlap = 2 * halo + (step if step > 1 else 0)  # rounding may push two starts apart by one step
    if window <= overlap:
        raise InputError(f"got tiles of {window} pixels: with a halo of {halo} they need more than {overlap}")
    count = math.ceil((length - overlap) / (window - overlap))
    starts = [step * round(i * (length - window) / (count - 1) / step) for i in range(count)]
    cuts = [0, *((a + window + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [Span(s, s + window, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]


def plan(height: int, width: int, window: tuple[int, int], halo: int, step: int = 1) -> list[Tile]:
    """Tiles of at most `window` (height, width) over an image, row by row."""
    columns = spans(width, window[1], halo, step)
    return [Tile(row, column) for row in spans(height, window[0], halo, step) for column in columns]


def cost(height: int, width: int, window: tuple[int, int], halo: int, step: int = 1) -> float:
    """Pixels that tiles of exactly `window` compute for an image; infinite where they are too small."""
    least = 2 * halo + (step if step > 1 else 0)
    if (window[0] <= least and height > window[0]) or (window[1] <= least and width > window[1]):
        return math.inf
    return len(plan(height, width, window, halo, step)) * window[0] * window[1]
