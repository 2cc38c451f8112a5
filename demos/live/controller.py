"""Controller: holds the frame rate by the working size and by skipping frames, and says what it did."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

LADDER = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375)  # of the sides of the picture that the model is given
MOST_SKIPPED = 4  # at the smallest size, every fourth frame is still worth showing
WINDOW = 10  # frames since the last change that a decision rests on
SETTLING = 2  # frames after a change that are not counted: an engine prepares itself for a new size
ROOM = 0.8  # a larger size must be expected to take at most this share of the time there is
HOLD_S, LONGEST_HOLD_S = 3.0, 60.0  # how long that must have held; doubled each time that it proves wrong


@dataclass(frozen=True)
class Action:
    """What was done, and when, in seconds since the start."""

    at_s: float
    what: str


class Controller:
    """Told what each frame cost, it sets `scale`, of the working size, and `every`, of which frame one is shown.

    Too slow: the size that should fit is taken at once; below the smallest, frames are skipped evenly. Fast enough
    for the next step back: it is taken after a while, and later the next time if it was wrong, so that the size does
    not swing to and fro.
    """

    def __init__(self, target_fps: float) -> None:
        """`target_fps`: 0 leaves everything as it is."""
        self.target_fps = target_fps
        self._step, self.every = 0, 1
        self._costs: deque[float] = deque(maxlen=WINDOW)
        self._settling = SETTLING
        self._hold, self._roomy_since = HOLD_S, 0.0
        self._raised_at: float | None = None
        self.actions: list[Action] = []

    @property
    def scale(self) -> float:
        return LADDER[self._step]

    @property
    def budget_s(self) -> float:
        """What a frame may cost."""
        return self.every / self.target_fps

    def stride(self, source_fps: float) -> int:
        """Every which frame of the source is shown: what it has beyond the target is skipped evenly as well."""
        if not self.target_fps:
            return 1
        return self.every * max(1, int(source_fps / self.target_fps + 0.05))

    def observe(self, cost_s: float, at_s: float) -> None:
        """Take note of what a frame cost the effect's thread, `at_s` seconds after the start, and decide."""
        if not self.target_fps:
            return
        if self._settling:
            self._settling -= 1
            return
        self._costs.append(cost_s)
        if len(self._costs) < WINDOW:
            return
        cost = statistics.median(self._costs)
        if cost > self.budget_s:
            self._relieve(cost, at_s)
        elif cost * self._growth() <= ROOM * self.budget_s * self._shrink():
            self._consider(at_s)
        else:
            self._roomy_since = at_s
            if self._raised_at is not None and at_s - self._raised_at > 2 * self._hold:
                self._hold, self._raised_at = HOLD_S, None  # the last step back held

    def reset(self) -> None:
        """Another effect follows: what the one before cost tells nothing. The sizes stay until it is known."""
        self._costs.clear()
        self._settling = SETTLING
        self._hold, self._raised_at = HOLD_S, None

    def summary(self, size: tuple[int, int]) -> str:
        """For the screen: the working size, and which frames are skipped."""
        height, width = size
        skipping = f", every {_ordinal(self.every)} frame" if self.every > 1 else ""
        return f"{width} × {height}{skipping}"

    def _relieve(self, cost: float, at_s: float) -> None:
        if self._raised_at is not None:
            self._hold, self._raised_at = min(self._hold * 2, LONGEST_HOLD_S), None
        fits = [
            step
            for step in range(self._step + 1, len(LADDER))
            if cost * (LADDER[step] / self.scale) ** 2 <= self.budget_s * 0.95
        ]
        if fits or self._step < len(LADDER) - 1:
            self._step = fits[0] if fits else len(LADDER) - 1
        elif self.every < MOST_SKIPPED:
            self.every += 1
        else:
            self._costs.clear()
            return
        self._changed(f"too slow ({cost * 1e3:.0f} ms a frame)", at_s)

    def _consider(self, at_s: float) -> None:
        if (self._step == 0 and self.every == 1) or at_s - self._roomy_since < self._hold:
            return
        if self.every > 1:
            self.every -= 1
        else:
            self._step -= 1
        self._raised_at = at_s
        self._changed("there is room", at_s)

    def _growth(self) -> float:
        """How much longer the next step back should take."""
        return (LADDER[max(0, self._step - 1)] / self.scale) ** 2 if self.every == 1 else 1.0

    def _shrink(self) -> float:
        """How much shorter the time for a frame becomes with it."""
        return (self.every - 1) / self.every if self.every > 1 else 1.0

    def _changed(self, why: str, at_s: float) -> None:
        self._costs.clear()
        self._settling, self._roomy_since = SETTLING, at_s
        every = f", every {_ordinal(self.every)} frame" if self.every > 1 else ""
        self.actions.append(Action(round(at_s, 2), f"{why}: {self.scale:.0%} of the sides{every}"))


def _ordinal(number: int) -> str:
    return {1: "", 2: "2nd", 3: "3rd"}.get(number, f"{number}th")
