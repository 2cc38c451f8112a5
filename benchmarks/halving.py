"""Successive halving: rounds of all that is open, after which what is slower drops out, until the rest is told apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import Row
from edgekit.benchmarks.statistics import noise_of
from edgekit.machine import available_mb, cores
from edgekit.selection import TIE, figure

HALVED_AFTER = {1: 0.5, 2: 0.2, 4: 0.15}  # rounds, when the slower half goes but for what is so near the fastest
TOLD_APART = 5  # rounds that two were in, from which on their noise is known well enough to drop by it alone
MOST_ROUNDS = 60
OPENING = 0.7  # of the budget: what is not open by then is not measured
SPARE_MB = 200  # of memory that is left free
ROUND = {"do": "round", "alone": False}


class Halving:
    """One race to the fastest; the rows keep the samples of the rounds that they were in.

    `seconds` are those of each row in a round; `progress` is told (seconds gone, of the budget, what is next).
    """

    def __init__(
        self,
        race: Race,
        budget_s: float,
        seconds: float,
        progress: Callable[[int, int, str], None] = lambda done, total, what: None,
    ) -> None:
        self.race = race
        self.rows: list[Row] = []
        self._starts: dict[int, int] = {}
        self._rounds = 0
        self._last_s = 0.0
        self._began = time.monotonic()
        self._budget_s, self._seconds, self._progress = budget_s, seconds, progress

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def open(self, rows: Sequence[Row]) -> None:
        """Open rows, the most promising first, some at once; those that budget or memory do not allow say so."""
        self.rows += rows
        for row in rows:
            self._starts[id(row)] = self._rounds
        pool = ThreadPoolExecutor(min(4, cores()))
        try:
            list(pool.map(self._opened, rows))
        finally:
            pool.shutdown(cancel_futures=True)

    def run(self, until: int, keeps: Callable[[Row], bool] = lambda row: False) -> None:
        """Rounds, at most until there were so many of them, or the budget is spent, or all that is left is told apart.

        `keeps` is asked before a row is dropped; one that is kept goes on although it is slower.
        """
        while self._rounds < until and self.race.rows and (self._rounds == 0 or not self._late()):
            began = time.monotonic()
            self.race.round({**ROUND, "seconds": self._seconds}, lambda index, row: self._tell(_title(row)))
            self._rounds += 1
            self._last_s = time.monotonic() - began
            slower = self._slower()
            for row in slower:
                if not keeps(row):
                    self.race.drop(row)
            if self._settled(keeps):
                break

    def ms(self, row: Row) -> float | None:
        """A row's median over its rounds, brought to those of the row that stayed longest by the ratio of the rounds that
        both were in: a drift of the machine does not make one that dropped out early look fast, or slow.
        """
        if not _medians(row):
            return None
        last = max((r for r in self.rows if _medians(r)), key=lambda r: (len(_medians(r)), -np.median(_medians(r))))
        mine, theirs = self._common(row, last)
        if not mine:
            return float(np.median(_medians(row)))
        return float(np.median(_medians(last)) * np.median(np.divide(mine, theirs)))

    def noise(self, row: Row, other: Row) -> float:
        """What the ratio of two rows is uncertain by, from the rounds that both were in; of fewer than three nothing is
        known but the least.
        """
        return noise_of(*self._common(row, other))

    def _opened(self, row: Row) -> None:
        free = available_mb()
        if self.elapsed_s > OPENING * self._budget_s and self.race.rows:
            row.error = f"not measured: the budget of {self._budget_s:g} s was spent before it was its turn"
        elif free is not None and free < SPARE_MB and self.race.rows:
            row.error = f"not measured: {free} MB of memory are free, beside {len(self.race.rows)} that are open"
        else:
            self._tell(f"load {_title(row)}")
            self.race.open(row)

    def _tell(self, what: str) -> None:
        self._progress(min(int(self.elapsed_s), int(self._budget_s)), int(self._budget_s), what)

    def _late(self) -> bool:
        """Whether another round, which will take as long as the last, would go beyond the budget."""
        return self.elapsed_s + self._last_s > self._budget_s

    def _slower(self) -> list[Row]:
        """Who drops out after this round."""
        running = self.ranked()
        if self._rounds in HALVED_AFTER:
            half, near = running[(len(running) + 1) // 2 :], HALVED_AFTER[self._rounds]
            return [row for row in half if self._ratio(row, running[0]) > 1 + max(near, self.noise(row, running[0]))]
        return [
            row
            for row in running[1:]
            if self._known(row, running[0]) and self._ratio(row, running[0]) > 1 + self.noise(row, running[0])
        ]

    def _known(self, row: Row, other: Row) -> bool:
        return len(self._common(row, other)[0]) >= TOLD_APART

    def _settled(self, keeps: Callable[[Row], bool]) -> bool:
        """Whether nobody is left whose place more rounds would tell."""
        running = self.ranked()
        if not running or len(_medians(running[0])) < TOLD_APART:
            return not running
        first, *others = running
        near = [row for row in others if not keeps(row) or self._ratio(row, first) <= 1 + TIE]
        return all(self._known(row, first) and self.noise(row, first) <= TIE for row in near)

    def ranked(self) -> list[Row]:
        """Those that are in, the fastest of their common rounds first."""
        running = [row for row in self.race.rows if _medians(row)]
        since = max((self._starts[id(row)] for row in running), default=0)
        return sorted(running, key=lambda r: float(np.median(_medians(r)[since - self._starts[id(r)] :])))

    def _ratio(self, row: Row, other: Row) -> float:
        return float(np.median(np.divide(*self._common(row, other))))

    def _common(self, one: Row, other: Row) -> tuple[list[float], list[float]]:
        """The medians of the rounds that both rows were in."""
        (first, mine), (second, theirs) = ((self._starts[id(r)], _medians(r)) for r in (one, other))
        start, end = max(first, second), min(first + len(mine), second + len(theirs))
        return mine[start - first : max(start, end) - first], theirs[start - second : max(start, end) - second]


def _medians(row: Row) -> list[float]:
    """Of each round: the whole task's, or the model's where there is no task."""
    return row.task_round_ms or row.round_ms


def _title(row: Row) -> str:
    case = row.case
    threads = "" if case.threads is None else f" ×{case.threads}"
    so_far = f", {figure(float(np.median(_medians(row))))} ms" if _medians(row) else ""
    tile = "" if case.tile is None else f" tiles of {case.tile}"
    return f"{case.runtime} {case.precision}{threads}{tile}{so_far}"
