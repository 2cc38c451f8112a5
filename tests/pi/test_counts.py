"""What int8 saves in executed instructions on each board, beside the committed record.

`make test-pi RECORD=1` writes docs/raspberry-pi.json and the table of docs/raspberry-pi.md anew.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from pi import counting
from pi.boards import BOARDS
from pi.counting import Count
from pi.packages import ENGINES, PROJECT
from pi.workshop import HERE, Everything, Workshop

from edgekit.bundle import Bundle

pytestmark = pytest.mark.timeout(1800)  # whoever is first waits for all the answers
DRIFT, SLACK = 0.05, 100_000  # how far a count may be from the recorded one: another release of QEMU or of Python
TEXT = "write"  # a step of it is so small that Python and copies outweigh the arithmetic


IMPORTS = """
import contextlib, os
def mark():
    with contextlib.suppress(OSError):
        os.close(-4242)
mark()
import numpy
mark(), mark()
import edgekit
mark()
"""


def imports(workshop: Workshop) -> dict[str, dict[str, int]]:
    """Instructions of importing NumPy, and then edgekit, on each board; the second time, so that all is compiled."""
    found = {}
    for board in BOARDS:
        path = workshop.scratch / "imports"
        for _ in range(2):
            workshop.board(board, "litert").run("-c", IMPORTS, counts=path)
        numpy, edgekit = (count.instructions for count in counting.between_marks(path))
        found[board.name] = {"numpy": numpy, "edgekit": edgekit}
    return found


def task_of(bundle: str) -> str:
    """The task of a bundle that ships."""
    task = Bundle.open(PROJECT / "zoo" / "bundles" / bundle).manifest.task
    return task.name if task else ""


def rows_of(counted: Everything) -> list[dict[str, Any]]:
    """A row for each file and engine, with the counts of every board."""
    found = []
    for engine in ENGINES:
        for row in counted[HERE, engine].rows:
            boards = {board.name: counted[board.name, engine].counts[row["key"]] for board in BOARDS}
            found.append({**row, "boards": {name: vars(count) for name, count in boards.items()}})
    return sorted(found, key=lambda row: (row["bundle"], row["component"]))


@pytest.mark.slow
def test_dot_products_are_used_where_there_are_any(counted: Everything) -> None:
    for row in rows_of(counted):
        for board in BOARDS:
            products = row["boards"][board.name]["dot_products"]
            if row["precision"] == "fp32" or not board.has_dot_product:
                assert products == 0, (board.name, row)
            elif row["precision"] == "int8":
                assert products > 0, (board.name, row)


@pytest.mark.slow
def test_int8_saves_instructions_of_convolutions(counted: Everything) -> None:
    rows = {(row["bundle"], row["component"], row["precision"]): row for row in rows_of(counted) if row["engine"] == "onnxruntime"}  # fmt: skip
    for (bundle, component, precision), row in rows.items():
        full = rows.get((bundle, component, "fp32"))
        if precision != "int8" or full is None or task_of(bundle) == TEXT:
            continue
        for board in BOARDS:
            part = row["boards"][board.name]["instructions"] / full["boards"][board.name]["instructions"]
            assert part < (0.6 if board.has_dot_product else 1.0), (board.name, row["key"], part)


@pytest.mark.slow
def test_the_record_is_of_these_files(counted: Everything, workshop: Workshop) -> None:
    rows = rows_of(counted)
    if os.environ.get("EDGEKIT_PI_RECORD"):
        counting.written(rows, {**workshop.facts(), "imports": imports(workshop)})
    recorded = {row["key"] + row["engine"]: row for row in counting.recorded()["rows"]}
    older = []
    for row in rows:
        known = recorded.get(row["key"] + row["engine"])
        if known is None or known["files"] != row["files"]:
            older.append(f"{row['key']} on {row['engine']}")
            continue
        for board, count in row["boards"].items():
            expected = known["boards"][board]["instructions"]
            assert abs(count["instructions"] - expected) < DRIFT * expected + SLACK, (board, row, known)
    if older:
        pytest.skip(f"the record is of other files than {', '.join(older)}: make test-pi RECORD=1 writes it anew")


@pytest.mark.slow
def test_importing_edgekit_takes_less_than_numpy(counted: Everything, workshop: Workshop) -> None:
    for board, taken in imports(workshop).items():
        assert taken["edgekit"] < taken["numpy"], board


def test_the_page_shows_the_record() -> None:
    page = counting.PAGE.read_text(encoding="utf-8")
    table = page.partition(counting.BEGIN)[2].partition(counting.END)[0].strip()
    assert table == counting.table(counting.recorded()["rows"])


def test_marks_come_in_pairs(tmp_path: Any) -> None:
    (tmp_path / "counts").write_text("100 1\n150 4\n1000 4\n1001 4\n")
    assert counting.between_marks(tmp_path / "counts") == [Count(50, 3), Count(1, 0)]
