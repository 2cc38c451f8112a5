"""Figures: frame rate, age, and what the models and all around them took, as shown on screen and in the report."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.demos.live.frames import Shown
from edgekit.demos.live.slots import now

RECENT_S = 2.0  # what the screen tells
KEPT = 50_000  # frames of a report: half an hour at 25 a second; their room is taken at the start
WARM_UP = 5  # frames at the start that no report counts: engines prepare themselves
AT, AGE, MODEL, WORK = range(4)  # columns: when it was shown, in seconds, and milliseconds; MODEL is NaN where none ran

Samples = npt.NDArray[np.float64]


class Figures:
    """Told of each frame that is shown; its memory does not grow. Thread-safe."""

    def __init__(self) -> None:
        self._ring: Samples = np.full((KEPT, 4), np.nan)
        self._lock = threading.Lock()
        self.frames = 0

    def shown(self, frame: Shown, at: float | None = None) -> None:
        """A frame was shown, now or at the moment `at`."""
        at = now() if at is None else at
        model_ms = np.nan if frame.model_ms is None else frame.model_ms
        with self._lock:
            if self.frames >= WARM_UP:
                row = (at, (at - frame.source.captured) * 1e3, model_ms, frame.work_ms)
                self._ring[(self.frames - WARM_UP) % KEPT] = row
            self.frames += 1

    def forget(self) -> None:
        """Begin anew: something else is shown from now on."""
        with self._lock:
            self.frames = 0

    def recent(self) -> dict[str, Any]:
        """What the last seconds were like."""
        samples = self._samples()
        return summary(samples[samples[:, AT] >= now() - RECENT_S])

    def whole(self) -> dict[str, Any]:
        """What all of it was like, the first frames left out."""
        return summary(self._samples())

    def _samples(self) -> Samples:
        """The rows that are kept, in their order."""
        with self._lock:
            count = max(0, self.frames - WARM_UP)
            if count <= KEPT:
                return self._ring[:count].copy()
            return np.roll(self._ring, -(count % KEPT), axis=0)


def summary(samples: Samples) -> dict[str, Any]:
    """fps, age_ms (p50, p95), model_ms (median), model_p95_ms, and overhead_share, of rows of four columns.

    overhead_share: what the effect's thread did beside the models, over what the models took. None where there is
    nothing to say.
    """
    models = samples[~np.isnan(samples[:, MODEL])]
    spent = float(models[:, MODEL].sum())
    seconds = float(np.ptp(samples[:, AT])) if len(samples) > 1 else 0.0
    return {
        "fps": round((len(samples) - 1) / seconds, 2) if seconds else 0.0,
        "age_ms": {"p50": _percentile(samples[:, AGE], 50), "p95": _percentile(samples[:, AGE], 95)},
        "model_ms": _percentile(models[:, MODEL], 50),
        "model_p95_ms": _percentile(models[:, MODEL], 95),
        "overhead_share": round(float(models[:, WORK].sum()) / spent - 1, 4) if spent else None,
    }


def _percentile(values: Samples, share: float) -> float | None:
    """The smallest value that so many per cent of all are not above."""
    return round(float(np.percentile(values, share, method="inverted_cdf")), 2) if len(values) else None
