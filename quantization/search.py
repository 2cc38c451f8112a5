"""The search: which layers stay float, until a variant loses no more than it may."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """Patterns of layers that stay float, and the names of the corrections that are made before rounding."""

    kept: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()

    def __str__(self) -> str:
        made = f"{' and '.join(self.corrections)}, " if self.corrections else ""
        kept = f"{len(self.kept)} {'pattern' if len(self.kept) == 1 else 'patterns'} of layers" if self.kept else "none"
        return f"{made}{kept} in float"


@dataclass(frozen=True)
class Attempt:
    """A plan that was tried: the largest drop of its files, infinite where one had little to do with the network, and
    the seconds it took. `met` is whether the drop is within the target; true where there is none.
    """

    plan: Plan
    drop: float
    seconds: float
    met: bool = True


@dataclass(frozen=True)
class Limits:
    """`max_drop`: the target. At most `attempts` plans are tried, and none is begun after `budget_s` seconds."""

    max_drop: float | None = None
    attempts: int = 8
    budget_s: float = math.inf


def search(
    run: Callable[[Plan], float],
    first: Plan,
    limits: Limits,
    ranked: Callable[[], Sequence[str]],
) -> tuple[list[Attempt], str]:
    """Try plans until the target is met with as few layers in float as can be found.

    First the plan as given; then the layers of `ranked`, which err most first, return to float: 1, 2, 4 … of them, and
    once the target is met, the number between that missed and that met is halved.

    Args:
        run: tries a plan and returns its largest drop.
        ranked: layers, the one that errs most first; asked for when it is needed.

    Returns:
        What was tried, in order, and why the search ended short of the target; "" where it is met.
    """
    trials = _Trials(run, limits)
    if trials.met(first):
        return trials.done, ""
    if trials.left:
        _halve(trials, first, [layer for layer in ranked() if layer not in first.kept])
    return trials.done, "" if any(a.met for a in trials.done) else trials.why


def best(attempts: Sequence[Attempt]) -> Attempt:
    """The attempt that met the target with the fewest layers in float, else the one that lost least."""
    met = [a for a in attempts if a.met]
    if met:
        return min(met, key=lambda a: (len(a.plan.kept), a.drop))
    return min(attempts, key=lambda a: a.drop)


def _halve(trials: _Trials, plan: Plan, order: Sequence[str]) -> None:
    """Return the first 1, 2, 4 … layers of the order to float, then narrow down what is needed."""
    missed, met = 0, None
    for count in _doubling(len(order) - 1):  # one layer must be left to quantize
        if not trials.left:
            return
        if trials.met(replace(plan, kept=(*plan.kept, *order[:count]))):
            met = count
            break
        missed = count
    while met is not None and met - missed > 1 and trials.left:
        middle = (met + missed) // 2
        if trials.met(replace(plan, kept=(*plan.kept, *order[:middle]))):
            met = middle
        else:
            missed = middle
    if not order:
        trials.why = "nothing tells which layers err most: real inputs would (--calibration)"
    elif met is None and missed >= len(order) - 1:
        trials.why = "one layer is left in int8, and the target is missed still"


def _doubling(last: int) -> Iterator[int]:
    count = 1
    while count < last:
        yield count
        count *= 2
    if last >= 1:
        yield last


class _Trials:
    """What was tried, and whether more may be."""

    def __init__(self, run: Callable[[Plan], float], limits: Limits) -> None:
        self._run, self._limits = run, limits
        self._started = time.monotonic()
        self.done: list[Attempt] = []
        self.why = ""

    def met(self, plan: Plan) -> bool:
        """Try a plan; whether its drop is within the target."""
        started = time.monotonic()
        drop = self._run(plan)
        target = self._limits.max_drop
        met = drop < math.inf if target is None else drop <= target
        self.done.append(Attempt(plan, drop, round(time.monotonic() - started, 1), met))
        return met

    @property
    def left(self) -> bool:
        if self._limits.max_drop is None:
            return False
        spent = time.monotonic() - self._started
        if len(self.done) >= self._limits.attempts:
            self.why = f"{self._limits.attempts} attempts were made"
        elif spent > self._limits.budget_s:
            self.why = f"the budget of {self._limits.budget_s:.0f} s ran out after {len(self.done)} attempts"
        else:
            return True
        return False
