"""Parity: numbers by their error, integers by how many differ, NaN as PyTorch has it; PyTorch is asked once a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.errors import ParityError
from edgekit.exporters import ExportOptions, from_module
from edgekit.exporters.proof import parity
from edgekit.exporters.proof.parity import differ, require, require_some
from edgekit.manifest import Parity

ONE = np.ones(4, np.float32)


def image() -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, 8, 8), np.float32)


def test_numbers_by_largest_error_part_of_the_largest_value_and_noise() -> None:
    assert differ(ONE, ONE) == parity.Difference(0.0, 0.0, 999.0)
    truth = np.array([-4.0, 1, 1, 1], np.float32)
    found = differ(truth + np.array([0.2, 0, 0, 0], np.float32), truth)
    assert (found.error, found.relative) == (pytest.approx(0.2, rel=1e-5), pytest.approx(0.05, rel=1e-5))
    assert found.snr_db == pytest.approx(10 * np.log10(19 / 0.04), abs=1e-3)
    assert found.within(0.21) and not found.within(0.19)


def test_integers_by_how_many_differ() -> None:
    truth = np.arange(1000)
    other = truth.copy()
    other[3] = 900  # far off, and one of a thousand all the same
    found = differ(other, truth)
    assert found.integer and found.error == found.relative == 0.001 and found.snr_db == pytest.approx(30)
    assert found.within(1e-6) and found.note == "1 of 1000 values are others"
    assert not differ(np.array([7]), np.array([8])).within(1.0)
    assert differ(np.array([True, False]), np.array([True, False])).snr_db == 999.0
    assert differ(truth.astype(np.int32), truth).error == 0


def test_what_is_not_finite_is_right_where_pytorch_has_the_same() -> None:
    odd = np.array([1, np.nan, np.inf, -np.inf], np.float32)
    same = differ(odd, odd)
    assert same.error == 0 and same.note == "3 of 4 values are NaN or infinite, in PyTorch too"
    assert differ(odd + np.float32(0.5), odd).error == 0.5
    for output, truth in (
        (odd, ONE),
        (ONE, odd),
        (-odd, odd),
        (np.full(4, np.nan), np.full(4, np.nan) * [1, 1, 1, 0] + 0),
    ):
        found = differ(output, truth)
        assert found.error == (0.0 if np.isnan(truth).all() else np.inf) and found.note


def test_another_shape_is_told() -> None:
    found = differ(ONE, ONE.reshape(2, 2))
    assert found.error == np.inf and found.note == "its shape is (4,), not (2, 2)"


def test_the_first_output_beyond_the_tolerance_is_named() -> None:
    of = Parity(max_error=float("inf"), snr_db=-999, inputs=3)
    fine, wrong = differ(ONE, ONE), differ(ONE * np.nan, ONE)
    with pytest.raises(ParityError, match="x departs from PyTorch in 'second': .*4 values are NaN or infinite where"):
        require(of, {"first": fine, "second": wrong}, 1e-4, "x")
    with pytest.raises(ParityError, match=r"'ids': 4 of 4 values are others over 3 inputs, allowed 1%"):
        require(of, {"ids": differ(ONE.astype(int), ONE.astype(int) + 1)}, 1e-4, "x")
    with pytest.raises(ParityError, match="-999 dB"):
        require_some(of, "x")


class Segmenting(nn.Module):
    """Labels, a mask and logarithms, some of which are NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.conv(image)
        return {"labels": x.argmax(1), "mask": x > 0, "logs": torch.log(image - 0.5)}


def test_labels_masks_and_nan_in_every_engine(tmp_path: Path) -> None:
    torch.manual_seed(0)
    told: list[str] = []
    bundle = edgekit.export(Segmenting(), tmp_path / "b", [image()], options=ExportOptions(progress=told.append))
    for variant in bundle.component().variants:
        assert variant.parity is not None and variant.parity.max_error < 1e-5
        assert variant.parity.relative is not None and variant.parity.relative < 1e-5
        assert "'logs': " in variant.parity.note and "NaN or infinite, in PyTorch too" in variant.parity.note
        assert any(str(variant) in line and "'logs'" in line for line in told)
    narrowed = bundle.component().variants[2].outputs[0]
    assert (narrowed.name, narrowed.dtype) == ("labels", "int32")


def test_pytorch_is_asked_once_for_every_size(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            if not torch.compiler.is_exporting():
                runs.append(image.shape[2])
            return image * 2

    runs: list[int] = []
    dynamic = {"image": {2: "height", 3: "width"}}
    source = from_module(Counting(), [image()], dynamic=dynamic)
    runs.clear()
    edgekit.export(source, tmp_path / "b", options=ExportOptions(formats=["onnx", "openvino"]))
    assert len(runs) == len(source.probes) + 1  # and the golden values
