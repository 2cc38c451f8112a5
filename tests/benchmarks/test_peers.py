"""Peers: the ways of enlarging agree on a small picture, and tables tell failures too."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit import images
from edgekit.benchmarks.peers import picture_ways, pictures, startup
from edgekit.benchmarks.peers.turns import Taken


def test_ways_with_the_same_network_give_the_same_picture(photo: np.ndarray) -> None:
    small = images.middle(photo, 64, 64)
    ours = picture_ways.edgekit_("sr-x2", "onnxruntime", "fp32", 1)(small)
    onnx = str(pictures.weights("sr-x2", "onnx", "fp32"))
    plain = picture_ways.onnxruntime_(onnx, 1)(small)
    torch_ = picture_ways.pytorch(**pictures.network("sr-x2"), threads=1)(small)
    cubic = picture_ways.opencv("cubic", 2)(small)
    for other in (plain, torch_):
        assert np.abs(other.astype(int) - ours).max() <= 1
    assert cubic.shape == ours.shape == (128, 128, 3) and images.psnr_y(cubic, ours) > 25


def test_every_way_of_a_bundle_is_listed_once() -> None:
    names = [way.name for way in pictures.ways("style-wave", 2)]
    assert len(set(names)) == len(names) == 12


def test_the_table_puts_the_fastest_first_and_failures_last() -> None:
    rows = [Taken("edgekit litert int8", rounds_ms=[[2.0]], processor_ms=[2.0], figures={"q": 1.0}), Taken("other", error="no compiler"),
            Taken("OpenCV cubic", rounds_ms=[[1.0]], processor_ms=[1.0], figures={"q": 0.5})]  # fmt: skip
    lines = pictures.table(rows, "quality", lambda row: f"{row.figures['q']}").splitlines()
    assert lines[2].startswith("| OpenCV cubic | 0.5 | 1.0 | 2.00× |")
    assert lines[3].startswith("| edgekit litert int8 | 1.0 | 2.0 | 1.00× |")
    assert lines[4].startswith("| other | – | failed: no compiler |")


def test_the_size_of_an_installation_counts_what_is_required() -> None:
    alone, with_engine = startup.installed_mb(["numpy"]), startup.installed_mb(["onnxruntime"])
    assert 10 < alone < with_engine
    assert startup.installed_mb(["no-such-package"]) == 0
    with pytest.raises(StopIteration):
        pictures.weights("sr-x2", "onnx", "fp16")
