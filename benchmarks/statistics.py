"""What samples say, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

FLOOR = 0.02  # by so much do two runs of one file differ on an idle machine


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
