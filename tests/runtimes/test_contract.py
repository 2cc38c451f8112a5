"""Every runtime against the contract, on one small random network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from runtimes.contract import Case, RuntimeContract

from edgekit.bundle import Bundle
from edgekit.errors import TensorError
from edgekit.exporters import ExportOptions, Source, export
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.runtimes.reference import Function
from edgekit.session import Model
from edgekit.tensors import TensorSpec
from edgekit.zoo.super_resolution import SuperResolution, image_specs

SIZES = {"height": 12, "width": 16}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, np.ndarray, np.ndarray]:
    """A tiny network exported to every format, an input, and PyTorch's output."""
    torch.manual_seed(0)
    net = SuperResolution(scale=2, channels=16, blocks=1).eval()
    image = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
    inputs, outputs = image_specs(2)
    settings = {"scale": 2, "channels": 16, "blocks": 1}
    source = Source(net, inputs, outputs, ((image,),), "super_resolution", settings)
    bundle = export(source, tmp_path_factory.mktemp("contract") / "small", options=ExportOptions(buckets=[SIZES]))
    return bundle, image, source.run([image])[0]


def case_of(small: tuple[Bundle, np.ndarray, np.ndarray], runtime: str, format: str, package: str) -> Case:
    bundle, image, expected = small
    component = bundle.component()
    variant = next(v for v in component.variants if v.format == format)
    model = Model(
        bundle.model_path(variant),
        format,
        "fp32",
        variant.inputs or component.inputs,
        variant.outputs or component.outputs,
        component.family if format == "torch" else None,
        component.settings,
    )
    return Case(runtime, model, image, expected, package)


class TestOnnxRuntime(RuntimeContract):
    @pytest.fixture
    def case(self, small: tuple[Bundle, np.ndarray, np.ndarray]) -> Case:
        return case_of(small, "onnxruntime", "onnx", "onnxruntime")


class TestOpenVino(RuntimeContract):
    @pytest.fixture
    def case(self, small: tuple[Bundle, np.ndarray, np.ndarray]) -> Case:
        return case_of(small, "openvino", "openvino", "openvino")


class TestOpenVinoOnOnnx(RuntimeContract):
    @pytest.fixture
    def case(self, small: tuple[Bundle, np.ndarray, np.ndarray]) -> Case:
        return case_of(small, "openvino", "onnx", "openvino")


class TestLiteRt(RuntimeContract):
    @pytest.fixture
    def case(self, small: tuple[Bundle, np.ndarray, np.ndarray]) -> Case:
        return case_of(small, "litert", "tflite", "ai_edge_litert")


class TestTorch(RuntimeContract):
    @pytest.fixture
    def case(self, small: tuple[Bundle, np.ndarray, np.ndarray]) -> Case:
        return case_of(small, "torch", "torch", "torch")


class TestReference(RuntimeContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        image = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
        inputs, outputs = image_specs(2)
        function = Function(inputs, outputs, scale=0.5, offset=0.25, repeat=2)
        path = tmp_path / "double.json"
        path.write_bytes(msgspec.json.encode(function))
        expected = (image * 0.5 + 0.25).repeat(2, axis=2).repeat(2, axis=3)
        return Case("reference", Model(path, "reference", "fp32"), image, expected, None)


def test_a_manifest_that_promises_another_shape_is_refused(small: tuple[Bundle, np.ndarray, np.ndarray]) -> None:
    case = case_of(small, "litert", "tflite", "ai_edge_litert")
    wrong = TensorSpec("image", "float32", (1, 99, 99, 3), "NHWC")
    with pytest.raises(TensorError, match="99"):
        case.open(model=replace(case.model, inputs=(wrong,)))


def test_openvino_computes_in_f32_unless_told(small: tuple[Bundle, np.ndarray, np.ndarray]) -> None:
    case = case_of(small, "openvino", "openvino", "openvino")
    with case.open() as plain:
        assert plain.placement().precision == "fp32"
    with case.open(options=OpenVinoOptions(inference_precision="bf16")) as fast:
        assert fast.placement().precision in ("bf16", "fp32")  # as the processor can; never unsaid
