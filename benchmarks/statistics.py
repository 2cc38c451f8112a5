"""What samples say, and how sure it is: percentiles with intervals, ratios of two measurements, slopes of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FLOOR = 0.02  # by so much do two runs of one file differ on an idle machine
REPLICATES = 400
MOST = 4000  # samples that intervals are drawn from; of more, every n-th in order of time
LEVEL = 0.95
EARLY_CONFIDENCE = 0.99  # MLPerf's

Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of the interval's width, as a part of the value."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0


def noise_of(small: Sequence[float], fp32: Sequence[float]) -> float:
    """What the ratio of two medians is uncertain by, as a part of it: twice its standard error over the rounds.

    The spread is that of the rounds' own ratios, so that a drift which hits both alike does not count; by its median
    absolute deviation, so that a round which something else disturbed does not either.
    """
    ratios = np.array([s / f for s, f in zip(small, fp32, strict=False)])
    if not len(ratios):
        return FLOOR
    deviation = 1.4826 * float(np.median(np.abs(ratios / np.median(ratios) - 1)))
    return max(FLOOR, 2 * 1.2533 * deviation / math.sqrt(len(ratios)))


def percentiles(rounds: Sequence[Sequence[float]], qs: Sequence[float]) -> list[Estimate]:
    """Percentiles of all samples, with intervals that hold the drift between rounds as well as the spread within.

    Rounds are drawn with replacement, and samples within them: a two-level bootstrap (Kalibera and Jones 2013,
    "Rigorous Benchmarking in Reasonable Time"). Samples of neighbouring calls are alike, so that an interval which
    took them as independent would be too narrow. Of R rounds the interval is made √(R/(R−1)) as wide, as drawing from so
    few shows too little of their spread; of 5 it still holds the truth in 90 of 100 runs rather than 95.

    Args:
        rounds: the samples of each round; at least one sample in all.
        qs: 0…100.
    """
    pooled = np.concatenate([np.asarray(r, float) for r in rounds])
    drawn = _replicates(rounds, qs)
    return [
        _estimate(float(v), column, len(rounds)) for v, column in zip(np.percentile(pooled, qs), drawn.T, strict=True)
    ]


def ratio(new: Sequence[Sequence[float]], old: Sequence[Sequence[float]], q: float = 50) -> Estimate:
    """A percentile of `new` as a part of that of `old`, two measurements that share no rounds."""
    of_new, of_old = (_replicates(rounds, (q,), seed)[:, 0] for seed, rounds in enumerate((new, old)))
    value = float(np.percentile(np.concatenate(new), q) / np.percentile(np.concatenate(old), q))
    return _estimate(value, of_new / of_old, min(len(new), len(old)))


def early_stopping(samples: Sequence[float], q: float) -> float | None:
    """The latency below which, with 99 % confidence, `q` percent of all calls lie; None where the samples are too few.

    MLPerf's single-stream rule (LoadGen, early_stopping.cc): of n calls, as many of the slowest are set aside as
    would still be too few, at a probability below 1 %, if `q` percent were the part that is faster. 64 calls are
    the least for the 90th percentile, 662 for the 99th.
    """
    n, slower = len(samples), 1 - q / 100
    aside, below = -1, 0.0
    while aside < n:
        below += _binomial(n, aside + 1, slower)
        if below >= 1 - EARLY_CONFIDENCE:
            break
        aside += 1
    return float(np.sort(samples)[n - aside]) if aside >= 1 else None


def slope(points: Sequence[tuple[float, float]]) -> Estimate | None:
    """The slope of points over time by the median of all pairs (Theil 1950, Sen 1968); None of fewer than 5 points.

    The interval is Sen's, by the variance of Kendall's S; it takes the points as independent.
    """
    if len(points) < 5:
        return None
    kept = np.asarray(points, float)[:: max(1, len(points) // 300)]
    first, second = np.triu_indices(len(kept), 1)
    apart = kept[second] - kept[first]
    slopes = np.sort(apart[apart[:, 0] > 0, 1] / apart[apart[:, 0] > 0, 0])
    if not len(slopes):
        return None
    n = len(kept)
    reach = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = (round((len(slopes) + sign * reach) / 2) for sign in (-1, 1))
    ends = slopes[max(0, low)], slopes[min(len(slopes) - 1, high)]
    return Estimate(float(np.median(slopes)), float(ends[0]), float(ends[1]))


def _estimate(value: float, drawn: Floats, rounds: int) -> Estimate:
    """A value between the ends of what was drawn anew from so many rounds, as times are spread: by factors."""
    low, high = map(float, np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    if min(value, low) <= 0:
        return Estimate(value, min(value, low), max(value, high))
    wider = math.sqrt(rounds / (rounds - 1)) if rounds > 1 else 1.0
    return Estimate(value, min(value, value * (low / value) ** wider), max(value, value * (high / value) ** wider))


def _replicates(rounds: Sequence[Sequence[float]], qs: Sequence[float], seed: int = 0) -> Floats:
    """Percentiles of samples drawn anew, `REPLICATES` × `qs`: rounds by their number, samples by Poisson weights."""
    rng = np.random.default_rng(seed)
    samples = np.concatenate([np.asarray(r, float) for r in rounds])
    owner = np.repeat(np.arange(len(rounds)), [len(r) for r in rounds])
    step = -(-len(samples) // MOST)
    samples, owner = samples[::step], owner[::step]
    order = np.argsort(samples, kind="stable")
    samples, owner = samples[order], owner[order]
    counts = rng.multinomial(len(rounds), [1 / len(rounds)] * len(rounds), REPLICATES)
    weights = counts[:, owner] * rng.poisson(1.0, (REPLICATES, len(samples)))
    reached = np.cumsum(weights, axis=1, dtype=float)
    reached[reached[:, -1] == 0] = np.arange(1, len(samples) + 1)  # nothing was drawn: all of them stand in
    places = [np.argmax(reached >= q / 100 * reached[:, -1:], axis=1) for q in qs]
    drawn: Floats = samples[np.stack(places, axis=1)]
    return drawn


def _binomial(n: int, k: int, p: float) -> float:
    """The probability of k of n."""
    if k > n:
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
