"""int8-dynamic: products with int8 weights, convolutions in float, the same in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantization.compressed_doubles import FORMATS, completed, convolutions, job, mixed, scheme, written

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, QuantizationError
from edgekit.exporters.sources import from_bundle
from edgekit.exporters.writing import ExportOptions
from edgekit.quantization.agreement import agreements
from edgekit.quantization.schemes.scheme import Job
from edgekit.runtimes import onnxruntime_

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert"}
TEXT = "ROMEO:\nWhat light through yonder window breaks?"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("int8-dynamic")
    return completed(mixed()[0], written("int8-dynamic", job(*mixed()), place), place)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_products_are_int8_and_the_engine_says_so(bundle: Bundle, format: str) -> None:
    variant = next(v for v in bundle.component().variants if (v.format, v.precision) == (format, "int8-dynamic"))
    assert variant.parity is not None and variant.parity.snr_db > 30
    with edgekit.open_session(bundle.folder, ENGINES[format], precision="int8-dynamic") as session:
        assert session.placement().precision == "int8-dynamic"


@pytest.mark.slow
def test_engines_agree(bundle: Bundle) -> None:
    pairs = {a.engines: a.snr_db for a in agreements(bundle, "model", "int8-dynamic", [mixed()[1].probes[0]])}
    assert len(pairs) == 3 and min(pairs.values()) > 30


@pytest.mark.slow
def test_convolutions_stay_float_and_say_why() -> None:
    kept = {layer.name: layer.kept for layer in scheme("int8-dynamic", job(*mixed())).layers() if layer.kept}
    assert list(kept) == ["conv"] and "slower than in float" in kept["conv"]


def test_arm_without_dot_products_is_told_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Bundle.open("shakespeare-gru")
    made = scheme("int8-dynamic", Job("model", shipped.component(), shipped.folder))
    folder = completed(shipped, {"onnx": made.write("onnx", tmp_path, ExportOptions())[0]}, tmp_path).folder
    monkeypatch.setattr(onnxruntime_, "architecture", lambda: "aarch64")
    monkeypatch.setattr(onnxruntime_, "int8_units", tuple)
    with pytest.raises(DeviceUnavailable, match="lacks dot products: use runtime='litert'"):
        edgekit.open_session(folder, "onnxruntime", precision="int8-dynamic")
    monkeypatch.setattr(onnxruntime_, "int8_units", lambda: ("Arm dot product",))
    edgekit.open_session(folder, "onnxruntime", precision="int8-dynamic").close()


def test_a_network_of_convolutions_is_told_what_to_use() -> None:
    with pytest.raises(QuantizationError, match="a convolution: .* use int8, which is calibrated"):
        scheme("int8-dynamic", job(*convolutions())).write("onnx", Path(), ExportOptions())


def test_a_text_bundle_loses_next_to_nothing(tmp_path: Path) -> None:
    shipped = Bundle.open("shakespeare-gru")
    source = from_bundle(shipped)
    made = scheme("int8-dynamic", Job("model", shipped.component(), shipped.folder, source))
    variants = {format: made.write(format, tmp_path, ExportOptions())[0] for format in ("onnx", "openvino")}
    folder = completed(shipped, variants, tmp_path).folder
    before = edgekit.load("shakespeare-gru", precision="fp32", runtime="onnxruntime").nats_per_char(TEXT)
    for engine in ("onnxruntime", "openvino"):
        task = edgekit.load(str(folder), precision="int8-dynamic", runtime=engine)
        assert task.nats_per_char(TEXT) == pytest.approx(before, abs=0.02)
        assert task.placement().precision == "int8-dynamic"
    assert variants["onnx"].bytes < 0.35 * next(v.bytes for v in shipped.component().variants if v.format == "onnx")
