"""Tiles: they cover an image exactly once, and every kept pixel sees its whole halo."""

from __future__ import annotations

import itertools
import math

import pytest

from edgekit.errors import InputError
from edgekit.tiling import cost, plan, spans

CASES = [
    (length, window, halo)
    for halo in (0, 1, 2, 6, 13)
    for window in (1, 2, 3, 5, 8, 13, 14, 27, 28, 64, 255)
    for length in (*range(1, 70), 100, 254, 255, 256, 257, 511, 513, 1000)
    if window > 2 * halo or window >= length
]


def test_kept_parts_cover_the_axis_exactly_once() -> None:
    for case in CASES:
        found = spans(*case)
        assert (found[0].keep, found[-1].end) == (0, case[0]), case
        assert all(a.end == b.keep for a, b in itertools.pairwise(found)), case
        assert all(s.keep < s.end for s in found), case


def test_windows_lie_inside_the_axis_and_are_of_equal_size() -> None:
    for length, window, halo in CASES:
        found = spans(length, window, halo)
        assert {s.stop - s.start for s in found} == {min(window, length)}, (length, window, halo)
        assert found[0].start == 0, (length, window, halo)
        assert found[-1].stop == length, (length, window, halo)


def test_kept_parts_keep_the_halo_except_at_the_ends_of_the_axis() -> None:
    for length, window, halo in CASES:
        for s in spans(length, window, halo):
            assert s.start == 0 or s.keep - s.start >= halo, (length, window, halo, s)
            assert s.stop == length or s.stop - s.end >= halo, (length, window, halo, s)


def test_no_more_windows_than_needed() -> None:
    for length, window, halo in CASES:
        if window < length:
            assert len(spans(length, window, halo)) == math.ceil((length - 2 * halo) / (window - 2 * halo))


@pytest.mark.parametrize(("window", "halo"), [(12, 6), (11, 6), (1, 6), (0, 0), (-3, 0)])
def test_windows_that_are_all_halo_are_refused(window: int, halo: int) -> None:
    with pytest.raises(InputError, match=f"tiles of {window} pixels.*halo of {halo}.*more than {2 * halo}"):
        spans(100, window, halo)


def test_a_window_as_long_as_the_axis_needs_no_halo() -> None:
    (only,) = spans(10, 10, 6)
    assert (only.start, only.stop, only.keep, only.end) == (0, 10, 0, 10)


def test_plan_goes_row_by_row_and_covers_the_image_once() -> None:
    tiles = plan(100, 70, (40, 30), 3)
    assert [(t.rows.keep, t.columns.keep) for t in tiles] == sorted((t.rows.keep, t.columns.keep) for t in tiles)
    assert sum((t.rows.end - t.rows.keep) * (t.columns.end - t.columns.keep) for t in tiles) == 100 * 70


def test_cost_counts_the_pixels_computed() -> None:
    assert cost(100, 70, (40, 30), 3) == len(plan(100, 70, (40, 30), 3)) * 40 * 30
    assert cost(10, 10, (64, 32), 6) == 64 * 32
    assert cost(64, 32, (64, 32), 6) == 64 * 32


@pytest.mark.parametrize("window", [(12, 64), (64, 12)])
def test_cost_of_windows_that_are_all_halo_is_infinite(window: tuple[int, int]) -> None:
    assert cost(100, 100, window, 6) == math.inf
    assert cost(12, 12, window, 6) == 12 * 64
