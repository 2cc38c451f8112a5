"""Metrics: their direction, their data, and photos that are too small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import write_image
from edgekit.quantization.metrics.chosen import metric_of
from edgekit.quantization.metrics.labels import TopOneAccuracy
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.metrics.pictures import UpscalePsnr, degrade


class Loss(Metric):
    name, data, higher_is_better = "nats", "none", False

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return 0.0


def test_a_drop_is_positive_when_worse() -> None:
    assert Loss().drop(1.7, fp32=1.5) == pytest.approx(0.2)
    assert UpscalePsnr([], 2, "none").drop(36.9, fp32=37.0) == pytest.approx(0.1)


def test_degrading_cuts_to_a_multiple(photo: np.ndarray) -> None:
    low, high = degrade(photo[:101, :203], 4)
    assert low.shape == (25, 50, 3) and high.shape == (100, 200, 3)
    with pytest.raises(InputError, match="3 × 2 pixels"):
        degrade(photo[:2, :3], 4)


def test_our_upscaler_beats_bicubic(photo: np.ndarray) -> None:
    metric = UpscalePsnr([degrade(photo, 2)], 2, "the sample photo")
    assert metric.value(Bundle.open("sr-x2"), "onnxruntime", "int8") > metric.bicubic() + 2.0


def test_a_task_has_a_metric_of_its_own(tmp_path: Path, photo: np.ndarray) -> None:
    for label in ("cat", "3"):
        (tmp_path / label).mkdir()
        write_image(tmp_path / label / "a.png", photo)
    (tmp_path / "text.txt").write_text("ROMEO:\nWhat lady is that?\n")
    names = {"sr-x2": "psnr_y_db", "cifar-cnn": "top1_percent", "digits-vae": "psnr_db", "style-wave": "ssim"}
    for name, metric in names.items():
        assert metric_of("auto", Bundle.open(name), tmp_path).name == metric
    assert metric_of("auto", Bundle.open("shakespeare-gru"), tmp_path / "text.txt").name == "nats_per_char"
    accuracy = metric_of("accuracy", Bundle.open("cifar-cnn"), tmp_path)
    assert isinstance(accuracy, TopOneAccuracy) and sorted(accuracy.labels) == [3, 3]  # cat is the fourth


def test_noise_says_how_far_int8_is(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    metric = metric_of("snr", Bundle.open("sr-x2"), tmp_path)
    fp32, int8 = (metric.value(Bundle.open("sr-x2"), "onnxruntime", p) for p in ("fp32", "int8"))
    assert fp32 == 0.0 and 0.05 < int8 < 5.0
    assert metric.drop(int8, fp32) == int8


def test_ones_own_function_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "def loss(bundle, runtime, precision):\n    return 3\nloss.higher_is_better = False\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    metric = metric_of("mine:loss", Bundle.open("sr-x2"), tmp_path)
    assert metric.value(Bundle.open("sr-x2"), "onnxruntime", "int8") == 3.0
    assert (metric.name, metric.higher_is_better) == ("loss", False)


@pytest.mark.parametrize(
    ("bundle", "name", "message"),
    [
        ("sr-x2", "beauty", "no metric 'beauty'"),
        ("sr-x2", "accuracy", "is of task classify: sr-x2 is of 'upscale'"),
        ("sr-x2", "no.such:thing", "cannot find the metric"),
        ("shakespeare-gru", "nats", "is no text to score"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(tmp_path: Path, bundle: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric_of(name, Bundle.open(bundle), tmp_path)


def test_images_without_a_label_are_refused(tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "a.png", photo)
    with pytest.raises(InputError, match="lies in no folder of a label"):
        metric_of("accuracy", Bundle.open("cifar-cnn"), tmp_path)
