"""Signed int8 values between layers as unsigned ones: the same numbers, in int8 on processors with AMX too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit import machine
from edgekit.bundle import Bundle
from edgekit.runtimes import openvino_unsigned
from edgekit.runtimes.openvino_ import OpenVinoOptions

openvino = pytest.importorskip("openvino")
operators = pytest.importorskip("openvino.opset13")
IMAGE = np.random.default_rng(0).uniform(-3, 3, (1, 4, 8, 8)).astype(np.float32)


def network(zero: float | None = 5.0, low: float = -128.0, stored: str = "i8", uses: int = 1) -> Any:
    """A quantized input, restored, convolved and added up `uses` times, as an .onnx file with QDQ is read."""
    image = operators.parameter([1, 4, 8, 8], np.float32, "image")
    ends = (-3.2, 3.2, low, low + 255.0)
    quantized = operators.fake_quantize(image, *(np.float32(value) for value in ends), 256)
    values = operators.convert(operators.convert(quantized, stored), "f32")
    results = []
    for _ in range(uses):
        shifted = values if zero is None else operators.subtract(values, np.float32(zero))
        results.append(operators.multiply(shifted, np.float32(0.025)))
    weights = np.random.default_rng(1).normal(size=(4, 4, 3, 3)).astype(np.float32)
    made = operators.convolution(results[0], weights, [1, 1], [1, 1], [1, 1], [1, 1])
    for other in results[1:]:
        made = operators.add(made, other)
    return openvino.Model([made], [image])


def answer(model: Any) -> np.ndarray:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    found: np.ndarray = openvino.Core().compile_model(model, "CPU", settings)([IMAGE])[0]
    return found


@pytest.mark.parametrize("zero", [5.0, None], ids=["zero point", "none"])
@pytest.mark.parametrize("uses", [1, 3])
def test_the_same_numbers_come_out(zero: float | None, uses: int) -> None:
    changed = network(zero, uses=uses)
    assert openvino_unsigned.make_unsigned(changed) == 1
    kinds = {n.get_output_element_type(0).get_type_name() for n in changed.get_ops() if n.get_type_name() == "Convert"}
    assert kinds == {"u8", "f32"}
    np.testing.assert_allclose(answer(changed), answer(network(zero, uses=uses)), atol=1e-4)


@pytest.mark.parametrize("other", [{"low": 0.0, "stored": "u8"}, {"low": -127.0}], ids=["unsigned already", "narrower"])
def test_what_is_quantized_otherwise_stays_as_it_is(other: dict[str, Any]) -> None:
    assert openvino_unsigned.make_unsigned(network(**other)) == 0


def test_a_network_in_float_stays_as_it_is() -> None:
    image = operators.parameter([1, 4, 8, 8], np.float32)
    assert openvino_unsigned.make_unsigned(openvino.Model([operators.relu(image)], [image])) == 0


@pytest.mark.skipif("AMX-INT8" not in machine.int8_units(), reason="this processor has no AMX")
@pytest.mark.parametrize("name", ["sr-x2", "style-wave", "cifar-cnn"])
def test_int8_is_computed_in_int8_on_a_processor_with_amx(name: str) -> None:
    with edgekit.open_session(name, "openvino", precision="int8", options=OpenVinoOptions(cache=False)) as session:
        assert session.placement().precision == "int8"


def test_a_shipped_bundle_answers_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, found = Bundle.open("sr-x2"), []
    image = np.random.default_rng(0).random((1, 3, 48, 48), dtype=np.float32)
    for needed in (False, True):
        monkeypatch.setattr(openvino_unsigned, "needed", lambda needed=needed: needed)
        options = OpenVinoOptions(cache=False)
        with edgekit.open_session(bundle, "openvino", precision="int8", check=False, options=options) as session:
            found.append(session.run({session.inputs[0].name: image})[session.outputs[0].name])
    assert np.abs(found[0] - found[1]).max() < 0.02
