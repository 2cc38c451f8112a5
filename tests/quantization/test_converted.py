"""Static int8 of finished model files: every format by its own tool, one choice of layers, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgekit
import edgekit.quantization
from edgekit.bundle import Bundle
from edgekit.errors import ExportError, QuantizationError
from edgekit.exporters.formats.openvino_ import from_onnx
from edgekit.exporters.quiet import quiet
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Variant
from edgekit.opening import open_session
from edgekit.quantization.schemes import onnx_file
from edgekit.quantization.schemes.converted import ConvertedStatic
from edgekit.quantization.schemes.onnx_file import OnnxFile
from edgekit.quantization.schemes.openvino_file import OpenVinoFile
from edgekit.quantization.schemes.scheme import Job
from edgekit.quantization.schemes.tflite_file import TfliteFile
from edgekit.tensors import Array
from edgekit.verify import compare

Calibration = list[tuple[Array, ...]]


class Branched(nn.Module):
    """Convolutions, one of each kind, with a residual, a norm to fold, a transposed one and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.slope = nn.LeakyReLU(0.2)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        return self.head(self.up(x + self.slope(self.depth(x))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(20, 16), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(self.table(tokens))[0])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(rows)


def images(count: int = 8, side: int = 16) -> Calibration:
    random = np.random.default_rng(0)
    return [(random.standard_normal((1, 3, side, side)).astype(np.float32),) for _ in range(count)]


def saved(module: nn.Module, inputs: Calibration, path: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 2.0)
    example = tuple(torch.from_numpy(a) for a in inputs[0])
    with quiet():
        torch.onnx.export(module.eval(), example, path, **{"dynamo": True, "external_data": False, **options})
    return path


def job(path: Path, out: Path, inputs: Calibration, *keep: str, formats: tuple[str, ...] = ("onnx", "openvino")) -> Job:
    bundle = edgekit.export(str(path), out, options=ExportOptions(formats=formats), example_inputs=list(inputs[0]))
    return Job("model", bundle.component(), bundle.folder, calibration=inputs, keep_float=keep)


def written(job: Job, stage: Path, *formats: str) -> dict[str, Variant]:
    stage.mkdir()
    scheme = ConvertedStatic(job)
    return {f: scheme.write(f, stage, ExportOptions())[0] for f in formats}


def agreement(files: list[Path], inputs: Calibration) -> float:
    found = []
    for file in files:
        with open_session(file) as session:
            found.append([list(session.run({session.inputs[0].name: a}).values()) for (a,) in inputs])
    return min(compare(a, b)[1] for a, b in zip(*found, strict=True))


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(Branched(), images(), tmp_path_factory.mktemp("onnx") / "net.onnx")


def test_onnx_and_openvino_share_one_rounding(branched: Path, tmp_path: Path) -> None:
    inputs = images()
    made = written(job(branched, tmp_path / "net", inputs, "node_convolution"), tmp_path / "stage", "onnx", "openvino")
    for variant in made.values():
        assert variant.precision == "int8" and variant.parity is not None
        assert variant.parity.snr_db > 25 and variant.parity.reference == "onnxruntime"
    assert agreement([tmp_path / "stage" / v.path for v in made.values()], inputs) > 40
    model = onnx.load(tmp_path / "stage" / made["onnx"].path)
    assert {o.domain for o in model.opset_import} == {""} and not model.metadata_props
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 2 and all(np.abs(onnx.numpy_helper.to_array(w)).max() <= 127 for w in weights)


def test_what_only_openvino_has_is_int8_there_alone(branched: Path, tmp_path: Path) -> None:
    mine = job(branched, tmp_path / "net", images())
    made = written(mine, tmp_path / "stage", "onnx", "openvino")
    kept = {layer.name: layer.kept for layer in ConvertedStatic(mine).layers() if layer.kept}
    assert list(kept.values()) == ["ONNX Runtime has no int8 kernel for transposed convolutions"]
    weights = (tmp_path / "stage" / made["openvino"].files[1].path).stat().st_size
    assert weights < (tmp_path / "stage" / made["onnx"].path).stat().st_size
    graph = onnx.load(tmp_path / "stage" / made["onnx"].path).graph
    (transposed,) = (n for n in graph.node if n.op_type == "ConvTranspose")
    assert transposed.input[1] in {t.name for t in graph.initializer}  # in float


def test_layers_have_the_files_names_and_ranges_once_calibrated(branched: Path, tmp_path: Path) -> None:
    scheme = ConvertedStatic(job(branched, tmp_path / "net", images(), "*linear*"))
    (tmp_path / "stage").mkdir()
    own = {node.name for node in onnx.load(branched).graph.node}
    before = scheme.layers()
    assert {layer.name for layer in before} <= own and len(before) == 4
    assert before[-1].kept == "asked for" and before[0].low is None
    scheme.write("onnx", tmp_path / "stage", ExportOptions())
    first = scheme.layers()[0]
    assert first.low is not None and first.high is not None and first.low < 0 < first.high


def test_layers_are_ranked_by_the_noise_that_they_cause(branched: Path, tmp_path: Path) -> None:
    scheme = ConvertedStatic(job(branched, tmp_path / "net", images(), formats=("onnx",)))
    noise = scheme.ranked()
    assert len(noise) == 3 and list(noise.values()) == sorted(noise.values()) and min(noise.values()) > 20


def test_an_ir_alone_is_quantized_by_nncf(branched: Path, tmp_path: Path) -> None:
    from_onnx(branched, tmp_path, "net")
    mine = job(tmp_path / "net.xml", tmp_path / "bundle", images(), formats=("openvino",))
    made = written(mine, tmp_path / "stage", "openvino")["openvino"]
    assert made.parity is not None and made.parity.snr_db > 25
    layers = ConvertedStatic(mine).layers()
    assert len(layers) == 4 and not any(layer.kept for layer in layers)
    with open_session(tmp_path / "stage" / made.path) as session:
        assert any("i8" in unit or "u8" in unit for unit in session.placement().operators)
    kept = Job("model", mine.component, mine.files, calibration=mine.calibration, keep_float=(layers[0].name,))
    less = written(kept, tmp_path / "other", "openvino")["openvino"]
    assert less.files[1].bytes > made.files[1].bytes  # weights


def test_a_half_precision_ir_becomes_int8(branched: Path, tmp_path: Path) -> None:
    import openvino

    openvino.save_model(openvino.Core().read_model(branched), tmp_path / "half.xml", compress_to_fp16=True)
    mine = job(tmp_path / "half.xml", tmp_path / "bundle", images(), formats=("openvino",))
    assert mine.component.variants[0].precision == "fp16"
    assert written(mine, tmp_path / "stage", "openvino")["openvino"].parity.snr_db > 25  # type: ignore[union-attr]


def test_a_bundle_without_a_network_is_quantized_to_a_target(branched: Path, tmp_path: Path) -> None:
    """As a user has it: an .xml as `ovc` writes it, in float16, arrays to calibrate and to measure on."""
    import openvino

    openvino.save_model(openvino.Core().read_model(branched), tmp_path / "half.xml", compress_to_fp16=True)
    edgekit.export(str(tmp_path / "half.xml"), tmp_path / "half", example_inputs=[images()[0][0]])
    arrays = np.stack([a for (a,) in images(12)])
    np.save(tmp_path / "seen.npy", arrays[:8])
    np.save(tmp_path / "held.npy", arrays[8:])
    options = edgekit.quantization.QuantizeOptions(time_it=False)
    made = edgekit.quantize(
        tmp_path / "half",
        tmp_path / "seen.npy",
        "snr",
        validation=tmp_path / "held.npy",
        max_drop=20.0,
        options=options,
    )
    assert made.met and made.worst_drop is not None and 0 < made.worst_drop < 20
    assert {(v.format, v.precision) for v in made.bundle.component().variants} == {
        ("openvino", "fp16"),
        ("openvino", "int8"),
    }


def test_large_weights_stay_in_a_file_of_their_own(
    branched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save_model(
        onnx.load(branched), tmp_path / "big.onnx", save_as_external_data=True, location="w.bin", size_threshold=200
    )
    mine = job(tmp_path / "big.onnx", tmp_path / "bundle", images())
    assert len(mine.component.variants[0].files) == 2
    monkeypatch.setattr(onnx_file, "EXTERNAL_FROM", 1)
    made = written(mine, tmp_path / "stage", "onnx", "openvino")
    assert all(v.parity is not None and v.parity.snr_db > 25 for v in made.values())
    assert {f.path for f in made["onnx"].files} == {"model-int8.onnx", "model-int8.onnx.data"}


@pytest.mark.parametrize("module", [Recurrent, Attending])
def test_what_no_quantizer_knows_stays_float(module: Callable[[], nn.Module], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    inputs = [(random.integers(0, 20, (1, 9)),) for _ in range(8)]
    if module is Attending:
        inputs = [(random.standard_normal((1, 9, 32)).astype(np.float32),) for _ in range(8)]
    mine = job(saved(module(), inputs, tmp_path / "net.onnx"), tmp_path / "bundle", inputs)
    made = written(mine, tmp_path / "stage", "onnx", "openvino")
    assert all(v.parity is not None and v.parity.snr_db > 25 for v in made.values())
    kept = {layer.kept for layer in ConvertedStatic(mine).layers() if layer.kept}
    expected = {"a table of rows: nothing is multiplied", "onnxruntime.quantization knows no int8 GRU"}
    assert kept == (expected if module is Recurrent else set())
    graph = onnx.load(tmp_path / "stage" / made["onnx"].path).graph
    products = [n for n in graph.node if n.op_type == "MatMul"]  # of two activations, as in attention
    rounded = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert all(n.input[1] not in rounded or n.input[1].endswith("DequantizeLinear_Output") for n in products)


def test_an_old_file_without_names_is_brought_up(tmp_path: Path) -> None:
    inputs = images()
    path = saved(Branched(), inputs, tmp_path / "old.onnx", dynamo=False, opset_version=11, do_constant_folding=False)
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, path)
    mine = job(path, tmp_path / "bundle", inputs)
    made = written(mine, tmp_path / "stage", "onnx", "openvino")
    assert all(v.parity is not None and v.parity.snr_db > 25 for v in made.values())
    results = {name for node in model.graph.node for name in node.output}
    assert {layer.name for layer in ConvertedStatic(mine).layers()} <= results


def test_a_shipped_tflite_file_keeps_its_quality(tmp_path: Path, photo: np.ndarray) -> None:
    shipped = Bundle.open("sr-x2")
    small = next(v for v in shipped.component().variants if v.format == "tflite" and v.precision == "fp32")
    pixels = photo.astype(np.float32)[None] / 255.0
    side = small.sizes["height"]
    inputs = [(np.ascontiguousarray(pixels[:, y : y + side, x : x + side]),) for y in (0, 200) for x in (0, 100, 300)]
    mine = job(shipped.model_path(small), tmp_path / "bundle", inputs, formats=("tflite",))
    made = written(mine, tmp_path / "stage", "tflite")["tflite"]
    assert made.parity is not None and made.parity.snr_db > 35 and made.parity.reference == "litert"
    assert made.bytes < 0.4 * small.bytes
    scheme = ConvertedStatic(mine)
    noise = scheme.ranked()
    assert len(noise) == 6 and all(layer.low is not None for layer in scheme.layers())
    worst = next(iter(noise))
    kept = Job("model", mine.component, mine.files, calibration=inputs, keep_float=(worst,))
    better = written(kept, tmp_path / "other", "tflite")["tflite"]
    assert better.parity is not None and better.parity.snr_db > made.parity.snr_db and better.bytes > made.bytes


def test_a_tflite_file_of_an_old_converter_gets_a_signature(tmp_path: Path) -> None:
    from ai_edge_litert.tools import flatbuffer_utils

    shipped = Bundle.open("sr-x2")
    small = next(v for v in shipped.component().variants if v.format == "tflite" and v.precision == "fp32")
    model = flatbuffer_utils.read_model(str(shipped.model_path(small)))
    model.signatureDefs = None
    flatbuffer_utils.write_model(model, str(tmp_path / "old.tflite"))
    random = np.random.default_rng(0)
    inputs = [(random.random((1, 64, 64, 3)).astype(np.float32),) for _ in range(4)]
    mine = job(tmp_path / "old.tflite", tmp_path / "bundle", inputs, formats=("tflite",))
    made = written(mine, tmp_path / "stage", "tflite")["tflite"]
    assert made.parity is not None and made.parity.snr_db > 30


@pytest.mark.slow
def test_what_tflite_files_hold_of_a_module(tmp_path: Path) -> None:
    """A transposed convolution, a leaky ReLU that the quantizer does not know, a residual, from LiteRT's converter."""
    inputs = [(np.ascontiguousarray(a.transpose(0, 2, 3, 1)),) for (a,) in images()]
    options = ExportOptions(formats=("tflite",))
    bundle = edgekit.export(Branched().eval(), tmp_path / "net", [images()[0][0]], options=options)
    mine = job(bundle.model_path(bundle.component().variants[0]), tmp_path / "bundle", inputs, formats=("tflite",))
    made = written(mine, tmp_path / "stage", "tflite")["tflite"]
    assert made.parity is not None and made.parity.snr_db > 25
    assert len(ConvertedStatic(mine).layers()) == 4
    with open_session(tmp_path / "stage" / made.path) as session:
        session.run({session.inputs[0].name: inputs[0][0]})


def test_layers_of_two_files_are_known_by_their_weights(tmp_path: Path) -> None:
    shipped = Bundle.open("sr-x2")
    paths = [
        shipped.model_path(next(v for v in shipped.component().variants if (v.format, v.precision) == (f, "fp32")))
        for f in ("onnx", "tflite")
    ]
    onnx_file, tflite_file = OnnxFile(paths[0]), TfliteFile(paths[1])
    names = [[layer.name for layer in file.layers()] for file in (onnx_file, tflite_file)]
    assert [tflite_file.same([name], onnx_file) for name in names[0]] == [[name] for name in names[1]]
    from_onnx(paths[0], tmp_path, "ir")
    ir = OpenVinoFile(tmp_path / "ir.xml")
    assert [len(ir.same([name], tflite_file)) for name in names[1]] == [1] * 6


def test_one_list_of_float_layers_serves_every_file_of_a_bundle(tmp_path: Path) -> None:
    """Of an export without the network: the names are those of the .onnx file."""
    shipped = Bundle.open("sr-x2")
    wanted = {("onnx", "fp32"): {}, ("tflite", "fp32"): {"height": 64, "width": 64}}
    variants = tuple(v for v in shipped.component().variants if wanted.get((v.format, v.precision)) == v.sizes)
    component = msgspec.structs.replace(shipped.component(), variants=variants)
    random = np.random.default_rng(0)
    inputs = [(random.random((1, 3, 64, 64)).astype(np.float32),) for _ in range(4)]
    sizes = []
    for keep in ((), ("node_conv2d_3",)):
        mine = Job("model", component, shipped.folder, calibration=inputs, keep_float=keep)
        made = written(mine, tmp_path / str(len(keep)), "onnx", "tflite", "openvino")
        sizes.append([made["onnx"].bytes, made["tflite"].bytes, made["openvino"].bytes])
    assert all(more - less > 20_000 for less, more in zip(*sizes, strict=True))  # 3 of 4 bytes of 9,216 weights


def test_a_tflite_file_of_another_format_is_refused(branched: Path, tmp_path: Path) -> None:
    scheme = ConvertedStatic(job(branched, tmp_path / "net", images()))
    with pytest.raises(ExportError, match=r"tflite: 'model' has no tflite file in float, and its onnx, openvino file"):
        scheme.write("tflite", tmp_path, ExportOptions())


@pytest.mark.parametrize(("format", "found"), [("onnx", "DequantizeLinear"), ("tflite", "1 × QUANTIZE")])
def test_a_quantized_file_is_refused_by_what_it_holds(format: str, found: str, tmp_path: Path) -> None:
    shipped = Bundle.open("sr-x2")
    int8 = next(v for v in shipped.component().variants if v.format == format and v.precision == "int8")
    inputs = [(np.zeros((1, 64, 64, 3) if format == "tflite" else (1, 3, 64, 64), np.float32),)]
    mine = job(shipped.model_path(int8), tmp_path / "bundle", inputs, formats=(format,))
    with pytest.raises(QuantizationError, match=rf"quantized already \(int8: .*{found}"):
        ConvertedStatic(mine).layers()


def test_patterns_that_match_nothing_and_plans_that_leave_nothing(branched: Path, tmp_path: Path) -> None:
    mine = job(branched, tmp_path / "net", images())
    stray = Job("model", mine.component, mine.files, calibration=mine.calibration, keep_float=("tail*",))
    with pytest.raises(QuantizationError, match=r"keep_float 'tail\*' matches no layer: the layers are node_"):
        ConvertedStatic(stray).write("onnx", tmp_path, ExportOptions())
    every = Job("model", mine.component, mine.files, calibration=mine.calibration, keep_float=("*",))
    with pytest.raises(
        ExportError, match="nothing of 'model' is left to quantize: node_.*: asked for; node_.*: ONNX Runtime has no"
    ):
        ConvertedStatic(every).write("onnx", tmp_path, ExportOptions())
    with pytest.raises(QuantizationError, match="no calibration inputs"):
        ConvertedStatic(Job("model", mine.component, mine.files))


def test_a_tool_that_fails_is_told_in_one_sentence(branched: Path, tmp_path: Path) -> None:
    file = OnnxFile(branched)
    with pytest.raises(QuantizationError, match=r"onnxruntime.quantization cannot make int8 of 'net.onnx': "):
        file.quantize([(np.zeros((1, 4, 16, 16), np.float32),)], (), tmp_path, "net")


def test_an_enlargement_of_free_sizes_is_prepared(tmp_path: Path) -> None:
    """onnxruntime's inference of shapes by name gives such a graph up; without it, the file is prepared all the same."""

    class Enlarging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 8, 3, padding=1)
            self.tail = nn.Conv2d(8, 12, 3, padding=1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            smooth = nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear")
            return smooth + nn.functional.pixel_shuffle(self.tail(torch.relu(self.head(image))), 2)

    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    free = {"image": {2: "height", 3: "width"}}
    options = ExportOptions(formats=("onnx",))
    bundle = edgekit.export(Enlarging().eval(), tmp_path / "up", [image], dynamic=free, options=options)
    untimed = edgekit.quantization.QuantizeOptions(time_it=False)
    result = edgekit.quantize(bundle, [(image,)] * 4, options=untimed)
    assert [v.precision for v in result.bundle.component().variants] == ["fp32", "int8"]
    assert any("--source" in note for note in result.notes)
