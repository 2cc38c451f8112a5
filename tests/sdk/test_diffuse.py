"""DiffusionSampler on the digits that ship: what decides an image, stopping early, every scheduler, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, ImageError, InputError, ManifestError
from edgekit.manifest import Task
from edgekit.tasks.diffuse import DiffusionSampler
from edgekit.tasks.drawing import counted

ENGINES = ("onnxruntime", "openvino")  # that have fp32 files of it
CROSS_ENGINE_LEVELS = 1  # of 255: the largest difference of any pixel in fp32; nearly all are equal
NAME = "digits-diffusion"


@pytest.fixture(scope="module")
def digits() -> Iterator[DiffusionSampler]:
    with edgekit.load(NAME, "onnxruntime", precision="fp32") as sampler:
        yield sampler


def test_makes_images(digits: DiffusionSampler) -> None:
    made = digits(3, seed=0)
    assert [i.shape for i in made] == [(32, 32, 3)] * 3 and all(i.dtype == np.uint8 for i in made)
    assert all((i == i[:, :, :1]).all() and i.max() > 200 and i.min() == 0 for i in made)
    assert digits.labels == tuple("0123456789")
    assert digits.info()["task"] == "diffuse" and digits.info()["steps"] == 10


def test_seed_decides(digits: DiffusionSampler) -> None:
    first, again, other = (digits.sample(2, [4, 7], seed=s, steps=3) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(digits.sample(1, "4", seed=1, steps=3)[0], first[0])  # whatever n is
    fresh = [digits.sample(1, 4, steps=2)[0] for _ in range(2)]
    assert not np.array_equal(*fresh)


def test_images_come_one_by_one(digits: DiffusionSampler) -> None:
    few = {"steps": 2, "seed": 4}
    np.testing.assert_array_equal(list(digits.images(3, **few)), digits.sample(3, **few))
    with pytest.raises(InputError, match="n=0"):  # before the first is asked for
        digits.images(0)


def test_labels_by_name_and_index(digits: DiffusionSampler) -> None:
    by_name, by_index = digits.sample(2, ["3", "8"], seed=0, steps=2), digits.sample(None, [3, 8], seed=0, steps=2)
    np.testing.assert_array_equal(by_name, by_index)


@pytest.mark.parametrize("options", [{"scheduler": "ddim"}, {}, {"scheduler": "few-steps"}])
def test_latents_decide_where_nothing_is_added(digits: DiffusionSampler, options: dict[str, Any]) -> None:
    latents = np.random.default_rng(5).standard_normal((2, 1, 32, 32))
    made = [digits.sample(latents=latents, steps=3, seed=seed, **options) for seed in (0, 1)]
    np.testing.assert_array_equal(*made)
    (alone,) = digits.sample(latents=latents[0], steps=3, **options)  # one latent, without an axis of the batch
    np.testing.assert_array_equal(alone, made[0][0])
    assert not np.array_equal(made[0][0], digits.sample(latents=latents[1], steps=3, **options)[0])


@pytest.mark.parametrize("options", [{"scheduler": "ddim", "eta": 1.0}, {"scheduler": "lcm"}])
def test_seed_decides_what_is_added(digits: DiffusionSampler, options: dict[str, Any]) -> None:
    latents = np.random.default_rng(5).standard_normal((1, 1, 32, 32))
    first, again, other = (digits.sample(latents=latents, steps=3, seed=s, **options) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_scheduler(digits: DiffusionSampler) -> None:
    assert digits.schedulers == ("dpm++2m", "ddim", "lcm", "few-steps")
    made = [digits.sample(1, 0, seed=0, steps=4, scheduler=name)[0] for name in digits.schedulers]
    assert not any(np.array_equal(*pair) for pair in itertools.combinations(made, 2))


def test_stream_shows_each_step(digits: DiffusionSampler) -> None:
    steps = list(digits.stream("5", seed=3, steps=6))
    assert [(s.number, s.total) for s in steps] == [(n, 6) for n in range(1, 7)]
    np.testing.assert_array_equal(steps[-1].image, digits.sample(1, 5, seed=3, steps=6)[0])
    # the expected image comes nearer to the last one
    distances = [float(np.abs(s.image.astype(float) - steps[-1].image).mean()) for s in steps]
    assert distances[0] > distances[3] > distances[-1] == 0.0
    assert len(list(digits.stream(5, seed=3, scheduler="few-steps"))) == digits.settings.few_steps


def test_stops_early(digits: DiffusionSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that breaks off pays for the steps that it took, and no more."""
    calls = runs_of(digits, monkeypatch)
    for step in digits.stream(2, seed=0, steps=50):
        if step.number == 3:
            break
    assert len(calls) == 6 and step.image.shape == (32, 32, 3)


def test_guidance_decides_the_runs(digits: DiffusionSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = runs_of(digits, monkeypatch)
    for guidance, runs in ((0.0, [False]), (1.0, [True]), (3.0, [False, True])):
        calls.clear()
        digits.sample(1, 1, seed=0, steps=1, guidance=guidance)
        assert calls == runs
    calls.clear()
    digits.sample(1, 1, seed=0, scheduler="few-steps")
    assert calls == [True] * 4


def runs_of(sampler: DiffusionSampler, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Grows with each run of the network: whether it was given a label."""
    calls: list[bool] = []
    once = sampler._network.once

    def noted(component: str, sample: np.ndarray, time: float, given: dict[str, np.ndarray]) -> np.ndarray:
        calls.append(bool(given["label"].any()))
        return once(component, sample, time, given)

    monkeypatch.setattr(sampler._network, "once", noted)
    return calls


@pytest.mark.parametrize("options", [{}, {"scheduler": "ddim"}, {"scheduler": "few-steps"}])
def test_engines_agree(digits: DiffusionSampler, options: dict[str, Any]) -> None:
    expected = np.array(digits.sample(5, seed=0, **options), np.int16)
    for engine in ENGINES[1:]:
        with edgekit.load(NAME, engine, precision="fp32") as other:
            made = np.array(other.sample(5, seed=0, **options), np.int16)
        difference = np.abs(made - expected)
        assert difference.max() <= CROSS_ENGINE_LEVELS and (difference > 0).mean() < 0.01


def test_begins_from_an_image(digits: DiffusionSampler) -> None:
    (seven,) = digits.sample(1, 7, seed=0)
    near, far = (digits.sample(1, 7, seed=1, image=seven, strength=s)[0].astype(float) for s in (0.2, 0.95))
    assert np.abs(near - seven).mean() < 0.5 * np.abs(far - seven).mean()
    large = seven.repeat(3, 0).repeat(3, 1)
    alike = digits.sample(1, 7, seed=1, image=np.dstack([large, large[:, :, :1]]), strength=0.2)[0]
    assert np.abs(alike.astype(float) - near).mean() < 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "cat"}, "no class 'cat': expected one of 0, 1"),
        ({"labels": 10}, "index 0 to 9"),
        ({"n": 3, "labels": [1, 2]}, "2 labels for 3 images"),
        ({"n": 0}, "n=0"),
        ({"n": -1}, "n=-1"),
        ({"steps": 0}, "steps=0: expected a whole number from 1 to 1000"),
        ({"steps": 10_000}, "steps=10000: expected a whole number from 1 to 1000"),
        ({"steps": 5, "scheduler": "few-steps"}, "distilled for 1 to 4"),
        ({"steps": 0, "scheduler": "few-steps"}, "steps=0"),
        ({"guidance": -1.0}, "guidance=-1.0: expected a number from 0 to 100"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guidance": 2.0, "scheduler": "few-steps"}, "has its own"),
        ({"scheduler": "euler"}, "no scheduler 'euler': expected one of dpm"),
        ({"eta": 0.5}, "only scheduler='ddim'"),
        ({"eta": 2.0, "scheduler": "ddim"}, "eta=2.0: expected a number from 0 to 1"),
        ({"seed": -1}, "seed=-1"),
        ({"latents": np.zeros((1, 1, 28, 28))}, "expected float 1 × 1 × 32 × 32"),
        ({"n": 2, "latents": np.zeros((1, 1, 32, 32))}, "expected float 2 × 1 × 32 × 32"),
        ({"latents": np.full((1, 1, 32, 32), np.nan)}, "NaN"),
        ({"latents": np.full((1, 1, 32, 32), 1e300)}, "NaN or infinity"),
        ({"latents": np.full((1, 1, 32, 32), -2e4)}, "got latents of up to 20000: expected numbers like"),
        ({"latents": [[[[0.0]]], [[[0.0, 1.0]]]]}, "latents are no array of numbers"),
        ({"n": 1, "latents": [[0.0], [0.0, 1.0]]}, "latents are no array of numbers"),
        ({"latents": np.zeros((1, 1, 32, 32)), "seed": -1}, "seed=-1"),
        ({"latents": np.zeros((1, 1, 32, 32)), "seed": "x"}, "seed='x'"),
        ({"image": np.zeros((32, 32, 3), np.uint8), "strength": 0.0}, "strength=0.0"),
        ({"image": np.zeros((32, 32, 3), np.uint8), "scheduler": "few-steps"}, "begin from one with"),
    ],
)
def test_refuses(digits: DiffusionSampler, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        digits.sample(**arguments)


def test_stream_refuses_at_once(digits: DiffusionSampler) -> None:
    with pytest.raises(InputError, match="steps=0"):
        digits.stream(1, steps=0)
    with pytest.raises(InputError, match="no class"):
        digits.stream("ten")
    with pytest.raises(ImageError):
        digits.stream(1, image="photo.png")  # type: ignore[arg-type]


def test_one_latent_of_a_picture_in_colour_is_one() -> None:
    assert counted(None, None, np.zeros((3, 32, 32)), 3) == 1
    assert counted(None, None, np.zeros((5, 3, 32, 32)), 3) == 5


def test_settings_are_strict() -> None:
    bundle = Bundle.open(NAME)
    assert bundle.manifest.task is not None
    settings = {**bundle.manifest.task.settings, "start": 0.001}
    wrong = msgspec.structs.replace(bundle.manifest, task=Task("diffuse", settings))
    with pytest.raises(ManifestError, match="start"):
        edgekit.load(Bundle(bundle.folder, wrong))


def test_nan_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with edgekit.load(NAME, "onnxruntime", precision="int8") as sampler:
        session = sampler._session()
        monkeypatch.setattr(session, "run", lambda inputs: {"prediction": np.full((1, 1, 32, 32), np.nan, np.float32)})
        steps = sampler.stream(1, seed=0)
        with pytest.raises(EngineError, match="gave NaN.*precision='fp32'"):
            next(steps)


def test_tflite_layout_is_hidden(digits: DiffusionSampler) -> None:
    """The int8 .tflite may hold its picture as it likes: samples resemble those of the other engines."""
    made = []
    for engine in ("litert", "onnxruntime"):
        with edgekit.load(NAME, engine, precision="int8") as sampler:
            made.append(np.array(sampler.sample(4, seed=0, scheduler="few-steps"), np.float64))
    assert np.abs(made[0] - made[1]).mean() < 6
