"""Intervals hold the truth, MLPerf's rule gives LoadGen's numbers, slopes and verdicts are those of made-up data."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.benchmarks.statistics import early_stopping, noise_of, percentiles, ratio, slope


def drawn(rng: np.random.Generator, rounds: int = 10, drift: float = 0.03) -> list[list[float]]:
    """Rounds that each drift, log-normal within: a median of 10 over all rounds."""
    return [(10 * (1 + drift * rng.standard_normal()) * np.exp(0.05 * rng.standard_normal(60))).tolist()
            for _ in range(rounds)]  # fmt: skip


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    found = [percentiles(drawn(rng), (50,))[0] for _ in range(60)]
    held = sum(e.low <= 10.0 <= e.high for e in found)
    assert held >= 51 and all(e.low <= e.value <= e.high for e in found)
    # taken as independent, samples would give an interval a third as wide, which holds it half the time
    assert np.median([e.spread for e in found]) > 0.01


def test_percentiles_are_those_of_all_samples() -> None:
    rounds = [[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]
    assert [e.value for e in percentiles(rounds, (0, 50, 100))] == [1.0, 3.5, 6.0]
    assert percentiles([[7.0]], (50,))[0] == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(("n", "q", "aside"), [(64, 90, 1), (662, 99, 1), (2048, 90, 173)])
def test_early_stopping_is_load_gens(n: int, q: float, aside: int) -> None:
    """64 and 662 are its least counts; of 2048 it says "would discard 172 highest latency queries"."""
    assert early_stopping(range(n), q) == n - aside
    if aside == 1:
        assert early_stopping(range(n - 1), q) is None


def test_ratios_of_two_runs() -> None:
    rng = np.random.default_rng(5)
    one, other = drawn(rng), drawn(rng)
    same, half = ratio(one, other), ratio([[s / 2 for s in r] for r in one], other)
    assert same.low < 1 < same.high and half.high < 0.6 and half.value == pytest.approx(same.value / 2)


def test_slopes_do_not_mind_a_single_leap() -> None:
    rng = np.random.default_rng(1)
    points = [(float(t), 100 + 0.5 * t + 0.1 * rng.standard_normal() + 50 * (t == 7)) for t in range(60)]
    found = slope(points)
    assert found is not None and found.low < 0.5 < found.high and found.value == pytest.approx(0.5, abs=0.02)
    assert slope(points[:4]) is None and slope([(1.0, 2.0)] * 9) is None
    flat = slope([(float(t), 80.0) for t in range(60)])
    assert flat == (0.0, 0.0, 0.0)


def test_noise_has_a_floor() -> None:
    assert noise_of([], []) == noise_of([1.0] * 5, [2.0] * 5) == 0.02
