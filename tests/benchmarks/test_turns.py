"""Turns: ways in processes of their own, in rounds; what fails is a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.benchmarks.peers import turns
from edgekit.benchmarks.peers.turns import Asked, Taken, Way

WAYS = """
import os

def scaled(factor):
    print("what engines print is no answer")
    return lambda array: array * factor

def crashing():
    return lambda array: os.abort()

def refusing():
    raise ValueError("cannot be had\\nhere")
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    (tmp_path / "ways.py").write_text(WAYS, encoding="utf-8")
    return str(tmp_path / "ways.py")


def test_each_way_is_timed_in_every_round_and_judged_by_its_answers(place: str) -> None:
    def judge(asked: Asked) -> dict[str, float]:
        found = asked({"one": np.ones(3), "two": np.full(2, 2.0)})
        return {"sum": float(found["one"].sum() + found["two"].sum())}

    ways = [Way(f"times {n}", f"{place}:scaled", {"factor": n}) for n in (2, 3)]
    rows = turns.in_turns(ways, np.zeros(4), rounds=2, seconds=0.01, judge=judge)
    assert [row.figures for row in rows] == [{"sum": 14.0}, {"sum": 21.0}]
    for row in rows:
        assert not row.error and len(row.rounds_ms) == len(row.processor_ms) == 2
        assert all(len(samples) >= 2 for samples in row.rounds_ms)
        assert row.start_ms > row.first_ms > 0 and row.peak_mb > 0


def test_what_crashes_or_is_refused_is_a_row_and_the_others_go_on(place: str) -> None:
    ways = [Way("crash", f"{place}:crashing"), Way("refuse", f"{place}:refusing"), Way("missing", "no_such_module:way"),
            Way("fine", f"{place}:scaled", {"factor": 1})]  # fmt: skip
    rows = {row.name: row for row in turns.in_turns(ways, np.zeros(1), rounds=1, seconds=0.01)}
    assert "died of SIGABRT" in rows["crash"].error
    assert rows["refuse"].error == "ValueError: here"
    assert "no_such_module" in rows["missing"].error
    assert not rows["fine"].error and rows["fine"].rounds_ms


def test_speed_is_the_median_of_the_rounds_own_ratios() -> None:
    slow = Taken("slow", rounds_ms=[[4.0, 4.0], [40.0, 40.0], [4.0, 4.0]])
    fast = Taken("fast", rounds_ms=[[2.0, 2.0], [20.0, 20.0], [1.0, 1.0]])  # all drifted in the second round
    assert fast.gain(slow) == 2.0
    assert np.isnan(Taken("failed").gain(slow))


def test_the_file_and_the_table_are_dated_and_hold_the_machine(tmp_path: Path) -> None:
    path = turns.save("thing", tmp_path / "results", {"rows": []}, "| a |\n")
    assert path.name.endswith("-thing.json") and '"processor"' in path.read_text(encoding="utf-8")
    assert path.with_suffix(".md").read_text(encoding="utf-8") == "| a |\n"
