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


def spans(length: int, window: int, halo: int) -> list[Span]:
    """Cover `length` by windows that overlap by at least 2 · halo; the kept parts touch and do not overlap.

    A kept part lies `halo` or more from its window's ends, but for the ends of the axis itself: computed
    from a network whose outputs depend on no more than `halo` neighbours, it equals the untiled result.
    """
    if window >= length:
        return [Span(0, length, 0, length)]
    if window <= 2 * halo:
        raise InputError(f"got tiles of {window} pixels: with a halo of {halo} they need more than {2 * halo}")
    count = math.ceil((length - 2 * halo) / (window - 2 * halo))
    starts = [round(i * (length - window) / (count - 1)) for i in range(count)]
    cuts = [0, *((a + window + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [Span(s, s + window, cuts[i], cuts[i + 1]) for i, s in enumerate(starts)]


def plan(height: int, width: int, window: tuple[int, int], halo: int) -> list[Tile]:
    """Tiles of at most `window` (height, width) over an image, row by row."""
    columns = spans(width, window[1], halo)
    return [Tile(row, column) for row in spans(height, window[0], halo) for column in columns]


def cost(height: int, width: int, window: tuple[int, int], halo: int) -> float:
    """Pixels that tiles of exactly `window` compute for an image; infinite where they are too small."""
    if (window[0] <= 2 * halo and height > window[0]) or (window[1] <= 2 * halo and width > window[1]):
        return math.inf
    return len(plan(height, width, window, halo)) * window[0] * window[1]
