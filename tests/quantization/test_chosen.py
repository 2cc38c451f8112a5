"""Metrics by name: brightness with its sign, Fréchet distance with its floor, judges, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import load
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import write_image
from edgekit.quantization.metrics.brightness import BrightnessShift, brightness
from edgekit.quantization.metrics.chosen import metric_of
from edgekit.quantization.metrics.generated import Frechet, Recognised
from edgekit.quantization.metrics.judge import Judge, judge_of
from edgekit.quantization.metrics.made import Request


@dataclass(frozen=True)
class Shown(Request):
    """Grey pictures of a level for each precision."""

    levels: dict[str, int] = field(default_factory=dict)

    def pictures(self, bundle: Bundle, runtime: str, precision: str) -> list[np.ndarray]:
        return [np.full((4, 4, 3), self.levels[precision], np.uint8)]


@pytest.fixture(scope="module")
def digits() -> list[np.ndarray]:
    with load("digits-gan", precision="fp32") as draw:
        return draw.sample(200, seed=7)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("level", "shift"), [(90, -10.0), (104, 4.0), (100, 0.0)])
def test_brightness_keeps_its_sign_and_drops_both_ways(level: int, shift: float) -> None:
    metric = BrightnessShift(Shown(levels={"fp32": 100, "int8": level}), "none")
    bundle = Bundle.open("sr-x2")
    values = [metric.value(bundle, "onnxruntime", p) for p in ("fp32", "int8")]
    assert values == pytest.approx([0.0, shift]) and metric.drop(values[1], values[0]) == pytest.approx(abs(shift))
    assert metric.drop(2.0, -3.0) == -1.0 and not metric.higher_is_better


def test_brightness_weighs_colours_as_the_eye_does() -> None:
    green, blue = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    green[:, :, 1], blue[:, :, 2] = 255, 255
    assert brightness(green) == pytest.approx(0.587 * 255) and brightness(blue) == pytest.approx(0.114 * 255)
    assert brightness(np.full((2, 2, 1), 40, np.uint8)) == pytest.approx(40)


@pytest.mark.parametrize("name", ["sr-x2", "style-wave", "digits-vae"])
def test_shipped_pictures_do_not_get_darker(name: str, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo[100:228, 100:228])
    metric = metric_of("brightness", Bundle.open(name), tmp_path)
    fp32, int8 = (metric.value(Bundle.open(name), "onnxruntime", p) for p in ("fp32", "int8"))
    assert abs(fp32) < 0.05 and abs(int8) < 2.0 and metric.data.endswith("1 images, against fp32")


def test_what_draws_by_itself_needs_no_photos() -> None:
    metric = metric_of("brightness", Bundle.open("digits-gan"), None)
    assert metric.data == "64 samples of seed 0, against fp32"
    assert abs(metric.value(Bundle.open("digits-gan"), "onnxruntime", "int8")) < 2.0
    recognised = metric_of("recognised", Bundle.open("digits-gan"), None)
    assert isinstance(recognised, Recognised) and recognised.judge == "digits-cnn"


def test_frechet_states_its_floor_and_grows_with_what_is_wrong(digits: list[np.ndarray]) -> None:
    metric = Frechet(digits, Request(count=100), "digits-cnn", "drawn")
    fp32 = metric.value(Bundle.open("digits-gan"), "onnxruntime", "fp32")
    assert metric.data.startswith("drawn: 100 samples of seed 0, 200 real images, judged by digits-cnn, floor ")
    assert 0 < fp32 < 3 * metric.floor and not metric.higher_is_better
    random = np.random.default_rng(0)
    wrong = [random.integers(0, 256, (32, 32, 3)).astype(np.uint8) for _ in digits]
    assert (
        Frechet(wrong, Request(count=100), "digits-cnn").value(Bundle.open("digits-gan"), "litert", "int8") > 5 * fp32
    )


def test_frechet_needs_more_pictures_than_features(digits: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="100 real images and 50 samples: the features of digits-cnn need 130 and 65"):
        Frechet(digits[:100], Request(count=50), "digits-cnn")


def test_frechet_reads_a_folder_and_takes_a_judge_by_name(
    tmp_path: Path, digits: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.quantization.metrics import chosen

    monkeypatch.setattr(chosen, "REAL", 140)
    for index, picture in enumerate(digits):
        write_image(tmp_path / f"{index}.png", picture)
    metric = metric_of("frechet@digits-cnn", Bundle.open("digits-gan"), tmp_path)
    assert isinstance(metric, Frechet) and len(metric.real) == 140 and metric.request.count == 70
    assert len({picture.tobytes() for picture in metric.real}) == 140  # of all that there are, each once


def test_a_judge_is_of_the_same_classes_or_channels() -> None:
    expected = {"digits-gan": "digits-cnn", "digits-vae": "digits-cnn", "cifar-diffusion": "cifar-cnn"}
    assert {name: judge_of(Bundle.open(name)) for name in expected} == expected
    with pytest.raises(InputError, match="no classifier that ships knows what shakespeare-gru draws: name a bundle"):
        judge_of(Bundle.open("shakespeare-gru"))


def test_features_are_what_the_last_layer_is_given(digits: list[np.ndarray]) -> None:
    with Judge("digits-cnn") as judge:
        seen = judge.features(digits[:3])
    assert seen.shape == (3, 64) and seen.dtype == np.float32 and len(np.unique(seen.round(3))) > 50
    with pytest.raises(InputError, match="sr-x2 judges nothing: expected a bundle of task 'classify'"):
        Judge("sr-x2")


@pytest.mark.parametrize(
    ("bundle", "name", "message"),
    [
        ("digits-gan", "frechet", "'frechet' without validation data"),
        ("sr-x2", "brightness", "'brightness' without validation data"),
        ("sr-x2", "psnr", "'psnr' without validation data"),
        ("sr-x2", "frechet", "is of task generate or diffuse or autoencode: sr-x2 is of 'upscale'"),
        ("sr-x2", "psnr@digits-cnn", "no metric 'psnr@digits-cnn': expected auto, .*recognised@BUNDLE"),
        ("shakespeare-gru", "brightness", "is of task upscale or stylize"),
    ],
)
def test_what_does_not_fit_is_said(bundle: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric_of(name, Bundle.open(bundle), None)


def test_a_function_of_ones_own_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metric.py").write_text("def gain(bundle, runtime, precision):\n    return float('nan')\n")
    monkeypatch.syspath_prepend(tmp_path)
    metric: Any = metric_of("own_metric:gain", Bundle.open("sr-x2"), None)
    assert metric.data == "the caller's own" and np.isnan(metric.value(Bundle.open("sr-x2"), "onnxruntime", "int8"))
