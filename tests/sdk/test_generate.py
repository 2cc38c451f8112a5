"""ImageGenerator: seeded samples of any class, latents, interpolation, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, InputError, ManifestError
from edgekit.exporters import ExportOptions, export
from edgekit.manifest import Task
from edgekit.tasks.drawing import between
from edgekit.tasks.generate import ImageGenerator
from edgekit.zoo.gan import Generator, net_source

NAMES = ["ape", "bee", "cat"]
SETTINGS = {"labels": NAMES, "latent": 6}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    net = Generator(6, 8, classes=3).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far enough from grey for samples to differ
    options = ExportOptions(formats=("onnx",), task=Task("generate", SETTINGS), tolerance=1e-3)
    return export(net_source(net)[0], tmp_path_factory.mktemp("g") / "pets", options=options)


@pytest.fixture(scope="module")
def generator(bundle: Bundle) -> Iterator[ImageGenerator]:
    with edgekit.load(bundle, "onnxruntime") as task:
        yield task


def test_samples_are_seeded(generator: ImageGenerator) -> None:
    images = generator.sample(5, seed=3)
    assert [image.shape for image in images] == [(32, 32, 3)] * 5 and images[0].dtype == np.uint8
    np.testing.assert_array_equal(images, generator(5, seed=3))
    np.testing.assert_array_equal(images[:2], generator.sample(2, seed=3))  # the first ones, whatever n is
    for other in (generator.sample(5, seed=4), generator.sample(5), generator.sample(5)):
        assert not np.array_equal(images, other)
    assert (images[0][:, :, 0] == images[0][:, :, 2]).all()  # grey


def test_labels_are_taken_in_turn_or_as_told(generator: ImageGenerator) -> None:
    assert generator.labels == tuple(NAMES)
    turns = generator.sample(5, seed=1)
    np.testing.assert_array_equal(turns, generator.sample(labels=["ape", 1, "cat", 0, "bee"], seed=1))
    cats = generator.sample(2, "cat", seed=1)
    np.testing.assert_array_equal(cats, generator.sample(2, 2, seed=1))
    assert not np.array_equal(cats[0], turns[0]) and len(generator()) == 1
    for labels in (np.array([2, 2]), np.array(["cat", "cat"]), ["2", "cat"]):
        np.testing.assert_array_equal(cats, generator.sample(2, labels, seed=1))
        np.testing.assert_array_equal(cats, generator.sample(labels=labels, seed=1))  # type: ignore[arg-type]
    np.testing.assert_array_equal(cats, generator.sample(2, "2", seed=1))


def test_a_stream_gives_them_one_by_one(generator: ImageGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    answer = generator._answer
    monkeypatch.setattr(generator, "_answer", lambda inputs: (runs.append(1), answer(inputs))[1])
    stream = generator.stream(100, seed=3)
    np.testing.assert_array_equal(next(stream), generator.sample(1, seed=3)[0])
    assert len(runs) == 2  # the other 99 were never made
    with pytest.raises(InputError, match="n=0"):
        generator.stream(0)  # refused at once, not with the first image


def test_latents_can_be_passed_in(generator: ImageGenerator) -> None:
    latents = np.random.default_rng(3).standard_normal((4, 6), np.float32)
    expected = generator.sample(4, seed=3)
    np.testing.assert_array_equal(generator.sample(latents=latents), expected)
    np.testing.assert_array_equal(generator.sample(4, latents=latents.tolist()), expected)
    np.testing.assert_array_equal(generator.sample(latents=latents[0]), expected[:1])


def test_interpolation_goes_from_one_to_the_other(generator: ImageGenerator) -> None:
    way = generator.interpolate(3, 4, n=6, label="bee")
    ends = [generator.sample(1, "bee", seed=seed)[0] for seed in (3, 4)]
    np.testing.assert_array_equal([way[0], way[-1]], ends)
    assert len({image.tobytes() for image in way}) == 6
    morph = generator.interpolate(np.ones(6), np.ones(6), n=3, label=("ape", "cat"))
    np.testing.assert_array_equal(morph[2], generator.sample(1, "cat", latents=np.ones(6))[0])
    assert not np.array_equal(morph[0], morph[1])


def test_the_way_lies_on_the_sphere() -> None:
    start, end = np.array([3.0, 0.0], np.float32), np.array([0.0, 3.0], np.float32)
    np.testing.assert_allclose(between(start, end, 0.5), [4.5**0.5] * 2, rtol=1e-6)
    np.testing.assert_allclose(between(start, -start, 0.5), [0, 0], atol=1e-6)
    np.testing.assert_allclose(between(start, 2 * start, 0.5), [4.5, 0], rtol=1e-6)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n=0: expected 1 to 10000"),
    ({"n": -3}, "n=-3"),
    ({"n": 2.5}, r"n=2\.5"),
    ({"n": 10_001}, "n=10001"),
    ({"n": True}, "n=True"),
    ({"n": 2, "labels": "dog"}, "no class 'dog': expected one of ape, bee, cat, or an index 0 to 2"),
    ({"n": 2, "labels": 3}, "no class 3"),
    ({"n": 2, "labels": -1}, "no class -1"),
    ({"n": 2, "labels": [0, 1, 2]}, "3 labels for 2 images"),
    ({"n": 2, "labels": []}, "0 labels for 2 images"),
    ({"labels": [0, None]}, "no class None"),
    ({"labels": "3"}, "no class '3'"),
    ({"labels": "9" * 5000}, "no class '999"),
    ({"labels": 1.5}, r"no class 1\.5"),
    ({"labels": np.array(1)}, "no class array"),
    ({"latents": [[0.0] * 6, [0.0] * 5]}, "latents are no array of numbers"),
    ({"latents": np.full((1, 6), 1e300)}, "NaN or infinity"),
    ({"n": 1, "seed": -1}, "seed=-1: expected a whole number"),
    ({"n": 1, "seed": 0.5}, r"seed=0\.5"),
    ({"n": 1, "steps": 10}, "steps=10: pets makes an image in one step"),
    ({"n": 2, "latents": np.zeros((2, 5))}, "latents of 2 × 5: expected float 2 × 6"),
    ({"n": 2, "latents": np.zeros((3, 6))}, "latents of 3 × 6: expected float 2 × 6"),
    ({"latents": np.zeros((1, 2, 6))}, "latents of 1 × 2 × 6"),
    ({"latents": np.full((1, 6), np.nan)}, "NaN or infinity"),
    ({"latents": [["a"] * 6]}, "no array of numbers"),
    ({"latents": np.zeros((1, 6)), "seed": 1}, "seed=1 and latents"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_refuses(generator: ImageGenerator, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generator.sample(**arguments)


def test_refuses_ways_that_lead_nowhere(generator: ImageGenerator) -> None:
    for n in (1, 0, 10_001, 2.5):
        with pytest.raises(InputError, match="n="):
            generator.interpolate(0, 1, n=n)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no class 'dog'"):
        generator.interpolate(0, 1, label=("ape", "dog"))
    with pytest.raises(InputError, match="latents of 4"):
        generator.interpolate(0, np.zeros(4))


def test_nan_is_named(generator: ImageGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = {"image": np.full((1, 1, 32, 32), np.nan, np.float32)}
    monkeypatch.setattr(type(generator._session()), "run", lambda *_: nan)
    with pytest.raises(EngineError, match="pets gave NaN"):
        generator.sample(1)


def test_settings_are_strict(bundle: Bundle) -> None:
    for change in (
        {"colour": 1},
        {"labels": []},
        {"latent": 0},
        {"latent": 7},
        {"labels": NAMES[:2]},
        {"labels": ["a"] * 9},
    ):
        wrong = msgspec.structs.replace(bundle.manifest, task=Task("generate", {**SETTINGS, **change}))
        with pytest.raises(ManifestError, match=next(iter(change)).removesuffix("s")):
            edgekit.load(Bundle(bundle.folder, wrong))


def test_benchmarks_can_time_it(generator: ImageGenerator, photo: np.ndarray) -> None:
    session, inputs = generator.example(photo)
    assert session.run(inputs)["image"].shape == (1, 1, 32, 32)
    np.testing.assert_array_equal(generator.once(photo), generator.sample(1, "ape", seed=0)[0])


@pytest.mark.parametrize(("precision", "largest", "typical"), [("fp32", 1, 0.001), ("int8", 32, 0.2)])
def test_engines_agree_on_the_shipped_generator(precision: str, largest: int, typical: float) -> None:
    """To a level of 255 in fp32; in int8 but for single pixels at the edges of strokes."""
    made = {}
    engines = ["onnxruntime", "openvino"] if precision == "fp32" else ["onnxruntime", "openvino", "litert"]
    for runtime in engines:  # no .tflite file ships in fp32
        with edgekit.load("digits-gan", runtime, precision=precision) as generator:
            made[runtime] = np.stack(generator.sample(50, seed=5)).astype(np.int16)
            np.testing.assert_array_equal(made[runtime], generator.sample(50, seed=5))
    for other in engines[1:]:
        difference = np.abs(made["onnxruntime"] - made[other])
        assert difference.max() <= largest and difference.mean() <= typical
