"""Every shipped bundle on emulated Raspberry Pis: the same answers as on x86-64, and what int8 saves there.

Emulated is the instruction set, not the time: nothing here is a latency.
"""

from __future__ import annotations

import numpy as np
import pytest
from pi.boards import BOARDS, Board
from pi.packages import ENGINES, PROJECT
from pi.workshop import HERE, Everything

BUNDLES = sorted(path.parent.name for path in (PROJECT / "zoo" / "bundles").glob("*/bundle.json"))
FP32_RELATIVE = 1e-5
pytestmark = pytest.mark.timeout(1800)  # whoever is first waits for all the answers
both_boards = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
each_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.mark.slow
@both_boards
@each_engine
@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_bundle_answers_as_on_x86(answers: Everything, board: Board, engine: str, bundle: str) -> None:
    there, here = answers[board.name, engine], answers[HERE, engine]
    rows = [row for row in here.rows if row["bundle"] == bundle]
    assert rows == [row for row in there.rows if row["bundle"] == bundle]
    assert any(row["precision"].startswith("int8") for row in rows)
    for row in rows:
        found, expected = there.outputs(row["key"]), here.outputs(row["key"])
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            allowed = FP32_RELATIVE * np.abs(array).max() if row["precision"] == "fp32" else np.ptp(array) / 255
            wrong = np.abs(found[name].astype(np.float64) - array.astype(np.float64)).max()
            assert np.isfinite(found[name]).all() and wrong <= allowed, f"{row['key']} {name}: {wrong} > {allowed}"
