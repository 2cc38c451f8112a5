"""The GAN family: folding is exact, training resumes to the same weights, and the shipped generator keeps its bars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo.digit_doubles import broken_off, write_digits

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.quantization.metrics.generated import Recognised
from edgekit.zoo import gan
from edgekit.zoo.digits import LABELS, batches, load_digits
from edgekit.zoo.gan import Generator, Recipe, net_source, one_hot, settle_norms, train
from edgekit.zoo.judging import features as judged_by

TINY = Recipe(latent=4, channels=4, judging=4, steps=5, batch=8)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def test_folded_equals_trained() -> None:
    torch.manual_seed(0)
    net = Generator(4, 8, normed=True)
    settle_norms(net, batches=2, size=50)
    latent, label = torch.randn(3, 4), one_hot(torch.tensor([0, 5, 9]))
    with torch.no_grad():
        folded = net.folded()(latent, label)
        torch.testing.assert_close(folded, net(latent, label), atol=1e-5, rtol=1e-4)
    assert folded.shape == (3, 1, 32, 32) and float(folded.min()) >= 0 and float(folded.max()) <= 1


def test_digits_are_read_padded_and_batched(digits: Path) -> None:
    images, labels = load_digits(digits, "train")
    assert images.shape == (60, 32, 32, 1) and np.bincount(labels).tolist() == [6] * 10
    assert not images[:, :2].any() and images[labels == 0][0, 4:7, 8:22].all()
    [(step, (batch, truth))] = batches(digits, 8, range(3, 4), seed=0)
    again = dict(batches(digits, 8, range(5), seed=0))
    assert step == 3 and batch.shape == (8, 1, 32, 32) and torch.equal(batch, again[3][0])
    assert torch.equal(truth, again[3][1]) and not torch.equal(batch, again[2][0])
    with pytest.raises(InputError, match="no images under validation/"):
        load_digits(digits, "validation")
    with pytest.raises(InputError, match=r"no file '.*nowhere/mnist\.zip'"):
        load_digits(Path("nowhere"), "train")


def test_resumed_training_equals_uninterrupted(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(digits, tmp_path / "whole", TINY)
    broken_off(monkeypatch, gan, lambda: train(digits, tmp_path / "runs", TINY), step=3)
    resumed = train(digits, tmp_path / "runs", TINY)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
    with pytest.raises(InputError, match="another recipe"):
        train(digits, tmp_path / "runs", replace(TINY, seed=1))


def test_calibration_has_every_class() -> None:
    source, inputs = net_source(Generator(4, 4), count=30)
    assert len(source.probes) == 4 and np.sum([label for _, label in inputs], axis=0).tolist() == [[3.0] * 10]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert"])
def test_the_shipped_generator_keeps_its_bars(runtime: str) -> None:
    """97 % of the samples recognised by digits-cnn in fp32, at most one point less in int8, in every engine."""
    judge, bundle = Recognised(count=300, seed=7), Bundle.open("digits-gan")
    exact = "onnxruntime" if runtime == "litert" else runtime  # no .tflite file ships in fp32
    fp32, int8 = judge.value(bundle, exact, "fp32"), judge.value(bundle, runtime, "int8")
    assert fp32 >= 97.0 and fp32 - int8 <= 1.0


def test_no_class_fails_and_samples_differ() -> None:
    judge = Recognised(count=400, seed=11)
    shares = judge.by_class(Bundle.open("digits-gan"), "onnxruntime", "int8")
    assert list(shares) == list(LABELS) and min(shares.values()) >= 85.0
    with edgekit.load("digits-gan", "onnxruntime", precision="fp32") as generator:
        for label in LABELS:
            images = np.stack(generator.sample(12, label, seed=3)).astype(np.float32)
            distances = np.abs(images[:, None] - images[None]).mean((2, 3, 4))[np.triu_indices(12, 1)]
            assert distances.min() > 2.0  # of 255: no two samples are alike


def test_judged_features_are_what_the_judge_decides_on() -> None:
    digit = np.zeros((3, 32, 32, 1), np.uint8)
    digit[:, 6:26, 15:18] = 255
    features = judged_by("digits-cnn", digit)
    assert features.shape == (3, 64) and np.isfinite(features).all() and features.any()
