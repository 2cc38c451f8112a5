"""Export: every format from a module, proven against PyTorch; errors that name format and cause; nothing leaks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import edgekit
from edgekit.bundle import Bundle, file_entry
from edgekit.errors import ExportError, InputError, ManifestError, ParityError, UnsafePath
from edgekit.exporters import ExportOptions, completion, from_module
from edgekit.exporters.formats.tflite import WORKER
from edgekit.exporters.formats.worker import Worker
from edgekit.exporters.sources import from_factory
from edgekit.manifest import Manifest, Task, Variant
from edgekit.opening import open_session
from edgekit.verify import compare, verify

DYNAMIC = {"image": {2: "height", 3: "width"}}
BUCKET = {"height": 16, "width": 24}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(torch.relu(self.conv(image)), 2)


class Noisy(Small):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) + torch.rand_like(image).mean()


class TwoToTwo(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + b, a * b


def image(height: int = 16, width: int = 24) -> np.ndarray:
    return np.random.default_rng(1).random((1, 3, height, width), np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    options = ExportOptions(buckets=[BUCKET], task=Task("upscale", {"scale": 2, "halo": 1}), summary="small")
    return edgekit.export(Small(), tmp_path_factory.mktemp("e") / "small", [image()], dynamic=DYNAMIC, options=options)


def test_writes_every_format_with_its_parity(bundle: Bundle) -> None:
    variants = bundle.component().variants
    assert [v.format for v in variants] == ["onnx", "openvino", "tflite"]
    for variant in variants:
        assert variant.parity is not None and variant.parity.inputs == 3
        assert variant.parity.max_error < 1e-5 and variant.parity.snr_db > 100
        assert 0 < variant.parity.relative <= variant.parity.max_error * 4  # of values up to 0.5 or so
    assert variants[2].sizes == BUCKET and variants[2].inputs[0].layout == "NHWC"


def test_names_free_dimensions(bundle: Bundle) -> None:
    component = bundle.component()
    assert component.inputs[0].shape == (1, 3, "height", "width")
    assert component.outputs[0].shape == (1, 3, "2*height", "2*width")
    with open_session(bundle.folder / "model-fp32.onnx", "onnxruntime") as session:
        assert session.inputs[0].shape == (1, 3, "height", "width")
        assert session.run({"image": image(9, 31)})["output"].shape == (1, 3, 18, 62)


def test_answers_right_on_every_engine(bundle: Bundle) -> None:
    verdicts = list(verify(bundle))
    assert len(verdicts) == 3 and all(v.ok for v in verdicts)


def test_loads_as_its_task(bundle: Bundle) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert edgekit.load(bundle, "onnxruntime")(picture).shape == (40, 60, 3)


def test_windows_that_are_all_too_long_are_filled_up(tmp_path: Path) -> None:
    """Two fixed sizes, neither of which lies inside a picture that is as large as the shorter sides of both."""
    buckets = [{"height": 16, "width": 24}, {"height": 24, "width": 16}]
    options = ExportOptions(formats=["onnx", "tflite"], buckets=buckets, task=Task("upscale", {"scale": 2, "halo": 1}))
    bundle = edgekit.export(Small(), tmp_path / "b", [image()], dynamic=DYNAMIC, options=options)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    with edgekit.load(bundle, "litert") as fixed, edgekit.load(bundle, "onnxruntime") as free:
        assert fixed.tile_count(picture) == 1
        near = np.abs(fixed(picture)[:30, :30].astype(int) - free(picture)[:30, :30]).max()
    assert near <= 1


def test_holds_no_path_of_the_exporting_machine(bundle: Bundle) -> None:
    for path in bundle.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(Path.cwd()).encode() not in data and b"site-packages" not in data and b".py" not in data, (
                path.name
            )


def test_the_converter_runs_in_a_process_of_its_own() -> None:
    """Nothing of litert-torch and jax in this one, after exports and even after a failed one."""
    code = (
        "import sys, tempfile, numpy, torch, edgekit\n"
        "edgekit.export(torch.nn.Conv2d(3, 4, 1), tempfile.mkdtemp() + '/b', [numpy.ones((1, 3, 8, 8), 'float32')])\n"
        "print([name for name in ('litert_torch', 'jax', 'litert_converter') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n" and done.stderr == ""


def test_a_converter_that_takes_too_long_loses_its_format_alone(tmp_path: Path) -> None:
    options = ExportOptions(formats=["tflite", "onnx"], timeout_s=0.01)
    with pytest.raises(ExportError, match=r"tflite.*the TFLite converter took longer than 0\.01 s.*timeout_s"):
        edgekit.export(Small(), tmp_path / "b", [image()], options=options)
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["onnx"]


def test_a_converter_that_crashes_loses_its_format_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgekit_test_crash.py").write_text("import os, signal\ndef fall(**_): os.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    falling = Worker("edgekit_test_crash:fall", "the TFLite converter")
    monkeypatch.setattr("edgekit.exporters.formats.tflite.WORKER", falling)
    options = ExportOptions(formats=["tflite", "onnx"])
    with pytest.raises(ExportError, match=r"tflite: .*crashed \(SIGKILL: out of memory\?\)"):
        edgekit.export(nn.Conv2d(3, 4, 1), tmp_path / "b", [image()], options=options)
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["onnx"]


def test_large_graphs_are_converted_sparingly_and_give_the_child_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.exporters.formats.tflite.LARGE", 0)
    bundle = edgekit.export(Small(), tmp_path / "b", [image()], options=ExportOptions(formats=["tflite"]))
    parity = bundle.component().variants[0].parity
    assert parity is not None and parity.max_error < 1e-5 and WORKER.pid is None


def test_replaces_a_bundle_in_one_step(tmp_path: Path) -> None:
    for channels in (1, 2):
        net = nn.Conv2d(3, channels, 1)
        edgekit.export(net, tmp_path / "b", [image()], options=ExportOptions(formats=["onnx"]))
        assert Bundle.open(tmp_path / "b").component().outputs[0].shape == (1, channels, 16, 24)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_one_format_failing_does_not_lose_the_others(tmp_path: Path) -> None:
    options = ExportOptions(formats=["onnx", "tflite"])  # tflite needs a bucket, as height and width are free
    with pytest.raises(ExportError, match=r"(?s)tflite.*--bucket.*written to.*onnx"):
        edgekit.export(Small(), tmp_path / "b", [image()], dynamic=DYNAMIC, options=options)
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["onnx"]


def test_a_module_that_answers_otherwise_each_time_fails_parity(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=r"onnx fp32.*output.*eval\(\)"):
        edgekit.export(Noisy(), tmp_path / "b", [image()], options=ExportOptions(formats=["onnx"]))
    assert list(tmp_path.iterdir()) == []


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    arrays = [np.random.default_rng(i).random((2, 5), np.float32) for i in range(2)]
    bundle = edgekit.export(TwoToTwo(), tmp_path / "b", arrays)
    assert [s.name for s in bundle.component().inputs] == ["a", "b"]
    for runtime in ("onnxruntime", "openvino", "litert"):
        with open_session(bundle, runtime) as session:
            outputs = session.run({"a": arrays[0], "b": arrays[1]})
        np.testing.assert_allclose(outputs["output0"], arrays[0] + arrays[1], atol=1e-6)
        np.testing.assert_allclose(outputs["output1"], arrays[0] * arrays[1], atol=1e-6)


def test_refuses_inputs_that_do_not_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Small does not run on inputs of \(1, 7, 4, 4\)"):
        edgekit.export(Small(), tmp_path / "b", [np.zeros((1, 7, 4, 4), np.float32)])
    with pytest.raises(InputError, match="no example inputs"):
        from_module(Small(), [])


def test_comparison_knows_equal_wrong_and_not_finite() -> None:
    one = np.ones(4, np.float32)
    assert compare([one], [one]) == (0.0, 999.0)
    worst, snr_db = compare([one * np.float32(1.1)], [one])
    assert worst == pytest.approx(0.1, rel=1e-4) and snr_db == pytest.approx(20, abs=0.01)
    worst, snr_db = compare([one * np.nan], [one])
    assert worst == np.inf and snr_db < 0


class Odd(nn.Module):
    """Infinity where a mask is, labels, and a scale so small that the tolerance is much of it."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        masked = image.masked_fill(image > 0.5, float("-inf"))
        return {"masked": masked, "labels": image.argmax(1), "small": image.softmax(1).mul(1e-6)}


def test_what_is_exported_is_verified(tmp_path: Path) -> None:
    options = ExportOptions(formats=["onnx", "openvino"])
    verdicts = list(verify(edgekit.export(Odd(), tmp_path / "b", [image()], options=options)))
    assert [v.ok for v in verdicts] == [True, True], verdicts


def test_completion_reads_no_file_outside_the_bundle(tmp_path: Path) -> None:
    """OpenVINO would read whatever an .onnx file names for its weights."""
    (tmp_path / "secret.bin").write_bytes(bytes(4))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret.bin")
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [weight])
    onnx_file = helper.make_model(graph).SerializeToString()
    for content, error, told in (
        (onnx_file, UnsafePath, r"secret\.bin"),
        (b"no model", ExportError, r"openvino: 'm\.onnx' does not convert: "),
    ):
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / "m.onnx").write_bytes(content)
        variant = Variant("onnx", "int8", (file_entry(tmp_path / "b", "m.onnx"),))
        with pytest.raises(error, match=told):
            completion._to_openvino(
                Bundle(tmp_path / "b", Manifest(name="b", components={})), variant, tmp_path, "made"
            )


def test_a_bad_name_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="'bad name' cannot name a bundle"):
        edgekit.export(Small(), tmp_path / "bad name", [image()])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_converter_does_not_lose_the_other_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(ExportError, match=r"(?s)tflite.*edgekit\[export\].*written to"):
        edgekit.export(Small(), tmp_path / "b", [image()], options=ExportOptions(formats=["onnx", "tflite"]))
    assert [v.format for v in Bundle.open(tmp_path / "b").component().variants] == ["onnx"]


def test_a_module_that_works_in_place_spoils_no_input(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2.0)

    array = image()
    bundle = edgekit.export(InPlace(), tmp_path / "b", [array], options=ExportOptions(formats=["onnx"]))
    np.testing.assert_array_equal(array, image())
    stored = image().astype(np.float16).astype(np.float32)  # golden inputs are rounded to what float16 holds
    np.testing.assert_array_equal(bundle.golden()["image"], stored)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_factory_with_weights(tmp_path: Path, ending: str) -> None:
    from safetensors.torch import save_file

    (tmp_path / "net.py").write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    state = nn.Conv2d(3, 4, 1).state_dict()
    weights = tmp_path / f"w{ending}"
    save_file(state, weights) if ending == ".safetensors" else torch.save(state, weights)
    module = from_factory(f"{tmp_path / 'net.py'}:build", weights)
    assert torch.equal(module.state_dict()["weight"], state["weight"])


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    (tmp_path / "net.py").write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 4, 1)\n")
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"w\.pth"):
        from_factory(f"{tmp_path / 'net.py'}:build", tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reference", ["nowhere:build", "json:nothing", "json", "missing.py:build", "json:dumps"])
def test_a_factory_that_is_none_is_named(reference: str) -> None:
    with pytest.raises((InputError, TypeError)):
        from_factory(reference)


def test_command_line_exports_and_quantizes(tmp_path: Path, photo: np.ndarray) -> None:
    from click.testing import CliRunner

    from edgekit.cli import main
    from edgekit.images import write_image

    code = "import torch\nfrom edgekit.zoo.super_resolution import SuperResolution\n"
    (tmp_path / "net.py").write_text(
        f"{code}def build():\n    torch.manual_seed(0)\n    return SuperResolution(2, 16, 1)\n"
    )
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_image(tmp_path / "photos" / f"{i}.png", np.ascontiguousarray(photo[i * 100 : i * 100 + 96, :96]))
    source, out = f"{tmp_path / 'net.py'}:build", tmp_path / "mine"
    exported = CliRunner().invoke(
        main,
        ["export", source, "-o", str(out), "--input", "image=1x3xheightxwidth", "--bucket", "height=32,width=48",
         "--task", "upscale", "--setting", "scale=2", "--setting", "halo=3", "--json"],
    )  # fmt: skip
    assert exported.exit_code == 0, exported.output
    assert json.loads(exported.stdout)["name"] == "mine"
    of_files = CliRunner().invoke(
        main, ["quantize", str(out), "--no-timing", "--calibration", str(tmp_path / "photos")]
    )
    assert of_files.exit_code == 0 and "--source" in of_files.output, of_files.output
    quantized = CliRunner().invoke(
        main, ["quantize", str(out), "--calibration", str(tmp_path / "photos"), "--source", source,
               "--validation", str(tmp_path / "photos"), "--max-drop", "3", "--no-timing"],
    )  # fmt: skip
    assert quantized.exit_code == 0, quantized.output
    assert {v.precision for v in Bundle.open(out).component().variants} == {"fp32", "int8"}
    assert "met" in quantized.output
