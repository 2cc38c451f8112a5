"""Rounds: every case loaded in fresh processes, then timed in turns, until there is enough or Ctrl-C ends it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.benchmarks import pagecache
from edgekit.benchmarks.cases import row_of
from edgekit.benchmarks.conditions import Watch
from edgekit.benchmarks.options import LATENCY_ALONE, MeasureOptions
from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import STOPPED, Case, Load, Row
from edgekit.bundle import Bundle
from edgekit.stated import readable

RATES = 3  # how often throughput is measured


class Rounds:
    """The measurement of one bundle: `rows` fill as it goes on, `watch` looks at the machine after every round."""

    def __init__(self, bundle: Bundle, image: str | None, options: MeasureOptions) -> None:
        """`image`: the picture's path, None where the task takes none."""
        self.rows: list[Row] = []
        self.watch = Watch()
        self._bundle, self._image, self._options = bundle, image, options
        self._thorough = options.thorough or LATENCY_ALONE
        self._done = self._total = 0

    def run(self, groups: Sequence[Sequence[Case]]) -> bool:
        """Measure the cases, one group after the other; returns whether Ctrl-C ended it, where that is kept.

        Raises:
            KeyboardInterrupt: it is not.
        """
        steps = self._options.rounds + self._thorough.loads
        self._total = steps * sum(len(cases) for cases in groups)
        try:
            for cases in groups:
                self._done = steps * len(self.rows)
                self.rows += [row_of(self._bundle, case) for case in cases]
                self._group(self.rows[-len(cases) :])
        except KeyboardInterrupt:
            if not self._thorough.keep:
                raise
            for row in self.rows:
                row.error = row.error or ("" if row.model_ms or row.task_ms else STOPPED)
            return True
        self._options.progress(self._total, self._total, "done")
        return False

    def _group(self, rows: list[Row]) -> None:
        """Load every case in processes of its own, the last of which stays, then go round."""
        for _ in range(self._thorough.loads - 1):
            for row in rows:
                with Race(self._image, self._options.timeout_s) as alone:
                    self._load(alone, row)
        with Race(self._image, self._options.timeout_s) as race:
            for row in rows:
                self._load(race, row)
            self._rounds(race, len(rows))

    def _load(self, race: Race, row: Row) -> None:
        """Open a row's case in a fresh process, and take down what that took; one that failed before stays as it is."""
        self._tell(self._done, f"load {row.label}")
        self._done += 1
        if row.error:
            return
        files = self._files(row.case)
        if self._thorough.drop_cache:
            pagecache.drop(files)
        cached = pagecache.cached(files)
        race.open(row)
        if not row.error and row.load_ms is not None and row.first_ms is not None:
            row.loads.append(Load(row.load_ms, row.first_ms, cached))

    def _rounds(self, race: Race, count: int) -> None:
        """Round after round, until there are enough of them or the time is over."""
        command: dict[str, Any] = {"do": "round", "seconds": self._options.seconds}
        if self._options.thorough:
            command["detail"] = {"paced": self._thorough.fps}
        began = time.monotonic()
        for number in itertools.count():
            part = self._part(number, time.monotonic() - began)
            if part >= 1.0 or not race.rows:
                break
            done = self._done + int(part * count * self._options.rounds)

            def told(index: int, row: Row, done: int = done, number: int = number + 1) -> None:
                self._tell(done + index, f"round {number} {row.label}")

            race.round(command, told)
            self.watch.look()
            if self._options.enough(self.rows[-count:]):
                break
        if self._options.thorough:  # last, as what runs several at once holds more memory
            for _ in range(RATES):
                race.round({"do": "rate", "seconds": self._options.seconds / 2})

    def _part(self, number: int, spent_s: float) -> float:
        """How much of the rounds is done, 0…1."""
        if self._thorough.minutes:
            return spent_s / (60 * self._thorough.minutes)
        return number / self._options.rounds if self._options.rounds else 1.0

    def _tell(self, done: int, what: str) -> None:
        self._options.progress(min(done, self._total - 1), self._total, what)

    def _files(self, case: Case) -> list[Path]:
        """The files that a case reads, of every component that it has."""
        named = [case.component] if case.component else list(self._bundle.manifest.components)
        found = [readable(case.runtime, case.precision, self._bundle.component(name).variants) for name in named]
        return [self._bundle.folder / entry.path for variants in found for v in variants for entry in v.files]
