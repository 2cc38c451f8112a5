"""Static int8: the three engines agree, the target is kept or said to be missed, the old bundle survives failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.bundle import Bundle
from edgekit.errors import ImageError, QuantizationError
from edgekit.exporters import ExportOptions, export
from edgekit.images import write_image
from edgekit.manifest import Task
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.quantization import Metric, Quantized, QuantizeOptions
from edgekit.quantization import quantize as quantize_and_time
from edgekit.quantization.calibration import from_photos
from edgekit.quantization.metrics.pictures import UpscalePsnr
from edgekit.quantization.schemes.scheme import Layer
from edgekit.quantization.search import Plan
from edgekit.quantization.trial import Trials
from edgekit.tensors import TensorSpec
from edgekit.verify import answers, compare
from edgekit.zoo.super_resolution import SuperResolution, image_specs, net_source

BUCKET = {"height": 32, "width": 32}
ONNX = QuantizeOptions(formats=["onnx"], correct=[], time_it=False)


def quantize(*args: Any, options: QuantizeOptions | None = None, **named: Any) -> Quantized:
    """`quantize` without its measurement of speed, which has tests of its own."""
    return quantize_and_time(*args, options=replace(options or QuantizeOptions(), time_it=False), **named)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    net = SuperResolution(scale=2, channels=16, blocks=2).eval()
    probe = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    options = ExportOptions(buckets=[BUCKET], task=Task("upscale", {"scale": 2, "halo": net.halo}))
    return export(net_source(net, [probe]), tmp_path_factory.mktemp("q") / "small", options=options)


@pytest.fixture
def bundle(fresh: Bundle, tmp_path: Path) -> Bundle:
    import shutil

    return Bundle.open(shutil.copytree(fresh.folder, tmp_path / "small"))


@pytest.fixture
def calibration(photo: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    crops = [photo[y : y + 64, x : x + 64] for y, x in ((0, 0), (100, 200), (300, 100), (400, 400))]
    return [(np.ascontiguousarray(c.transpose(2, 0, 1)[None], np.float32) / 255,) for c in crops]


class Steps(Metric):
    """A made-up metric: fp32 gives 10, int8 what the list says next."""

    name, data = "made_up", "none"

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return 10.0 if precision == "fp32" else (self.values.pop(0) if runtime == "onnxruntime" else 10.0)


def test_adds_int8_to_every_format_and_engines_agree(bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]) -> None:
    result = quantize(bundle, calibration)
    variants = [v for v in result.bundle.component().variants if v.precision == "int8"]
    assert [v.format for v in variants] == ["onnx", "openvino", "tflite"]
    outputs = {}
    for runtime in ("onnxruntime", "openvino", "litert"):
        with open_session(result.bundle, runtime, precision="int8", sizes=BUCKET) as session:
            assert session.placement().precision == find_runtime(runtime).computes("int8")
            image = calibration[1][0][:, :, :32, :32]
            component = result.bundle.component()
            outputs[runtime] = answers(session, [image], component.inputs, component.outputs)
    assert compare(outputs["litert"], outputs["onnxruntime"])[1] >= 60  # bit for bit but for float remainders
    assert compare(outputs["openvino"], outputs["onnxruntime"])[1] >= 40


def test_int8_is_smaller_and_close(bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]) -> None:
    result = quantize(bundle, calibration)
    for variant in result.bundle.component().variants:
        if variant.precision == "int8":
            assert variant.parity is not None and variant.parity.snr_db > 30


def test_keeps_named_layers_in_float(bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]) -> None:
    import onnx

    quantize(bundle, calibration, options=QuantizeOptions(keep_float=["tail", "body.*"], formats=["onnx"]))
    graph = onnx.load(bundle.folder / "model-int8.onnx").graph
    kinds = [i.data_type for i in graph.initializer if len(i.dims) == 4]
    assert kinds.count(onnx.TensorProto.INT8) == 1 and kinds.count(onnx.TensorProto.FLOAT) == 3


def test_ranks_and_returns_layers_to_float_until_the_target_is_met(
    bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]
) -> None:
    result = quantize(bundle, calibration, Steps(7.0, 9.0, 9.9), max_drop=0.5, options=ONNX)
    assert result.met and len(result.kept_float) == 2 and result.worst_drop == pytest.approx(0.1)
    quality = next(v.quality for v in result.bundle.component().variants if (v.format, v.precision) == ("onnx", "int8"))
    assert quality is not None and quality.drop == pytest.approx(0.1) and quality.value == pytest.approx(9.9)


def test_keeps_the_best_and_says_when_the_target_is_missed(
    bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]
) -> None:
    result = quantize(bundle, calibration, Steps(7.0, 9.0, 8.0), max_drop=0.5, options=replace(ONNX, attempts=3))
    assert not result.met and result.worst_drop == pytest.approx(1.0) and len(result.kept_float) == 1


def test_only_layers_that_became_small_are_returned_to_float(tmp_path: Path) -> None:
    work = SimpleNamespace(qualified=lambda component, layer: layer)
    trials = Trials(work, tmp_path, 0.5)  # type: ignore[arg-type]
    first = {"model": [Layer("tail", kept="it makes the picture"), Layer("body"), Layer("conv[0]")]}
    trials._trials[Plan()] = SimpleNamespace(layers=lambda: first)  # type: ignore[assignment]
    trials._noise = {"tail": 10.0, "conv[0]": 20.0, "body": 30.0}
    assert trials.ranked() == ["conv[[]0]", "body"]


def test_a_later_plan_that_fails_does_not_lose_what_was_found(
    bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]
) -> None:
    asked = replace(ONNX, attempts=2)
    result = quantize(bundle, calibration, Steps(9.0, float("nan")), max_drop=0.5, options=asked)
    assert [a.drop for a in result.attempts] == [pytest.approx(1.0), float("inf")]
    assert not result.met and not result.kept_float and result.worst_drop == pytest.approx(1.0)


def test_failure_leaves_the_bundle_as_it_was(bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]) -> None:
    before = bundle.hash

    class Broken(Steps):
        def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
            raise RuntimeError("no metric today")

    with pytest.raises(RuntimeError, match="no metric today"):
        quantize(bundle, calibration, Broken(), options=ONNX)
    assert Bundle.open(bundle.folder).hash == before
    assert [p.name for p in bundle.folder.parent.iterdir()] == ["small"]


def test_a_bundle_that_ships_is_not_changed_in_its_place(
    calibration: list[tuple[np.ndarray, ...]], tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match="ships with edgekit"):
        quantize("sr-x2", calibration)
    before = Bundle.open("sr-x2").hash
    options = QuantizeOptions(formats=["onnx"], keep_float=["tail"])
    result = quantize("sr-x2", calibration, out=tmp_path / "mine", options=options)
    assert result.bundle.folder == tmp_path / "mine" and Bundle.open("sr-x2").hash == before


def test_a_metric_that_is_no_number_leaves_the_bundle(
    bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]
) -> None:
    before = bundle.hash
    with pytest.raises(QuantizationError, match="is inf"):
        quantize(bundle, calibration, Steps(float("inf")), options=ONNX)
    assert Bundle.open(bundle.folder).hash == before


def test_refuses_what_cannot_be_done(bundle: Bundle, calibration: list[tuple[np.ndarray, ...]]) -> None:
    with pytest.raises(QuantizationError, match="calibration"):
        quantize(bundle, [])
    with pytest.raises(QuantizationError, match=r"'neck' matches no layer: the layers are head, body\.0"):
        quantize(bundle, calibration, options=QuantizeOptions(keep_float=["neck"]))
    with pytest.raises(QuantizationError, match="no layer is left"):
        quantize(bundle, calibration, options=QuantizeOptions(keep_float=["*"]))


def test_photos_calibrate_image_networks_alone(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    write_image(tmp_path / "tiny.png", np.ascontiguousarray(photo[:20, :20]))
    inputs, _ = image_specs(2)
    arrays = from_photos(tmp_path, inputs, count=2, side=64)
    assert [a.shape for (a,) in arrays] == [(1, 3, 64, 64), (1, 3, 20, 20)]
    assert all(a.dtype == np.float32 and a.min() >= 0 and a.max() <= 1 for (a,) in arrays)
    with pytest.raises(QuantizationError, match="one image input"):
        from_photos(tmp_path, [TensorSpec("tokens", "int64", (1, "length"))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no images"):
        from_photos(tmp_path / "empty", inputs)


def test_psnr_is_the_papers(data: Path) -> None:
    """Bicubic enlargement of Set5: 33.66 dB at ×2, 28.42 dB at ×4 are the published figures."""
    assert UpscalePsnr.of_photos(data / "set5.zip", 2).bicubic() == pytest.approx(33.66, abs=0.05)
    assert UpscalePsnr.of_photos(data / "set5.zip", 4).bicubic() == pytest.approx(28.42, abs=0.05)


class Dictionary(torch.nn.Module):
    """As people have them: named outputs, None among them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor | None]:
        x = self.layer(image)
        return {"features": x, "mean": x.mean((2, 3)), "loss": None}


class Wide(torch.nn.Sequential):
    """In float64, as a network fitted by other tools may be."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
        self.double()


@pytest.mark.parametrize("make", [Dictionary, Wide])
def test_the_module_that_was_exported_is_a_source(make: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [(random.random((1, 3, 16, 16), np.float32),) for _ in range(6)]
    net = make()
    free = {"image": {0: "batch", 2: "height"}}
    made = export(net, tmp_path / "net", images[0], dynamic=free, options=ExportOptions(formats=("onnx",)))
    result = quantize(made, images, source=net, options=ONNX)  # in batches of 1, of which it was not traced
    (variant,) = (v for v in result.bundle.component().variants if v.precision == "int8")
    assert variant.parity is not None and variant.parity.snr_db > 25
    with open_session(result.bundle, "onnxruntime", precision="int8") as session:
        for shape in ((1, 3, 16, 16), (2, 3, 24, 16)):
            assert next(iter(session.run({"image": np.ones(shape, np.float32)}).values())).shape[0] == shape[0]


def test_a_hard_swish_between_int8_layers_stays_float_in_tflite(tmp_path: Path) -> None:
    layers = (torch.nn.Conv2d(3, 16, 3), torch.nn.Hardswish(), torch.nn.Conv2d(16, 16, 3), torch.nn.Hardswish(True))
    net = torch.nn.Sequential(*layers, torch.nn.Conv2d(16, 4, 3))
    images = [(np.random.default_rng(i).random((1, 3, 24, 24), np.float32),) for i in range(4)]
    made = export(net, tmp_path / "net", images[0], options=ExportOptions(formats=("tflite",)))
    result = quantize(made, images, source=net, options=QuantizeOptions(formats=["tflite"], correct=[]))
    with open_session(result.bundle, "litert", precision="int8") as session:
        placement = session.placement()
    assert placement.precision == "int8" and not any("HARD_SWISH" in name for name in placement.operators)
    (variant,) = (v for v in result.bundle.component().variants if v.precision == "int8")
    assert variant.parity is not None and variant.parity.snr_db > 30
