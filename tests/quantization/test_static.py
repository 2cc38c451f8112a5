"""Static int8: what becomes int8 and what stays float with a reason, and the same steps in every engine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit import bundle as bundles
from edgekit.bundle import Bundle
from edgekit.errors import QuantizationError
from edgekit.exporters.sources import Source, from_module
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Component, Manifest
from edgekit.opening import runtime as find_runtime
from edgekit.quantization.agreement import agreements
from edgekit.quantization.pt2e import calibrated, layer_names, quantize_source
from edgekit.quantization.schemes.operators import found
from edgekit.quantization.schemes.scheme import Job, Layer
from edgekit.quantization.schemes.static import ASKED, Static
from edgekit.quantization.schemes.subpixel import TRANSPOSED, rewrite
from edgekit.tensors import Array
from edgekit.verify import compare

Inputs = list[tuple[Array, ...]]


class Shapes(nn.Module):
    """Convolutions of all kinds: a norm to fold, depthwise, a residual, transposed ones, joined tensors, a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.down = nn.Conv2d(16, 16, 3, 2, padding=1)
        self.up = nn.ConvTranspose2d(16, 16, 3, 2, padding=1, output_padding=1)
        self.mix = nn.Conv2d(32, 16, 3, padding=1)
        self.scale = nn.Linear(4, 16)
        self.tail = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, image: Tensor, tone: Tensor) -> Tensor:
        x = F.relu(self.norm(self.head(image)))
        x = x + self.point(F.relu6(self.deep(x)))
        y = F.relu(self.up(F.relu(self.down(x))))
        y = F.relu(self.mix(torch.cat([F.relu(x), y], 1)))
        return F.pixel_shuffle(self.tail(y * (1 + self.scale(tone))[:, :, None, None]), 2)


def pictures(count: int = 6, side: int = 16) -> Inputs:
    random = np.random.default_rng(0)
    return [
        (
            random.integers(0, 256, (1, 3, side, side)).astype(np.float32) / 255,
            random.standard_normal((1, 4)).astype(np.float32),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def calibration() -> Inputs:
    return pictures()


@pytest.fixture(scope="module")
def source(calibration: Inputs) -> Source:
    torch.manual_seed(0)
    return from_module(Shapes(), calibration[0])


def job(source: Source, calibration: Inputs, keep: Sequence[str] = ()) -> Job:
    return Job("model", Component(source.inputs, source.outputs), Path(), source, None, calibration, tuple(keep))


@pytest.fixture(scope="module")
def small(source: Source, calibration: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The network in int8, as ONNX and TFLite."""
    stage = tmp_path_factory.mktemp("static") / "shapes"
    stage.mkdir()
    scheme = Static(job(source, calibration))
    options = ExportOptions()
    variants = tuple(v for format in ("onnx", "tflite") for v in scheme.write(format, stage, options))
    component = msgspec.structs.replace(scheme.job.component, variants=variants)
    bundles.write(stage, Manifest(name="shapes", components={"model": component}))
    return Bundle.open(stage)


def reasons(layers: Sequence[Layer]) -> dict[str, str]:
    return {layer.name: layer.kept for layer in layers}


def test_layers_are_told_with_ranges_and_reasons(source: Source, calibration: Inputs) -> None:
    layers = Static(job(source, calibration, ["down"])).layers()
    kept = reasons(layers)
    assert list(kept) == ["head", "deep", "point", "down", "up", "mix", "scale", "tail"]
    assert kept["down"] == ASKED
    assert "multiplications" in kept["scale"]  # 64 of 300,000
    assert not any(kept[name] for name in ("head", "deep", "point", "up", "mix"))
    seen = {layer.name: (layer.low, layer.high) for layer in layers}
    assert seen["head"][0] == 0.0 and seen["head"][1] > 0  # behind the norm and the ReLU
    assert all(low < high for low, high in seen.values())


def test_all_engines_compute_the_same_steps(small: Bundle, calibration: Inputs) -> None:
    pairs = agreements(small, "model", "int8", calibration)
    engines = [e for e in ("onnxruntime", "openvino", "litert") if find_runtime(e).computes("int8") == "int8"]
    assert [p.engines for p in pairs] == list(itertools.combinations(engines, 2))
    assert all(p.snr_db > 40 or (p.snr_db > 30 and p.note) for p in pairs), pairs


def test_files_are_close_to_the_network(small: Bundle) -> None:
    for variant in small.component().variants:
        assert variant.parity is not None and variant.parity.snr_db > 20, variant


def test_transposed_convolutions_are_int8_convolutions_in_onnx(small: Bundle) -> None:
    import onnx

    variant = next(v for v in small.component().variants if v.format == "onnx")
    kinds = [node.op_type for node in onnx.load(small.model_path(variant)).graph.node]
    assert "ConvTranspose" not in kinds and kinds.count("Conv") == 7


@pytest.mark.parametrize(
    "settings", [(4, 2, 1, 0), (3, 2, 1, 1), (2, 2, 0, 0), (3, 1, 1, 0), (4, 1, 0, 0), (5, 3, 2, 2), (3, 2, 0, 0), (2, 3, 0, 0)]
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_the_sub_pixel_form_is_exact(settings: tuple[int, int, int, int], bias: bool) -> None:
    kernel, stride, padding, extra = settings
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(5, 4, kernel, stride, padding, output_padding=extra, bias=bias).eval()
    x = torch.randn(2, 5, 7, 6)
    module = rewrite(torch.export.export(layer, (x,)).module())
    assert not [node for node in module.graph.nodes if node.target == TRANSPOSED]
    torch.testing.assert_close(module(x), layer(x), atol=1e-5, rtol=1e-5)


def test_what_is_no_product_of_weights_is_told() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Embedding(7, 8)
            self.norm = nn.LayerNorm(8)
            self.qkv = nn.Linear(8, 24)
            self.out = nn.Linear(8, 8)

        def forward(self, token: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(self.look(token))).chunk(3, -1)
            return self.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)

    module = torch.export.export(Attention(), (torch.zeros(1, 5, dtype=torch.int64),)).module()
    kept = {layer.name: layer.why for layer in found(module.graph)}
    assert [name for name, why in kept.items() if not why] == ["qkv", "out"]
    assert kept["look"].startswith("a look-up") and kept["norm"].startswith("a norm")
    assert sorted(why.split(":")[0] for why in kept.values() if why)[2:] == [
        "a product of two activations", "a product of two activations", "softmax",
    ]  # fmt: skip


def test_a_second_attempt_does_not_calibrate_again(source: Source, calibration: Inputs) -> None:
    assert calibrated(source, calibration) is calibrated(source, calibration)
    assert calibrated(source, list(calibration)) is not calibrated(source, calibration)


def test_rounded_weights_stay_as_they_are(source: Source, calibration: Inputs) -> None:
    """Both forms, for ONNX and for TFLite, compute the same."""
    made = quantize_source(source, calibration, ())
    tensors = [torch.from_numpy(a.copy()) for a in calibration[0]]
    with torch.no_grad():
        assert compare([made.folded(*tensors).numpy()], [made.unfolded(*tensors).numpy()])[1] > 100


def test_pixels_of_8_bits_are_exact(source: Source, calibration: Inputs) -> None:
    image = calibrated(source, calibration).ranges["image"]
    assert (image.scale, image.zero_point) == (1 / 255, -128)


def test_small_weights_keep_eight_bits() -> None:
    """Channels of weights below 0.01 were rounded to nothing with a smallest step of 2⁻¹²."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, 3, padding=1)
    nn.init.normal_(layer.weight, std=1e-3)
    inputs = [(arrays[0],) for arrays in pictures()]
    source = from_module(layer, inputs[0])
    with torch.no_grad():
        output = quantize_source(source, inputs, ()).folded(torch.from_numpy(inputs[0][0].copy())).numpy()
    assert compare([output], source.run(inputs[0]))[1] > 35


def test_bad_input_is_told(source: Source, calibration: Inputs) -> None:
    with pytest.raises(QuantizationError, match="no calibration inputs"):
        quantize_source(source, [], ())
    with pytest.raises(QuantizationError, match="matches no layer: the layers are head, deep"):
        quantize_source(source, calibration, ["nothing*"])
    with pytest.raises(QuantizationError, match="no layer is left to quantize"):
        quantize_source(source, calibration, ["*"])
    wild = [(np.full_like(calibration[0][0], np.nan), calibration[0][1])]
    with pytest.raises(QuantizationError, match="NaN or infinity on the calibration inputs"):
        quantize_source(source, wild, ())


def test_a_quantized_network_is_refused(source: Source, calibration: Inputs) -> None:
    again = replace(source, module=quantize_source(source, calibration, ()).folded, memo={})
    with pytest.raises(QuantizationError, match="is quantized already .*: expected the float network"):
        quantize_source(again, calibration, ())


def test_a_network_without_such_layers_is_told() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, tone: Tensor) -> Tensor:
            return torch.softmax(self.norm(tone), -1)

    inputs = [(arrays[1],) for arrays in pictures()]
    source = from_module(Norm(), inputs[0])
    assert layer_names(source) == []
    with pytest.raises(QuantizationError, match="Norm has nothing that int8 makes faster: norm: a norm"):
        quantize_source(source, inputs, ())
