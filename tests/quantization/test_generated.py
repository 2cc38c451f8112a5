"""Metrics of made-up pictures: what the judge is asked, Fréchet distance, PSNR, the area under a curve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

import edgekit
from edgekit.bundle import Bundle
from edgekit.quantization.metrics import generated
from edgekit.quantization.metrics.generated import AutoencoderPsnr, Recognised, auroc, frechet, psnr

NAMES = ("ape", "bee", "cat")


class Maker:
    """Draws the name as a grey level; everything of seed 4 and above is taken for an ape."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sample(self, n: int, **arguments: Any) -> list[np.ndarray]:
        self.calls.append({"n": n, **arguments})
        levels = [NAMES.index(name) if arguments["seed"] < 4 else 0 for name in arguments["labels"]]
        return [np.full((2, 2, 3), level, np.uint8) for level in levels]


class Judge(Maker):
    """Reads the name off the grey level."""

    settings = SimpleNamespace(labels=NAMES)

    def __call__(self, image: np.ndarray, top_k: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=NAMES[image.max()])]


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = Maker()
    monkeypatch.setattr(generated, "load", lambda source, *_, **__: Judge() if source == "zoo" else made)
    return made


def test_the_judge_is_asked_for_every_class_in_turn(maker: Maker) -> None:
    metric = Recognised(count=6, batch=4, options={"steps": 3}, judge="zoo")
    assert metric.data == "6 samples of seed 0, steps 3, judged by zoo"
    bundle = Bundle.open("digits-cnn")
    assert metric.value(bundle, "onnxruntime", "fp32") == pytest.approx(100 * 4 / 6)
    assert maker.calls == [
        {"n": 4, "labels": ["ape", "bee", "cat", "ape"], "seed": 0, "steps": 3},
        {"n": 2, "labels": ["bee", "cat"], "seed": 4, "steps": 3},
    ]
    assert metric.by_class(bundle, "onnxruntime", "fp32") == {"ape": 100.0, "bee": 50.0, "cat": 50.0}


@pytest.mark.parametrize("wrong", [{"count": 0}, {"batch": 0}])
def test_refuses_to_judge_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(edgekit.EdgekitError, match="expected 1 or more"):
        Recognised(**wrong)


def test_reconstructions_are_compared_as_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dim(Maker):
        def reconstruct(self, image: np.ndarray) -> np.ndarray:
            return np.full((*image.shape[:2], 3), 16, np.uint8)

    monkeypatch.setattr(generated, "load", lambda *_, **__: Dim())
    value = AutoencoderPsnr(np.zeros((3, 4, 4, 1), np.uint8), "none").value(Bundle.open("digits-cnn"), "x", "fp32")
    assert value == pytest.approx(20 * np.log10(255 / 16))


def test_area_under_the_curve() -> None:
    assert auroc([1, 2, 3], [4, 5]) == 1.0 and auroc([4, 5], [1, 2, 3]) == 0.0
    assert auroc([1, 2], [1, 2]) == 0.5 and auroc([1, 2, 3, 4], [2.5]) == 0.5


def test_frechet_distance() -> None:
    random = np.random.default_rng(0)
    base = random.standard_normal((20_000, 3))
    assert frechet(base, base) == pytest.approx(0, abs=1e-9)
    assert frechet(base, base + np.array([1, 0, 2])) == pytest.approx(5, abs=1e-9)
    # between N(0, 1) and N(0, 9) on each axis: (3 − 1)² each
    assert frechet(base, 3 * base[::-1]) == pytest.approx(12, rel=0.05)
    mixed = base @ random.standard_normal((3, 3))
    assert frechet(base, mixed) == pytest.approx(frechet(mixed, base), rel=1e-6)
    assert frechet(base[:, :1], base[:, 1:2]) == pytest.approx(0, abs=1e-3)
    with pytest.raises(edgekit.EdgekitError, match=r"\(20000, 3\) and \(20000, 2\)"):
        frechet(base, base[:, :2])


def test_psnr() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == 99.0 and psnr(black, black + 255) == 0.0
    assert psnr(black, black + 16) == pytest.approx(20 * np.log10(255 / 16))
    with pytest.raises(edgekit.EdgekitError, match="equal shapes"):
        psnr(black, black[:2])
