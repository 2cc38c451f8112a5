"""The VAE family: the Gaussians fit, training resumes to the same weights, and the shipped bundle keeps its bars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from zoo.digit_doubles import broken_off, write_digits

import edgekit
from edgekit.bundle import Bundle
from edgekit.quantization.metrics.generated import AutoencoderPsnr, Recognised, auroc
from edgekit.zoo import vae
from edgekit.zoo.classification import load_split
from edgekit.zoo.digits import load_digits
from edgekit.zoo.vae import Autoencoder, Recipe, encoded, gaussian, rounded, train

TINY = Recipe(latent=3, channels=4, steps=5, batch=8)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def test_shapes_and_range() -> None:
    net = Autoencoder(3, 4)
    again, mean, log_variance = net(torch.rand(2, 1, 32, 32), torch.randn(2, 3))
    assert again.shape == (2, 1, 32, 32) and mean.shape == log_variance.shape == (2, 3)
    assert float(again.detach().min()) >= 0 and float(again.detach().max()) <= 1


def test_resumed_training_equals_uninterrupted(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(digits, tmp_path / "whole", TINY)
    broken_off(monkeypatch, vae, lambda: train(digits, tmp_path / "runs", TINY), step=3)
    resumed = train(digits, tmp_path / "runs", TINY)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_codes_and_their_error(digits: Path) -> None:
    torch.manual_seed(0)
    net, images = Autoencoder(3, 4).eval(), load_digits(digits, "train")[0]
    codes, noise = encoded(net, images)
    batch = torch.tensor(images[5:6]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        np.testing.assert_allclose(codes[5], net.encoder(batch)[0][0], atol=1e-5)
    assert codes.shape == (60, 3) and 0 < noise < 1


def test_the_gaussian_fits() -> None:
    random = np.random.default_rng(0)
    factor, mean = np.array([[1.0, 0, 0], [0.5, 2.0, 0], [-1.0, 0.3, 0.7]]), np.array([1.0, -2.0, 3.0])
    fitted = gaussian((mean + random.standard_normal((200_000, 3)) @ factor.T).astype(np.float32))
    np.testing.assert_allclose(fitted["mean"], mean, atol=0.02)
    np.testing.assert_allclose(fitted["cholesky"], factor[np.tril_indices(3)], atol=0.02)
    assert rounded(0.123456) == 0.1235 and rounded(1e-7) == 1e-7


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_the_shipped_autoencoder_keeps_its_bars(data: Path, runtime: str) -> None:
    """Test digits come back with 24 dB and more, and int8 loses half a dB at most, in every engine."""
    metric, bundle = AutoencoderPsnr(load_digits(data, "test")[0][::25], "test"), Bundle.open("digits-vae")
    exact = "onnxruntime" if runtime == "litert" else runtime  # no .tflite file ships in fp32
    fp32, int8 = metric.value(bundle, exact, "fp32"), metric.value(bundle, runtime, "int8")
    assert fp32 >= 24.0 and fp32 - int8 <= 0.5


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_grey_photos_are_strange(data: Path, precision: str) -> None:
    digits = load_digits(data, "test")[0][::25]
    photos = np.rint(load_split(data, "test")[0][::25] @ [0.299, 0.587, 0.114]).astype(np.uint8)
    with edgekit.load("digits-vae", "onnxruntime", precision=precision) as autoencoder:
        familiar, strange = ([autoencoder.anomaly_score(i) for i in images] for images in (digits, photos))
    assert auroc(familiar, strange) >= 0.95


def test_samples_are_recognised() -> None:
    judge, bundle = Recognised(count=300, seed=7), Bundle.open("digits-vae")
    fp32, int8 = (judge.value(bundle, "onnxruntime", precision) for precision in ("fp32", "int8"))
    assert fp32 >= 90.0 and fp32 - int8 <= 2.0


def test_a_digit_becomes_another(data: Path) -> None:
    """The ends of a way between two digits are still these digits to the judge."""
    images, labels = load_digits(data, "test")
    pair = [images[labels == label][1] for label in (3, 8)]  # the first 3 is a 9 to the judge in fp32 as well
    with edgekit.load("digits-vae", "onnxruntime") as autoencoder, edgekit.load("digits-cnn", "onnxruntime") as judge:
        way = autoencoder.interpolate(*pair, n=6)
        assert judge(way[0], 1)[0].name == "3" and judge(way[-1], 1)[0].name == "8"
