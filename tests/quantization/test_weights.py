"""int8-weights and int4-weights: one rounding in every format, with a PyTorch network and without one."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import ml_dtypes
import msgspec
import numpy as np
import pytest
import torch
from quantization.compressed_doubles import (
    FORMATS,
    LAYERS,
    completed,
    convolutions,
    job,
    mixed,
    scheme,
    written,
)

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import QuantizationError
from edgekit.exporters.sources import from_module
from edgekit.exporters.writing import ExportOptions
from edgekit.quantization.agreement import agreements
from edgekit.quantization.schemes import floating
from edgekit.quantization.schemes.rounding import GROUPS, STORED, rounded
from edgekit.quantization.schemes.scheme import Job
from edgekit.quantization.schemes.weight_files import Mark

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert"}


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("int8-weights")
    return completed(mixed()[0], written("int8-weights", job(*mixed()), place), place)


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("int4-weights")
    return completed(mixed()[0], written("int4-weights", job(*mixed()), place), place)


def weights_of(bundle: Bundle, format: str, precision: str) -> int:
    return sum(v.bytes for v in bundle.component().variants if (v.format, v.precision) == (format, precision))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_int8_weights_are_a_quarter_and_compute_nearly_the_same(int8: Bundle, format: str) -> None:
    variant = next(v for v in int8.component().variants if (v.format, v.precision) == (format, "int8-weights"))
    assert variant.parity is not None and variant.parity.snr_db > 35 and variant.parity.reference == "torch"
    saved = weights_of(int8, format, "fp32") - variant.bytes
    assert saved > 0.6 * 4 * sum(p.numel() for p in mixed()[1].module.parameters() if p.ndim > 1)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("int8-weights", 100.0), ("int4-weights", 20.0)])
def test_engines_agree(int8: Bundle, int4: Bundle, precision: str, least: float) -> None:
    bundle = {"int8-weights": int8, "int4-weights": int4}[precision]
    inputs = [mixed()[1].probes[0]]
    pairs = {a.engines: a.snr_db for a in agreements(bundle, "model", precision, inputs)}  # type: ignore[arg-type]
    assert len(pairs) == 3 and min(pairs.values()) > least
    assert pairs[("onnxruntime", "openvino")] > 40


@pytest.mark.slow
def test_layers_are_named_as_in_the_source_and_in_the_order_they_run(int8: Bundle) -> None:
    with_source = scheme("int8-weights", job(*mixed())).layers()
    assert [layer.name for layer in with_source] == LAYERS and not any(layer.kept for layer in with_source)
    without = scheme("int8-weights", job(mixed()[0], None)).layers()
    assert [layer.name for layer in without] == [name for name in LAYERS if name != "head"]


@pytest.mark.slow
@pytest.mark.parametrize("source", [True, False])
def test_a_layer_kept_float_is_float_in_every_format(int8: Bundle, tmp_path: Path, source: bool) -> None:
    bundle, own = mixed()
    asked = job(bundle, own if source else None, ("u*",))
    made = written("int8-weights", asked, tmp_path / "kept")
    gain = 3 * 64 * 128
    for format, variant in made.items():
        larger = variant.bytes - weights_of(int8, format, "int8-weights")
        assert 0.9 * gain < larger < 1.1 * gain, format
        assert variant.parity is not None and variant.parity.reference == ("torch" if source else f"fp32 {format}")
    assert [layer.name for layer in scheme("int8-weights", asked).layers() if layer.kept] == ["up"]


@pytest.mark.slow
def test_what_shares_a_weight_stays_float_under_either_name() -> None:
    bundle, source = mixed()
    for pattern in ("table", "head"):
        layers = scheme("int8-weights", job(bundle, source, (pattern,))).layers()
        assert {layer.name for layer in layers if layer.kept == "asked for"} == {"table", "head"}


@pytest.mark.slow
def test_a_corrected_network_is_the_one_that_is_rounded(tmp_path: Path) -> None:
    bundle, source = mixed()
    net = copy.deepcopy(source.module)
    with torch.no_grad():
        net.odd.weight.mul_(0.9)  # type: ignore[union-attr]
    asked = job(bundle, source, corrected=from_module(net, source.probes[0]), keep_float=("conv",))
    tmp_path.joinpath("files").mkdir()
    variant = scheme("int8-weights", asked).write("openvino", tmp_path / "files", ExportOptions())[0]
    assert variant.parity is not None and variant.parity.snr_db < 25  # compared with what was not corrected


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_int4_is_in_groups_but_where_rows_do_not_divide_or_the_answer_is_made(int4: Bundle, format: str) -> None:
    variant = next(v for v in int4.component().variants if (v.format, v.precision) == (format, "int4-weights"))
    assert variant.parity is not None and variant.parity.snr_db > 15
    with edgekit.open_session(int4.folder, ENGINES[format], precision="int4-weights") as session:
        assert session.placement().precision == "int4-weights"
    made = scheme("int4-weights", job(*mixed()))
    forms = {one.named.names[0]: one.form for one in made._decided}  # type: ignore[attr-defined]
    assert [name for name, form in forms.items() if form == GROUPS] == ["up", "down"]
    assert forms["conv"] == STORED


def test_int4_wants_products() -> None:
    with pytest.raises(QuantizationError, match="use int8-weights"):
        scheme("int4-weights", job(*convolutions())).write("onnx", Path(), ExportOptions())


def test_int8_weights_hold_convolutions_too(tmp_path: Path) -> None:
    bundle, source = convolutions()
    for format in ("onnx", "openvino"):
        variant = scheme("int8-weights", job(bundle, source)).write(format, tmp_path, ExportOptions())[0]
        assert variant.parity is not None and variant.parity.snr_db > 35


def test_a_format_without_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="no int4-weights for torch: onnx, openvino, tflite have it"):
        scheme("int4-weights", job(*convolutions())).write("torch", tmp_path, ExportOptions())


def test_a_pattern_of_no_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"'heads\*' matches no layer: the layers are body.0, body.2"):
        scheme("int8-weights", job(*convolutions(), keep_float=("heads*",))).write("onnx", tmp_path, ExportOptions())


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_quantized_file_is_refused(tmp_path: Path, format: str) -> None:
    bundle, _ = convolutions()
    made = scheme("int8-weights", job(bundle, None)).write(format, tmp_path, ExportOptions())[0]
    twice = msgspec.structs.replace(made, precision="fp32")
    component = msgspec.structs.replace(bundle.component(), variants=(twice,))
    with pytest.raises(QuantizationError, match="is quantized already"):
        scheme("int8-weights", Job("model", component, tmp_path)).write(format, tmp_path, ExportOptions())


def test_rounding_is_symmetric_and_settles_at_once() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((6, 96)).astype(np.float32)
    rows[2] = 0
    for form, limit in ((STORED, 127), (GROUPS, 7)):
        first = rounded(rows, form)
        assert first.values.dtype == np.int8 and np.abs(first.values).max() == limit and first.scales.min() > 0
        groups = first.scales.shape[1]
        whole = (first.values.reshape(6, groups, -1) * first.scales[:, :, None]).reshape(rows.shape)
        assert np.abs(whole - rows).max() <= 0.51 * first.scales.max()
        assert np.array_equal(rounded(whole.astype(np.float32), form).values, first.values)
        assert not first.values[2].any()
    scales = rounded(rows, GROUPS).scales
    assert np.array_equal(scales, scales.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_a_mark_tells_values_whatever_their_order() -> None:
    array = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    assert Mark.of(array) == Mark.of(array.T) != Mark.of(array + np.float32(1e-6))


def test_files_exported_for_a_correction_go_with_its_network(tmp_path: Path) -> None:
    bundle, source = convolutions()
    net = copy.deepcopy(source.module)
    changed = from_module(net, source.probes[0])
    made = [scheme(p, job(bundle, source, corrected=changed)) for p in ("int8-weights", "fp16")]
    for one in made:
        one.write("openvino", tmp_path, ExportOptions())
    [folder] = [Path(e._folder.name) for module, e in floating._EXPORTS.items() if module is changed.module]
    assert [file.name for file in folder.iterdir()] == ["model-fp32.onnx"]
    del made, one, changed, net
    gc.collect()
    assert not folder.exists()
