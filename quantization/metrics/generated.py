"""Quality of made-up pictures: the share that a judge recognises, Fréchet distance, and PSNR of reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, as_uint8
from edgekit.quantization.metrics.judge import Judge
from edgekit.quantization.metrics.made import Request
from edgekit.quantization.metrics.metric import Metric
from edgekit.tasks import load
from edgekit.tensors import Array


@dataclass
class Recognised(Metric):
    """The share of samples, in percent, that a classifier of another make takes for the class asked for.

    The bundle's task has `.sample(n, labels, seed, …)`: an ImageGenerator, an Autoencoder, a
    DiffusionSampler. The judge's classes are asked for in turn, by name, so every variant is asked for the same.

    Args:
        count: samples; the share of 500 has a standard error of 0.8 points at 97 %, of 1,000 half a point.
        seed: of the samples.
        options: further arguments of `.sample`, such as {"steps": 10, "guidance": 2.0}.
        judge: a bundle with the task "classify", run in fp32 on onnxruntime.
        batch: samples of one call; each call has a seed of its own, so another size draws other samples.
    """

    count: int = 500
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    judge: str | Bundle = "digits-cnn"
    batch: int = 100
    data: str = ""
    name: str = "recognised_percent"

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise InputError(f"got count={self.count}, batch={self.batch}: expected 1 or more")
        judge = self.judge if isinstance(self.judge, str) else self.judge.name
        options = "".join(f", {key} {value}" for key, value in self.options.items())
        self.data = self.data or f"{self.count:,} samples of seed {self.seed}{options}, judged by {judge}"

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        return 100.0 * float(np.mean(self.answers(bundle, runtime, precision)[1]))

    def by_class(self, bundle: Bundle, runtime: str, precision: str) -> dict[str, float]:
        """The same for each class, by name."""
        asked, right = self.answers(bundle, runtime, precision)
        return {name: round(100.0 * float(np.mean(right[asked == name])), 2) for name in dict.fromkeys(asked.tolist())}

    def answers(
        self, bundle: Bundle, runtime: str, precision: str
    ) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.bool_]]:
        """For each sample the name that was asked for, and whether the judge said the same."""
        asked: list[str] = []
        right: list[bool] = []
        with (
            load(bundle, runtime, precision=precision) as maker,
            load(self.judge, "onnxruntime", precision="fp32") as judge,
        ):
            names = judge.settings.labels
            for start in range(0, self.count, self.batch):
                wanted = [names[i % len(names)] for i in range(start, min(start + self.batch, self.count))]
                made = maker.sample(len(wanted), labels=wanted, seed=self.seed + start, **self.options)
                right += [judge(image, top_k=1)[0].name == name for image, name in zip(made, wanted, strict=True)]
                asked += wanted
        return np.array(asked), np.array(right)


@dataclass
class Frechet(Metric):
    """Fréchet distance of samples from real images, in the features of a judge; lower is better.

    Every variant draws the same samples, so that a difference between two of them says more than either's distance from
    zero: `floor`, stated with the data, is what one half of the real images is from the other, and none can be
    expected below it. It is comparable only between figures of one judge and one count.

    Args:
        real: images of the kind that is drawn; more than the judge's features have values (digits-cnn 128).
        request: the samples, no fewer than the real images are in half.
        judge: a bundle with the task "classify".
    """

    real: Sequence[UInt8]
    request: Request
    judge: str | Bundle
    data: str = ""
    name: str = "frechet"
    higher_is_better: bool = False
    floor: float = field(init=False)

    def __post_init__(self) -> None:
        with Judge(self.judge) as judge:
            self._real = judge.features(self.real)
            name = judge.name
        least = self._real.shape[1] + 1
        if min(len(self.real) // 2, self.request.count) < least:
            raise InputError(
                f"got {len(self.real):,} real images and {self.request.count:,} samples: the features of {name} need "
                f"{2 * least:,} and {least:,} or more"
            )
        self.floor = frechet(self._real[::2], self._real[1::2])
        self.data = (
            f"{self.data}: {self.request}, {len(self.real):,} real images, judged by {name}, floor {self.floor:.3g}"
        )

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        made = self.request.pictures(bundle, runtime, precision)
        with Judge(self.judge) as judge:
            return frechet(judge.features(made), self._real)


@dataclass
class AutoencoderPsnr(Metric):
    """Mean PSNR in dB of the reconstructions of images, all levels 0…255 of all pixels and channels counted."""

    images: Sequence[UInt8] | UInt8
    data: str
    name: str = "psnr_db"

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        with load(bundle, runtime, precision=precision) as autoencoder:
            return float(np.mean([psnr(autoencoder.reconstruct(i), as_uint8(i)[:, :, :3]) for i in self.images]))


def psnr(image: UInt8, truth: UInt8) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images of one shape; 99 where they are equal.

    Raises:
        InputError: their shapes differ.
    """
    if image.shape != truth.shape:
        raise InputError(f"got images of {image.shape} and {truth.shape}: PSNR needs equal shapes")
    mse = float(np.mean((image.astype(np.float64) - truth.astype(np.float64)) ** 2))
    return 99.0 if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def frechet(features_a: Array, features_b: Array) -> float:
    """Fréchet distance between the Gaussians that fit two sets of features (Heusel et al. 2017).

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½). It is comparable only between features of one
    network and sets of one size: give beside it the distance between two halves of the real set.

    Args:
        features_a, features_b: count × size each, floats; more rows than columns.

    Raises:
        InputError: other shapes.
    """
    sets = [np.asarray(f, np.float64) for f in (features_a, features_b)]
    if any(f.ndim != 2 or len(f) < 2 for f in sets) or sets[0].shape[1] != sets[1].shape[1]:
        raise InputError(f"got features of {sets[0].shape} and {sets[1].shape}: expected count × size, of one size")
    means = [f.mean(axis=0) for f in sets]
    covariances = [np.atleast_2d(np.cov(f, rowvar=False)) for f in sets]
    # tr (Σ_a Σ_b)^½ = the sum of the roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    mixed = np.linalg.eigvalsh(root @ covariances[1] @ root)
    traces = sum(float(np.trace(c)) for c in covariances) - 2 * float(np.sqrt(np.clip(mixed, 0, None)).sum())
    return float(((means[0] - means[1]) ** 2).sum()) + traces


def auroc(negatives: Sequence[float], positives: Sequence[float]) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties counted half."""
    ordered = np.sort(np.asarray(negatives, np.float64))
    scores = np.asarray(positives, np.float64)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return float(below.mean() / (2 * len(ordered)))
