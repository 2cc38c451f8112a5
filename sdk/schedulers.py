"""Noise schedules and samplers of diffusion models, in NumPy: DDIM, DPM-Solver++ (2M), LCM's few steps.

A sample at time t is α(t)·x₀ + σ(t)·ε with α² + σ² = 1; time runs from 1 (noise) down to 0 (the image). A
sampler turns the network's estimate of x₀ at one time into the sample at the next, earlier one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekit.errors import InputError

Float = npt.NDArray[np.float32]
Prediction = Literal["velocity", "noise", "image"]
MAX_STEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """The cosine schedule in continuous time, α = cos(πt/2), σ = sin(πt/2), and what the network predicts.

    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", without their offset:
    `start`, the time that sampling begins at, keeps away from t = 1, where log α is −∞. `prediction` is
    "noise" (ε), "image" (x₀) or "velocity" (α·ε − σ·x₀; Salimans & Ho 2022, "Progressive Distillation").
    """

    prediction: Prediction = "velocity"
    start: float = 0.996

    def alpha(self, time: float) -> float:
        return float(np.cos(0.5 * np.pi * time))

    def sigma(self, time: float) -> float:
        return float(np.sin(0.5 * np.pi * time))

    def log_snr(self, time: float) -> float:
        """λ = log(α/σ): half the logarithm of the signal-to-noise ratio; ∞ at time 0."""
        return float(np.log(self.alpha(time) / self.sigma(time))) if time > 0 else np.inf

    def times(self, steps: int, start: float | None = None) -> list[float]:
        """`steps` + 1 times, evenly spaced from `start` (the schedule's own, where None) to 0.

        Raises:
            InputError: steps beyond 1…1000, or start beyond 0…1.
        """
        check_steps(steps)
        start = self.start if start is None else start
        if not 0.0 < start <= 1.0:
            raise InputError(f"got the start {start}: expected a time above 0, at most 1")
        return [float(time) for time in np.linspace(start, 0.0, steps + 1)]

    def clean(self, sample: Float, predicted: Float, time: float) -> Float:
        """The estimate of x₀ that a prediction at this time amounts to.

        Raises:
            InputError: a network that predicts noise says nothing of x₀ at time 1.
        """
        alpha, sigma = self.alpha(time), self.sigma(time)
        if self.prediction == "image":
            return predicted
        if self.prediction == "velocity":
            return np.asarray(alpha * sample - sigma * predicted, np.float32)
        if alpha < 1e-6:
            raise InputError(f"a network that predicts noise cannot start at time {time}: take 0.996")
        return np.asarray((sample - sigma * predicted) / alpha, np.float32)

    def noised(self, image: Float, noise: Float, time: float) -> Float:
        """The sample of this time between an image and a noise."""
        return np.asarray(self.alpha(time) * image + self.sigma(time) * noise, np.float32)


def check_steps(steps: int) -> None:
    """Refuse a number of steps that cannot be meant.

    Raises:
        InputError: no whole number in 1…1000.
    """
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or not 1 <= steps <= MAX_STEPS:
        raise InputError(f"got steps={steps!r}: expected a whole number from 1 to {MAX_STEPS}")


class Sampler(ABC):
    """Goes along `times`, which fall to 0. Call `step` with the indices 0, 1, … in order.

    Args:
        random: draws the noise of the samplers that add some.
        eta: share of the noise that DDIM adds anew, 0…1.
    """

    def __init__(
        self, schedule: Schedule, times: Sequence[float], random: np.random.Generator, eta: float = 0.0
    ) -> None:
        self.schedule = schedule
        self.times = tuple(times)
        self.random = random
        self.eta = eta

    @abstractmethod
    def step(self, index: int, sample: Float, clean: Float) -> Float:
        """The sample at times[index + 1], from that at times[index] and the estimate of x₀ there."""

    def _noise(self, sample: Float) -> Float:
        return self.random.standard_normal(sample.shape, np.float32)

    def _levels(self, index: int) -> tuple[float, float, float, float]:
        """α and σ at this time, then at the next."""
        now, then = self.times[index], self.times[index + 1]
        schedule = self.schedule
        return schedule.alpha(now), schedule.sigma(now), schedule.alpha(then), schedule.sigma(then)


class Ddim(Sampler):
    """Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", equation 12; deterministic at eta 0."""

    def step(self, index: int, sample: Float, clean: Float) -> Float:
        alpha, sigma, next_alpha, next_sigma = self._levels(index)
        noise = (sample - alpha * clean) / sigma
        fresh = self.eta * next_sigma / sigma * np.sqrt(max(0.0, 1 - (alpha / next_alpha) ** 2))
        kept = np.sqrt(max(0.0, next_sigma**2 - fresh**2))
        result = next_alpha * clean + kept * noise
        if fresh > 0:
            result = result + fresh * self._noise(sample)
        return np.asarray(result, np.float32)


class DpmSolver2M(Sampler):
    """Lu et al. 2022, "DPM-Solver++", algorithm 2: second order from one evaluation a step, deterministic.

    The first and the last step are of first order (there is no earlier estimate, and λ is infinite).
    """

    def __init__(
        self, schedule: Schedule, times: Sequence[float], random: np.random.Generator, eta: float = 0.0
    ) -> None:
        super().__init__(schedule, times, random, eta)
        self._before: Float | None = None

    def step(self, index: int, sample: Float, clean: Float) -> Float:
        _, sigma, next_alpha, next_sigma = self._levels(index)
        before, self._before = self._before, clean
        if next_sigma == 0.0:
            return np.asarray(next_alpha * clean, np.float32)
        now, then = (self.schedule.log_snr(time) for time in self.times[index : index + 2])
        estimate = clean
        if index and before is not None:
            ratio = (now - self.schedule.log_snr(self.times[index - 1])) / (then - now)
            estimate = clean + (clean - before) / (2 * ratio)
        return np.asarray(next_sigma / sigma * sample - next_alpha * np.expm1(now - then) * estimate, np.float32)


class Lcm(Sampler):
    """The estimate under fresh noise of the next time: multistep consistency sampling.

    Song et al. 2023, "Consistency Models", algorithm 1; Luo et al. 2023, "Latent Consistency Models".
    """

    def step(self, index: int, sample: Float, clean: Float) -> Float:
        _, _, next_alpha, next_sigma = self._levels(index)
        if next_sigma == 0.0:
            return np.asarray(next_alpha * clean, np.float32)
        return np.asarray(next_alpha * clean + next_sigma * self._noise(sample), np.float32)


SAMPLERS: dict[str, type[Sampler]] = {"dpm++2m": DpmSolver2M, "ddim": Ddim, "lcm": Lcm}


class Continuous:
    """A sampler behind the calls that the solvers of trained schedules have (`edgekit.solvers.Solver`)."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self._schedule = sampler, sampler.schedule
        self.times = sampler.times[:-1]
        self.clean: Float = np.zeros(1, np.float32)

    def begin(self, noise: Float, image: Float | None = None) -> Float:
        """The noise, or an image under as much of it as the first time has."""
        return noise if image is None else self._schedule.noised(image, noise, self.times[0])

    def seen(self, index: int, sample: Float) -> Float:
        """What the network is given: the sample itself."""
        return sample

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        """The next sample, from that at times[index] and the network's prediction; x₀ stays in −1…1."""
        self.clean = np.clip(self._schedule.clean(sample, predicted, self.times[index]), -1.0, 1.0)
        return self._sampler.step(index, sample, self.clean)
