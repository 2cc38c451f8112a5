"""What a device of fixed shapes asks of free dimensions, tried on the CPU: OpenVINO reshapes, or says what it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable
from edgekit.runtimes.openvino_ import fix_sizes
from edgekit.session import Model
from edgekit.tensors import TensorSpec

openvino = pytest.importorskip("openvino")


def shipped(**sizes: int) -> tuple[object, Model]:
    bundle = Bundle.open("sr-x2")
    path = bundle.folder / "model-fp32.onnx"
    return openvino.Core().read_model(path), Model(path, "onnx", "fp32", bundle.component().inputs, sizes=sizes)


def test_free_dimensions_get_the_sizes_asked_for() -> None:
    network, model = shipped(height=16, width=24)
    fix_sizes(network, model)
    assert not network.is_dynamic()
    compiled = openvino.Core().compile_model(network, "CPU")
    assert compiled([np.zeros((1, 3, 16, 24), np.float32)])[0].shape == (1, 3, 32, 48)


def test_missing_sizes_are_named() -> None:
    for sizes in ({}, {"height": 16}):
        with pytest.raises(DeviceUnavailable, match=r"an NPU needs fixed sizes: .*sizes=\{.*'width': …"):
            fix_sizes(*shipped(**sizes))


def test_a_lone_file_of_free_sizes_is_refused() -> None:
    network, model = shipped()
    with pytest.raises(DeviceUnavailable, match="fixed sizes"):
        fix_sizes(network, Model(model.path, "onnx", "file"))


def test_a_network_of_fixed_sizes_stays(tmp_path: Path) -> None:
    network = openvino.Core().read_model(Bundle.open("cifar-cnn").folder / "model-fp32.onnx")
    spec = TensorSpec("image", "float32", tuple(network.inputs[0].shape))
    fix_sizes(network, Model(tmp_path / "x.xml", "openvino", "fp32", (spec,)))
    assert not network.is_dynamic()
