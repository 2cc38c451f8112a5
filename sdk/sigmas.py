"""Solvers that follow σ/α, the noise to the signal, down to 0: Euler, its ancestral form, DPM-Solver++ (2M)."""

from __future__ import annotations

import math

import numpy as np

from edgekit.errors import InputError
from edgekit.schedulers import Float
from edgekit.timesteps import Floats, Solver, TrainedSchedule, single


class SigmaSolver(Solver):
    """What they share: `ratios`, σ/α at every time and at the end."""

    def __init__(
        self,
        schedule: TrainedSchedule,
        steps: int,
        random: np.random.Generator,
        eta: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        self._all_ratios: Floats = np.zeros(0)
        super().__init__(schedule, steps, random, eta, strength)
        self.ratios: list[float] = self._all_ratios[self.skipped :].astype(np.float32).tolist()

    def _levels(self, index: int) -> tuple[float, float]:
        """α and σ where σ/α is that of the index."""
        alpha = 1 / (self.ratios[index] ** 2 + 1) ** 0.5
        return alpha, self.ratios[index] * alpha


class Euler(SigmaSolver):
    """EulerDiscreteScheduler. Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
    Models", algorithm 2 without its noise; samples are x₀ + (σ/α)·ε.
    """

    def _visit(self) -> Floats:
        times = self._times()
        schedule = self.schedule
        ratios = np.interp(times, np.arange(len(schedule.ratios)), schedule.ratios)
        if schedule.interpolation_type == "log_linear":
            ends = math.log(schedule.ratios[-1]), math.log(schedule.ratios[0])
            ratios = np.exp(np.linspace(*ends, self.steps + 1))
        if schedule.use_karras_sigmas or schedule.use_exponential_sigmas:
            ratios = schedule.spread(ratios[0], ratios[-1], self.steps)
            times = schedule.step_of(ratios)
        self._all_ratios = np.append(ratios, schedule.final_ratio)
        return times.astype(np.float32).astype(np.float64)

    def _times(self) -> Floats:
        if self.schedule.timestep_spacing != "linspace":
            return self.schedule.steps(self.steps)
        self.schedule.check(self.steps)
        return np.linspace(0, self.schedule.num_train_timesteps - 1, self.steps, dtype=np.float32)[::-1].astype(float)

    def begin(self, noise: Float, image: Float | None = None) -> Float:
        if image is not None:
            return single(image + self.ratios[0] * noise)
        largest = float(self._all_ratios.astype(np.float32).max())
        leading = self.schedule.timestep_spacing == "leading"
        return single(noise * ((largest**2 + 1) ** 0.5 if leading else largest))

    def seen(self, index: int, sample: Float) -> Float:
        return single(sample / (self.ratios[index] ** 2 + 1) ** 0.5)

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        ratio = self.ratios[index]
        slope = (sample - self._cleaned(index, sample, predicted)) / ratio
        return single(sample + slope * (self.ratios[index + 1] - ratio))

    def _cleaned(self, index: int, sample: Float, predicted: Float) -> Float:
        ratio = self.ratios[index]
        if self.schedule.prediction_type == "epsilon":
            clean = sample - ratio * predicted
        elif self.schedule.prediction_type == "v_prediction":
            clean = sample / (ratio**2 + 1) - predicted * (ratio / (ratio**2 + 1) ** 0.5)
        else:
            clean = predicted
        self.clean = single(clean)
        return self.clean


class EulerAncestral(Euler):
    """EulerAncestralDiscreteScheduler: a step further than the next σ/α, and noise back up to it."""

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        ratio, then = self.ratios[index], self.ratios[index + 1]
        up = (then**2 * (ratio**2 - then**2) / ratio**2) ** 0.5
        down = (then**2 - up**2) ** 0.5
        slope = (sample - self._cleaned(index, sample, predicted)) / ratio
        return single(sample + slope * (down - ratio) + up * self._noise(sample))


class DpmSolver2M(SigmaSolver):
    """DPMSolverMultistepScheduler with algorithm "dpmsolver++" of first or second order.

    Lu et al. 2022, "DPM-Solver++", algorithm 2. The last of fewer than 15 steps is of first order.
    """

    _before: Float | None = None  # what the last step took for the image

    def _visit(self) -> Floats:
        schedule, count = self.schedule, self.steps
        times = self._times(count)
        if schedule.use_karras_sigmas or schedule.use_exponential_sigmas:
            ratios = schedule.spread(schedule.ratios[-1], schedule.ratios[0], count)
            times = schedule.step_of(ratios)
            if schedule.use_karras_sigmas and schedule.beta_schedule != "squaredcos_cap_v2":
                times = times.round()
            times = np.trunc(times)
        else:
            ratios = np.interp(times, np.arange(len(schedule.ratios)), schedule.ratios)
        if (np.diff(ratios) >= 0).any():
            raise InputError(f"got steps={count}: two of them fall on one time step; take fewer")
        self._all_ratios = np.append(ratios, schedule.final_ratio)
        return times

    def _times(self, count: int) -> Floats:
        """One more than there are steps, without the last of them."""
        schedule, train = self.schedule, self.schedule.num_train_timesteps
        schedule.check(count)
        if schedule.timestep_spacing == "linspace":
            return np.linspace(0, train - 1, count + 1).round()[::-1][:-1]
        if schedule.timestep_spacing == "leading":
            return (np.arange(count + 1) * (train // (count + 1)))[::-1][:-1].astype(np.float64) + schedule.steps_offset
        return schedule.steps(count)

    def begin(self, noise: Float, image: Float | None = None) -> Float:
        if image is None:
            return noise
        alpha, sigma = self._levels(0)
        return single(alpha * image + sigma * noise)

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        (alpha, sigma), (next_alpha, next_sigma) = self._levels(index), self._levels(index + 1)
        clean, _ = self._parted(sample, predicted, alpha, sigma)
        before, self._before = self._before, clean
        if next_sigma == 0.0:
            return single(next_alpha * clean)
        ahead = math.log(self.ratios[index] / self.ratios[index + 1])
        result = next_sigma / sigma * sample - next_alpha * math.expm1(-ahead) * clean
        if before is None or self.schedule.solver_order == 1 or self._last_is_first_order(index):
            return single(result)
        turn = (clean - before) * (ahead / math.log(self.ratios[index - 1] / self.ratios[index]))
        weight = math.expm1(-ahead) / 2 if self.schedule.solver_type == "midpoint" else -math.expm1(-ahead) / ahead - 1
        return single(result - next_alpha * weight * turn)

    def _last_is_first_order(self, index: int) -> bool:
        schedule = self.schedule
        short = schedule.lower_order_final and self.steps < 15
        return index + 1 == len(self.times) and (schedule.euler_at_final or short or schedule.final_ratio == 0.0)
