"""Race: rounds in turns, rows that drop out keep what they measured, and one that fails ends alone."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from edgekit.benchmarks import race
from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import Case, Row
from edgekit.errors import EngineError


class Scripted:
    """A process that answers at once; the case's precision "int4-weights" fails in its second round."""

    asked: ClassVar[list[str]] = []
    stopped: ClassVar[list[str]] = []

    def __init__(self, command: list[str], *, title: str) -> None:
        self.name, self.rounds = "", 0

    def ask(self, command: dict, timeout_s: float) -> dict:  # type: ignore[type-arg]
        if command["do"] == "open":
            self.name = command["case"]["precision"]
            return {"load_ms": 1.0, "first_ms": 2.0, "runs": {}, "placement": {"threads": 1}}
        self.rounds += 1
        self.asked.append(self.name)
        if self.name == "int4-weights" and self.rounds == 2:
            raise EngineError("died")
        return {"model_ms": [1.0, 3.0], "task_ms": [2.0, 4.0], "peak_mb": 5.0}

    def stop(self) -> None:
        self.stopped.append(self.name)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Row]:
    monkeypatch.setattr(race, "Process", Scripted)
    Scripted.asked.clear()
    Scripted.stopped.clear()
    return [Row(Case(str(tmp_path), "onnxruntime", "cpu", p)) for p in ("fp32", "int8", "int4-weights")]


def test_rounds_go_in_turns_and_those_that_drop_out_keep_their_samples(rows: list[Row]) -> None:
    with Race(None, 9.0) as running:
        for row in rows:
            running.open(row)
        running.round({"do": "round", "seconds": 0.1})
        running.drop(rows[0])
        running.drop(rows[0])
        running.round({"do": "round", "seconds": 0.1})
        assert running.rows == [rows[1]]
    assert Scripted.asked == ["fp32", "int8", "int4-weights", "int4-weights", "int8"]
    assert Scripted.stopped == ["fp32", "int4-weights", "int8"]
    assert [row.task_round_ms for row in rows] == [[3.0], [3.0, 3.0], [3.0]]
    assert [row.error for row in rows] == ["", "", "died"]
    assert rows[0].placement == {"threads": 1} and rows[1].peak_mb == 5.0
