"""XNNPACK's packed weights, kept for the next load."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from runtimes.foreign import Graph, Op, T, options, tflite

from edgekit.opening import open_session
from edgekit.runtimes.litert import LiteRtOptions

ARRAY = np.random.default_rng(0).random((1, 64), np.float32)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    weights = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    graph = Graph(
        (T("x", shape=(1, 64)), T("w", shape=(64, 64), data=weights), T("y", shape=(1, 64))),
        (Op("FULLY_CONNECTED", (0, 1, -1), (2,), options("FullyConnected")),),
        (0,),
        (2,),
    )
    return tflite(tmp_path / "dense.tflite", graph)


def test_weights_are_kept_and_answer_alike(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with open_session(dense, "litert", threads=1) as session:
        expected = session.run({"x": ARRAY})["y"]
    for _ in range(2):
        with open_session(dense, "litert", threads=1, options=LiteRtOptions(cache=str(folder))) as session:
            np.testing.assert_allclose(session.run({"x": ARRAY})["y"], expected, rtol=1e-5, atol=1e-5)
            placement = session.placement()
        (file,) = folder.iterdir()
        assert file.suffix == ".xnnpack" and file.stat().st_size > 64 * 64 * 4
    assert (placement.device, placement.precision, placement.threads) == ("cpu", "fp32", 1)
    assert placement.operators == {"processor FULLY_CONNECTED": 1}


def test_another_file_in_its_place_is_another_key(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for changed in (False, True):
        if changed:
            os.utime(dense, ns=(1, 1))
        open_session(dense, "litert", options=LiteRtOptions(cache=str(folder))).close()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system knows of no users")
def test_a_folder_that_others_may_write_to_is_left_alone(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with open_session(dense, "litert", options=LiteRtOptions(cache=str(folder))) as session:
        assert session.run({"x": ARRAY})["y"].shape == (1, 64)
    assert not list(folder.iterdir())


def test_a_damaged_file_is_made_anew(dense: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    open_session(dense, "litert", options=LiteRtOptions(cache=str(folder))).close()
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with open_session(dense, "litert", options=LiteRtOptions(cache=str(folder))) as session:
        assert np.isfinite(session.run({"x": ARRAY})["y"]).all()
