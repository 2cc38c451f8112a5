"""Autoencoder: codes and images, samples of classes, anomaly scores, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, ImageError, InputError, ManifestError
from edgekit.exporters import ExportOptions, export
from edgekit.images import UInt8, middle
from edgekit.manifest import Task
from edgekit.tasks.autoencode import Autoencoder
from edgekit.zoo import vae

NAMES = ["ape", "bee"]
TRIANGLE = [1.0, 0.5, 1.0, 0.0, 0.0, 2.0]  # of 3 × 3
GAUSSIANS = [{"mean": [0.0, 0.0, 0.0], "cholesky": TRIANGLE}, {"mean": [2.0, -1.0, 0.5], "cholesky": TRIANGLE}]
SETTINGS = {"labels": NAMES, "gaussians": GAUSSIANS, "latent": 3, "height": 32, "width": 32, "noise": 0.01}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    net = vae.Autoencoder(3, 8).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)  # far enough from grey for images to differ
    probes = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
    sources, _ = vae.net_sources(net, probes, np.zeros((4, 3), np.float32))
    options = ExportOptions(formats=("onnx",), task=Task("autoencode", SETTINGS), tolerance=1e-3)
    return export(sources, tmp_path_factory.mktemp("a") / "pets", options=options)


@pytest.fixture(scope="module")
def autoencoder(bundle: Bundle) -> Iterator[Autoencoder]:
    with edgekit.load(bundle, "onnxruntime") as task:
        yield task


@pytest.fixture
def digit() -> UInt8:
    """A made-up digit: a ring and a stroke, 32 × 32 grey."""
    y, x = np.mgrid[:32, :32] - 15.5
    ring = (np.abs(np.hypot(y, 1.4 * x) - 8) < 1.5) | ((np.abs(x - y) < 1.2) & (np.abs(y) < 9))
    return ring.astype(np.uint8) * 255


def test_reconstructs_by_way_of_the_code(autoencoder: Autoencoder, digit: UInt8) -> None:
    code = autoencoder.encode(digit)
    assert code.shape == (3,) and code.dtype == np.float32
    again = autoencoder.decode(code)
    assert again.shape == (32, 32, 3) and again.dtype == np.uint8
    np.testing.assert_array_equal(again, autoencoder.reconstruct(digit))
    np.testing.assert_array_equal(again, autoencoder(digit))
    np.testing.assert_array_equal(again, autoencoder.decode(code.tolist()))


def test_takes_any_image(autoencoder: Autoencoder, photo: UInt8, digit: UInt8) -> None:
    for image in (photo, photo[:, :, 0], photo[:10, :400], photo[:1, :1], np.dstack([photo, photo[:, :, 0]])):
        assert autoencoder(image).shape == (32, 32, 3)
    grey = autoencoder.prepared(photo)
    assert grey.shape == (32, 32, 1)
    expected = middle(photo, 32, 32).astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey[:, :, 0], expected, atol=0.51)
    np.testing.assert_array_equal(autoencoder.prepared(digit)[:, :, 0], digit)
    for wrong in (np.zeros((3, 4, 5, 6), np.uint8), np.zeros((0, 3), np.uint8), np.full((4, 4), np.nan), "a.png"):
        with pytest.raises(ImageError):
            autoencoder.encode(wrong)  # type: ignore[arg-type]


def test_samples_are_seeded_and_of_a_class(autoencoder: Autoencoder) -> None:
    images = autoencoder.sample(4, seed=2)
    np.testing.assert_array_equal(images, autoencoder.sample(labels=["ape", 1, 0, "bee"], seed=2))
    np.testing.assert_array_equal(images[:2], autoencoder.sample(2, seed=2))
    assert not np.array_equal(images, autoencoder.sample(4, seed=3))
    assert not np.array_equal(images, autoencoder.sample(4))
    cold = autoencoder.sample(2, "bee", temperature=0)
    np.testing.assert_array_equal(cold, [autoencoder.decode(GAUSSIANS[1]["mean"])] * 2)
    z = np.random.default_rng(2).standard_normal(3, np.float32)
    factor = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0, 2]], np.float32)
    expected = autoencoder.decode(0.5 * factor @ z)
    np.testing.assert_array_equal(autoencoder.sample(1, "ape", seed=2, temperature=0.5)[0], expected)


def test_a_stream_gives_them_one_by_one(autoencoder: Autoencoder) -> None:
    stream = autoencoder.stream(10_000, seed=2)
    np.testing.assert_array_equal([next(stream), next(stream)], autoencoder.sample(2, seed=2))
    with pytest.raises(InputError, match="temperature=-1"):
        autoencoder.stream(1, temperature=-1)  # refused at once, not with the first image


def test_interpolates_between_images(autoencoder: Autoencoder, digit: UInt8) -> None:
    way = autoencoder.interpolate(digit, digit.T.copy(), n=5)
    np.testing.assert_array_equal([way[0], way[-1]], [autoencoder(digit), autoencoder(digit.T.copy())])
    codes = [autoencoder.encode(i) for i in (digit, digit.T.copy())]
    np.testing.assert_array_equal(way[2], autoencoder.decode((codes[0] + codes[1]) / 2))


def test_the_anomaly_score_is_what_it_says(autoencoder: Autoencoder, digit: UInt8) -> None:
    code = autoencoder.encode(digit)
    session = autoencoder._session(component="decoder")
    again = session.run({"latent": code[None]})["image"][0, 0]
    factor = np.array([[1, 0, 0], [0.5, 1, 0], [0, 0, 2]])
    distances = [np.linalg.solve(factor, code - np.array(g["mean"])) for g in GAUSSIANS]
    expected = ((again - digit / 255) ** 2).sum() / 0.02 + 0.5 * min(float(d @ d) for d in distances)
    assert autoencoder.anomaly_score(digit) == pytest.approx(expected, rel=1e-4)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n=0"),
    ({"n": 1, "labels": "dog"}, "no class 'dog': expected one of ape, bee"),
    ({"n": 3, "labels": ["ape"]}, "1 labels for 3 images"),
    ({"n": 1, "steps": 20}, "steps=20: pets makes an image in one step"),
    ({"n": 1, "temperature": -0.1}, r"temperature=-0\.1"),
    ({"n": 1, "temperature": float("nan")}, "temperature=nan"),
    ({"n": 1, "temperature": "a"}, "temperature='a'"),
    ({"n": 1, "temperature": True}, "temperature=True"),
    ({"n": 1, "seed": -5}, "seed=-5"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_refuses(autoencoder: Autoencoder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        autoencoder.sample(**arguments)


def test_refuses_codes_and_ways_that_are_none(autoencoder: Autoencoder, digit: UInt8) -> None:
    for code in (np.zeros(4), np.zeros((2, 3)), [np.inf, 0, 0], "abc"):
        with pytest.raises(InputError, match="latents"):
            autoencoder.decode(code)  # type: ignore[arg-type]
    for n in (1, 2.5, True):
        with pytest.raises(InputError, match="n="):
            autoencoder.interpolate(digit, digit, n=n)  # type: ignore[arg-type]


def test_nan_is_named(autoencoder: Autoencoder, digit: UInt8, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = {"mean": np.full((1, 3), np.nan, np.float32), "log_variance": np.zeros((1, 3), np.float32)}
    monkeypatch.setattr(type(autoencoder._session(component="encoder")), "run", lambda *_: nan)
    for call in (autoencoder.encode, autoencoder.reconstruct, autoencoder.anomaly_score):
        with pytest.raises(EngineError, match="pets gave NaN in 'mean'"):
            call(digit)


def test_settings_are_strict(bundle: Bundle) -> None:
    short = [{**GAUSSIANS[0], "cholesky": TRIANGLE[:5]}, GAUSSIANS[1]]
    flat = [{**GAUSSIANS[0], "cholesky": [0.0] * 6}, GAUSSIANS[1]]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"colour": 1}, "colour"),
        ({"gaussians": GAUSSIANS[:1]}, "1 Gaussians"),
        ({"gaussians": short}, r"\(3, 5\)"),
        ({"gaussians": flat}, "diagonal is not positive"),
        ({"noise": 0.0}, "noise"),
        ({"latent": 4}, "codes of 4 numbers, the encoder gives float32 1 × 3"),
        ({"width": 64}, "images of 32 × 64, the encoder takes float32 1 × 1 × 32 × 32"),
    ]
    for change, message in changes:
        wrong = msgspec.structs.replace(bundle.manifest, task=Task("autoencode", {**SETTINGS, **change}))
        with pytest.raises(ManifestError, match=message):
            edgekit.load(Bundle(bundle.folder, wrong))


def test_info_leaves_the_numbers_out(autoencoder: Autoencoder) -> None:
    info = autoencoder.info()
    assert info["gaussians"] == "2 of 3 dimensions" and list(info["labels"]) == NAMES


@pytest.mark.parametrize(("precision", "largest", "typical"), [("fp32", 1, 0.001), ("int8", 32, 0.2)])
def test_engines_agree_on_the_shipped_autoencoder(precision: str, largest: int, typical: float, digit: UInt8) -> None:
    """To a level of 255 in fp32; in int8 but for single pixels at the edges of strokes."""
    made = {}
    engines = ["onnxruntime", "openvino"] if precision == "fp32" else ["onnxruntime", "openvino", "litert"]
    for runtime in engines:  # no .tflite file ships in fp32
        with edgekit.load("digits-vae", runtime, precision=precision) as autoencoder:
            made[runtime] = np.stack([autoencoder(digit), *autoencoder.sample(40, seed=5)]).astype(np.int16)
            np.testing.assert_array_equal(made[runtime][1:], autoencoder.sample(40, seed=5))
    for other in engines[1:]:
        difference = np.abs(made["onnxruntime"] - made[other])
        assert difference.max() <= largest and difference.mean() <= typical
