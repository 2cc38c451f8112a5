"""OpenVINO's own account of a network: what it added, and what its products are computed in."""

from __future__ import annotations

from collections.abc import Collection

import pytest

import edgekit
from edgekit import machine
from edgekit.opening import open_session
from edgekit.runtimes.openvino_ import OpenVinoOptions, OpenVinoRuntime
from edgekit.runtimes.openvino_graph import Product, precision

CONVOLUTION, MATRIX = "Convolution", "FullyConnected"


@pytest.mark.parametrize(
    ("products", "rounds", "expected"),
    [
        ([Product(CONVOLUTION, "f32", "f32")], True, ""),
        ([Product(CONVOLUTION, "u8", "i8"), Product(MATRIX, "f32", "f32")], True, "int8"),
        ([Product(CONVOLUTION, "f32", "i8")], True, "int8-weights"),  # where int8 kernels do not run: never "int8"
        ([Product(MATRIX, "f32", "i8")], True, "int8-dynamic"),
        ([Product(MATRIX, "f32", "u8")], False, "int8-weights"),
        ([Product(MATRIX, "f32", "u4"), Product(MATRIX, "f32", "i8")], True, "int4-weights"),
        ([], True, ""),
    ],
)
def test_the_precision_is_that_of_products(products: Collection[Product], rounds: bool, expected: str) -> None:
    assert precision(products, rounds) == expected


def test_what_it_adds_is_counted() -> None:
    with open_session("sr-x2", "openvino", precision="fp32", threads=1) as session:
        placement = session.placement()
    assert placement.inserted and sum(placement.inserted.values()) < sum(placement.operators.values())
    assert all(name.split()[0] in ("Reorder", "Convert", "Transpose") for name in placement.inserted)


@pytest.mark.skipif(
    machine.architecture() != "x86_64", reason="other processors' sums of int8 products do not overflow"
)
@pytest.mark.parametrize("name", ["sr-x2", "shakespeare-gpt"])
def test_without_vnni_int8_is_computed_in_float_and_said_to_be(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "int8_units", lambda root=None: ())
    engine = OpenVinoRuntime()
    assert engine.computes("int8") == "fp32" and engine.computes("int8", "gpu:1") == "int8"
    assert all("int8" not in row.precisions for row in engine.devices() if row.name == "cpu")
    info = edgekit.load(name, "openvino", precision="int8", check=False).info()
    assert info["placement"]["precision"] in ("fp32", "int8-weights")  # which are unpacked into float
    assert "openvino computes the int8 file in float" in info["why"]


def test_its_own_habit_is_told_where_it_is_asked_for() -> None:
    options = OpenVinoOptions(inference_precision="bf16")
    with open_session("cifar-cnn", "openvino", precision="fp32", threads=1, options=options) as session:
        placement = session.placement()
    if placement.precision == "fp32":
        pytest.skip("this processor has no bf16")
    assert placement.precision == "bf16" and any("→ bf16" in name for name in placement.inserted)


def test_devices_that_are_absent_are_listed_with_what_they_take() -> None:
    rows = {row.name.partition(":")[0]: row for row in OpenVinoRuntime().devices()}
    assert set(rows) >= {"cpu", "gpu", "npu"}
    for row in (rows["gpu"], rows["npu"]):
        assert row.usable or (row.why.startswith("it finds no Intel") and row.remedy.startswith("needs "))
