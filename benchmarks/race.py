"""Race: cases in processes of their own, timed in interleaved rounds; any may be dropped between two rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import msgspec
import numpy as np

from edgekit.benchmarks.records import Detail, Row
from edgekit.errors import EngineError
from edgekit.isolation.process import Process, module

WORKER = "edgekit.benchmarks.worker"


class Race:
    """Rows that are being measured, each with its process; leaving the block ends them all.

    A crash, a hang or an error of an engine is written into its row, whose process ends; the others go on. `open` may
    be called from several threads, and between rounds.
    """

    def __init__(self, image: str | None, timeout_s: float) -> None:
        """`image`: the picture's path, None where the task takes none; `timeout_s`: what a process may take to answer."""
        self.timeout_s = timeout_s
        self._image = image
        self._workers: dict[int, tuple[Row, Process]] = {}
        self._rounds = 0

    @property
    def rows(self) -> list[Row]:
        """Those that are still in, in the order they were opened."""
        return [row for row, _ in self._workers.values()]

    def open(self, row: Row) -> None:
        """Open a row's case in a process of its own."""
        worker = Process(module(WORKER), title="the measured process")
        self._workers[id(row)] = row, worker
        command = {"do": "open", "case": msgspec.to_builtins(row.case), "image": self._image}
        opened = self._asked(row, worker, command)
        for name in ("load_ms", "first_ms", "placement", "runs"):
            if name in opened:
                setattr(row, name, opened[name])

    def round(self, command: dict[str, Any], told: Callable[[int, Row], None] = lambda index, row: None) -> None:
        """Ask every row that is in once, in turns whose order is reversed from round to round: what runs after a hot
        engine is not always the same. `told` hears of each before it runs.
        """
        entries = list(self._workers.values())
        for index, (row, worker) in enumerate(reversed(entries) if self._rounds % 2 else entries):
            told(index, row)
            _add(row, self._asked(row, worker, command))
        self._rounds += 1

    def drop(self, row: Row) -> None:
        """End a row's process; what it measured stays."""
        held = self._workers.pop(id(row), None)
        if held is not None:
            held[1].stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        for row in self.rows:
            self.drop(row)

    def _asked(self, row: Row, worker: Process, command: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer; a crash or an error is written into the row, which is dropped."""
        try:
            answer = worker.ask(command, self.timeout_s)
        except EngineError as error:
            answer = {"error": str(error)}
        row.error = answer.get("error", "")
        if row.error:
            self.drop(row)
        return answer


def _add(row: Row, answer: dict[str, Any]) -> None:
    """One round's samples."""
    model_ms, task_ms = answer.get("model_ms", []), answer.get("task_ms", [])
    row.model_ms += model_ms
    row.task_ms += task_ms
    row.round_ms += [float(np.median(model_ms))] if model_ms else []
    row.task_round_ms += [float(np.median(task_ms))] if task_ms else []
    row.model_counts += [len(model_ms)] if model_ms else []
    row.task_counts += [len(task_ms)] if task_ms else []
    row.peak_mb = answer.get("peak_mb", row.peak_mb)
    row.per_second += [answer["per_second"]] if "per_second" in answer else []
    row.details += [msgspec.convert(answer["detail"], Detail)] if "detail" in answer else []
