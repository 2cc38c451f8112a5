"""fp16: half the size, next to nothing lost, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from quantization.compressed_doubles import FORMATS, completed, convolutions, job, mixed, scheme, written

import edgekit
from edgekit.bundle import Bundle
from edgekit.exporters import export
from edgekit.exporters.formats import onnx_
from edgekit.exporters.sources import from_module
from edgekit.exporters.writing import ExportOptions
from edgekit.quantization.schemes import onnx_weights


@pytest.mark.slow
def test_files_are_half_as_large_and_answer_the_same(tmp_path: Path) -> None:
    bundle, source = mixed()
    weights = 4 * sum(p.numel() for p in source.module.parameters() if p.ndim > 1)
    for format, variant in written("fp16", job(bundle, source), tmp_path / "files").items():
        before = next(v.bytes for v in bundle.component().variants if (v.format, v.precision) == (format, "fp32"))
        assert before - variant.bytes > 0.4 * weights, format
        assert variant.parity is not None and variant.parity.snr_db > 60, format
    assert set(FORMATS) == {"onnx", "openvino", "tflite"}


def test_a_weight_beyond_its_range_stays_float(tmp_path: Path) -> None:
    bundle, source = convolutions()
    assert not any(layer.kept for layer in scheme("fp16", job(bundle, source)).layers())
    net = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)).eval()
    with torch.no_grad():
        net[0].weight[0, 0] = 1e5
    large = from_module(net, (np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32),))
    exported = export(large, tmp_path / "large", options=ExportOptions(formats=("onnx",), tolerance=1.0))
    kept = {layer.name: layer.kept for layer in scheme("fp16", job(exported, large)).layers()}
    assert "65,504" in kept["0"] and not kept["1"]
    assert scheme("fp16", job(exported, large)).write("onnx", tmp_path, ExportOptions())[0].parity is not None


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (onnx_, onnx_weights):
        monkeypatch.setattr(module, "EXTERNAL_FROM", 1_000)
    bundle, source = convolutions()
    place = tmp_path / "beside"
    place.mkdir()
    first = scheme("fp16", job(bundle, source)).write("onnx", place, ExportOptions())[0]
    assert [entry.path for entry in first.files] == ["model-fp16.onnx", "model-fp16.onnx.data"]
    again = completed(bundle, {"onnx": first}, place)
    unpacked = Bundle.open(again.pack(tmp_path / "beside.zip"))
    with edgekit.open_session(unpacked, "onnxruntime", precision="fp16") as session:
        assert session.placement().precision == "fp32"  # what a CPU computes in
