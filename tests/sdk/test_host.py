"""edgekit export from the shell: what is told, what is shown, and what a failing format leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import edgekit
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.errors import InputError
from edgekit.images import write_image

NETS = """
import torch
from torch import nn

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def classifier_of_others():
    net = classifier()
    nn.init.normal_(net[4].weight)
    return net

def doubler():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))

def autoencoder():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    decoder = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    return {"encoder": encoder, "decoder": decoder}

class Spectrum(nn.Module):
    def forward(self, image):
        return torch.fft.fft2(image).abs()

def spectrum():
    return Spectrum()
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return str(tmp_path / "nets.py")


def export(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["export", *(str(a) for a in arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def test_a_classifier_with_its_labels_and_normalisation(nets: str, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "photo.png", photo)
    (tmp_path / "names.txt").write_text("ape\nbee\ncat\n")
    shown = export(
        f"{nets}:classifier", "--input", "image=1x3x32x32", "--example", "image=photo.png", "--format", "onnx",
        "--task", "classify", "--setting", "labels=@names.txt", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2",
        "--licence", "CC0-1.0",
    )  # fmt: skip
    assert "onnx fp32" in shown.stdout and "beside PyTorch in fp32" in shown.stdout
    bundle = Bundle.open(tmp_path / "classifier")  # named after the factory
    assert bundle.manifest.licence == "CC0-1.0" and bundle.manifest.task is not None
    assert bundle.manifest.task.settings == {"height": 32, "width": 32, "labels": ["ape", "bee", "cat"]}
    with edgekit.load(bundle, "onnxruntime") as classify:
        assert classify(photo)[0].name in ("ape", "bee", "cat")
        given = np.full((1, 3, 32, 32), 0.5, np.float32)
        normalised = (given - np.reshape([0.5, 0.4, 0.3], (1, 3, 1, 1)).astype(np.float32)) / np.float32(0.2)
        with edgekit.open_session(bundle, "onnxruntime") as session:
            found = session.run({"image": given})["output"]
    export(f"{nets}:classifier", "--input", "image=1x3x32x32", "--format", "onnx", "-o", "plain")
    with edgekit.open_session("plain", "onnxruntime") as session:
        np.testing.assert_allclose(session.run({"image": normalised})["output"], found, atol=1e-5)


def test_an_upscaler_needs_no_settings(nets: str, photo: np.ndarray) -> None:
    told = export(
        f"{nets}:doubler", "--input", "image=1x3x48x48", "--dynamic", "image:2=height,3=width", "--format", "onnx",
        "--task", "upscale", "--range", "output=0,1", "-o", "mine", "--json",
    )  # fmt: skip
    assert json.loads(told.stdout)["task"] == {"name": "upscale", "settings": {"scale": 2, "halo": 1, "step": 1}}
    with edgekit.load("mine") as upscale:
        assert upscale(photo[:50, :70]).shape == (100, 140, 3)


def test_several_components_from_one_factory(nets: str, photo: np.ndarray) -> None:
    shapes = ("--input", "encoder/image=1x1x8x8", "--input", "decoder/code=1x4")
    export(f"{nets}:autoencoder", *shapes, "--format", "onnx", "--task", "autoencode", "-o", "mine")
    with edgekit.load("mine") as autoencode:
        assert autoencode.encode(photo).shape == (4,) and autoencode.reconstruct(photo).shape == (8, 8, 3)
        assert len(autoencode.sample(3, seed=1)) == 3
        with pytest.raises(InputError, match="knows no classes"):
            autoencode.sample(1, labels=0)
    told = export(f"{nets}:autoencoder", "--input", "encoder/image=1x1x8x8", "--format", "onnx", code=2)
    assert "got no inputs of component 'decoder'" in told.stderr


def test_what_failed_is_said_once_and_the_rest_is_kept(nets: str) -> None:
    result = export(f"{nets}:spectrum", "--input", "image=1x3x16x16", "-o", "mine", code=1)
    made = {v.format for v in Bundle.open("mine").component().variants}
    assert "onnx" in made and len(made) < 3
    assert "onnx fp32" in result.stdout and result.stderr.startswith("error: ")
    assert f"(written to '{Path('mine').absolute()}': {', '.join(sorted(made))})" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--setting", "scale=2"], "without a task: name it with --task"),
        (["--task", "paint"], "no task 'paint': expected one of"),
        (["--task", "upscale", "--setting", "speed=3"], "task 'upscale' are wrong"),
        (["--layout", "picture=NCHW"], "got 'picture', which no component has"),
        (["--mean", "0.5,0.5,0.5"], "give both, a number a channel"),
        (["--input", "other=1x3x8x8"], "got 2 example inputs for Sequential"),
        (["--dynamic", "picture:2=height"], "name each input"),
        (["-o", "."], "is not a bundle and would be replaced"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_refused(nets: str, arguments: list[str], message: str) -> None:
    told = [f"{nets}:doubler", "--input", "image=1x3x16x16", "--format", "onnx", *arguments]
    result = export(*told, code=2)
    assert message in result.stderr and result.stdout == ""
    assert not Path("doubler").exists()


@pytest.mark.parametrize("name", ["nothing.pth", "nothing.pt2", "nothing.onnx", "a/nothing.safetensors"])
def test_a_file_that_is_not_there_is_named(nets: str, tmp_path: Path, name: str) -> None:
    message = f"there is no file '{name}': expected the path of a model"
    assert message in export(name, code=2).stderr
    with pytest.raises(InputError, match=message):
        edgekit.export(name, tmp_path / "nothing")


def quantize(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["quantize", "--no-timing", *(str(a) for a in arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.mark.slow
def test_what_is_quantized_is_what_was_exported(nets: str, tmp_path: Path, photo: np.ndarray) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_image(tmp_path / "photos" / f"{i}.png", np.ascontiguousarray(photo[i * 100 : i * 100 + 90, :90]))
    shape = ("--input", "image=1x3x32x32", "--format", "onnx")
    export(
        f"{nets}:classifier", *shape, "--task", "classify", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.2,0.2", "-o", "c"
    )
    quantize("c", "--calibration", "photos", "--source", f"{nets}:classifier")
    verified = CliRunner().invoke(main, ["verify", "c"])
    assert verified.exit_code == 0, verified.output  # the normalisation is in the int8 file too
    with (
        edgekit.load("c", "onnxruntime", precision="fp32") as one,
        edgekit.load("c", "onnxruntime", precision="int8") as two,
    ):
        np.testing.assert_allclose(one.logits(photo), two.logits(photo), atol=0.1)
    other = quantize("c", "--calibration", "photos", "--source", f"{nets}:classifier_of_others", code=2)
    assert "does not answer as c does" in other.stderr and "--weights" in other.stderr
    quantize("c", "--calibration", "photos")  # without the network: from the ONNX file, by its own tools
    converted = quantize("c", "--calibration", "photos", "--source", "c/model-fp32.onnx", code=2)
    assert "which is converted already" in converted.stderr


@pytest.mark.slow
def test_components_are_quantized_from_one_factory(nets: str, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    shapes = ("--input", "encoder/image=1x1x8x8", "--input", "decoder/code=1x4")
    export(f"{nets}:autoencoder", *shapes, "--format", "onnx", "--task", "autoencode", "-o", "mine")
    quantize("mine", "--calibration", "a.png", "--source", f"{nets}:autoencoder")
    with edgekit.load("mine", "onnxruntime", precision="int8") as autoencode:
        assert autoencode.reconstruct(photo).shape == (8, 8, 3)
