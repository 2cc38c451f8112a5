"""Solvers of diffusion over a trained schedule, in NumPy, each step for step what the diffusers class computes."""

from __future__ import annotations

import numpy as np

from edgekit.errors import InputError
from edgekit.schedulers import Float
from edgekit.sigmas import DpmSolver2M, Euler, EulerAncestral
from edgekit.timesteps import Floats, Solver, TrainedSchedule, single


class Ddim(Solver):
    """DDIMScheduler. Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", equation 12."""

    takes_eta = True

    def _visit(self) -> Floats:
        return self.schedule.steps(self.steps)

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        schedule, time = self.schedule, self.times[index]
        alpha, then = schedule.alpha_at(time), schedule.alpha_at(time - schedule.num_train_timesteps // self.steps)
        clean, noise = self._parted(sample, predicted, alpha**0.5, (1 - alpha) ** 0.5)
        fresh = self.eta * ((1 - then) / (1 - alpha) * (1 - alpha / then)) ** 0.5
        result = then**0.5 * clean + max(0.0, 1 - then - fresh**2) ** 0.5 * noise
        return single(result + fresh * self._noise(sample) if self.eta > 0 else result)


class Ddpm(Solver):
    """DDPMScheduler. Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models", equations 6 and 7."""

    def _visit(self) -> Floats:
        return self.schedule.steps(self.steps)

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        time = self.times[index]
        then = self.times[index + 1] if index + 1 < len(self.times) else -1
        alpha, next_alpha = self.schedule.alpha_at(time), self.schedule.alpha_at(then) if then >= 0 else 1.0
        clean, _ = self._parted(sample, predicted, alpha**0.5, (1 - alpha) ** 0.5)
        beta = 1 - alpha / next_alpha
        result = next_alpha**0.5 * beta / (1 - alpha) * clean
        result = result + (alpha / next_alpha) ** 0.5 * (1 - next_alpha) / (1 - alpha) * sample
        if time <= 0:
            return single(result)
        small = max((1 - next_alpha) / (1 - alpha) * beta, 1e-20)
        variance = small if self.schedule.variance_type == "fixed_small" else beta
        return single(result + variance**0.5 * self._noise(sample))


class Pndm(Solver):
    """PNDMScheduler. Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on Manifolds".

    The linear multistep method of fourth order; its first steps are of lower order, or of the Runge-Kutta
    method, four predictions each, where the settings do not skip them.
    """

    def __init__(
        self,
        schedule: TrainedSchedule,
        steps: int,
        random: np.random.Generator,
        eta: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        super().__init__(schedule, steps, random, eta, strength)
        if self.runge and self.skipped:
            raise InputError("got an image with 'pndm' and its Runge-Kutta steps: begin from one with 'ddim'")
        self._before: list[Float] = []
        self._held: Float | None = None
        self._sum: Float = np.zeros(1, np.float32)

    @property
    def runge(self) -> int:
        """How many predictions go into Runge-Kutta steps."""
        return 0 if self.schedule.skip_prk_steps else 12

    def _visit(self) -> Floats:
        steps = self.schedule.steps(self.steps)
        if not self.runge:
            return np.concatenate([steps[:1], steps[1:2], steps[1:]])
        if self.steps < 4:
            raise InputError(f"got steps={self.steps}: 'pndm' with its Runge-Kutta steps takes 4 and more")
        half = self.schedule.num_train_timesteps // self.steps // 2
        doubled = steps[:4][::-1].repeat(2) + np.tile([0, half], 4)
        return np.concatenate([doubled[:-1].repeat(2)[1:-1][::-1], steps[3:]])

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        stride, time = self.schedule.num_train_timesteps // self.steps, self.times[index]
        if index < self.runge:
            return self._runge_kutta(index, sample, predicted)
        if index == 1 and not self.runge:  # the first step once more, with what was predicted at its end
            assert self._held is not None
            return self._moved(self._held, single((predicted + self._before[-1]) / 2), time + stride, time)
        self._before = [*self._before[-3:], predicted]
        if index == 0:
            self._held = sample
        weights = _ADAMS_BASHFORTH[len(self._before)]
        mixed = np.zeros_like(predicted)
        for weight, before in zip(weights, reversed(self._before), strict=True):
            mixed += np.float32(weight) * before
        return self._moved(sample, mixed, time, time - stride)

    def _runge_kutta(self, index: int, sample: Float, predicted: Float) -> Float:
        place, start = index % 4, self.times[index // 4 * 4]
        half = self.schedule.num_train_timesteps // self.steps // 2
        if place == 0:
            self._before, self._held, self._sum = [*self._before, predicted], sample, np.zeros_like(sample)
        self._sum = single(self._sum + predicted / (6 if place in (0, 3) else 3))
        assert self._held is not None
        chosen = self._sum if place == 3 else predicted
        return self._moved(self._held, single(chosen), start, self.times[index] - (0 if index % 2 else half))

    def _moved(self, sample: Float, predicted: Float, time: float, then: float) -> Float:
        """Equation 11 of the paper."""
        now, later = self.schedule.alpha_at(time), self.schedule.alpha_at(then)
        _, noise = self._parted(sample, predicted, now**0.5, (1 - now) ** 0.5)
        span = now * (1 - later) ** 0.5 + (now * (1 - now) * later) ** 0.5
        return single((later / now) ** 0.5 * sample - (later - now) / span * noise)


_ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class Lcm(Solver):
    """LCMScheduler. Luo et al. 2023, "Latent Consistency Models", algorithm 3."""

    def _visit(self) -> Floats:
        schedule = self.schedule
        schedule.check(self.steps, min(schedule.original_inference_steps, schedule.num_train_timesteps))
        stride = schedule.num_train_timesteps // schedule.original_inference_steps
        learnt = (np.arange(1, schedule.original_inference_steps + 1) * stride - 1)[::-1]
        places = np.floor(np.linspace(0, len(learnt), self.steps, endpoint=False)).astype(np.int64)
        return learnt[places].astype(np.float64)

    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        time = self.times[index]
        alpha = self.schedule.alpha_at(time)
        clean, _ = self._parted(sample, predicted, alpha**0.5, (1 - alpha) ** 0.5)
        scaled, spread = time * self.schedule.timestep_scaling, 0.5
        total = scaled**2 + spread**2
        self.clean = clean = single(scaled / total**0.5 * clean + spread**2 / total * sample)
        if index + 1 == len(self.times):
            return clean
        then = self.schedule.alpha_at(self.times[index + 1])
        return single(then**0.5 * clean + (1 - then) ** 0.5 * self._noise(sample))


SOLVERS: dict[str, type[Solver]] = {
    "ddim": Ddim,
    "ddpm": Ddpm,
    "dpm++2m": DpmSolver2M,
    "euler": Euler,
    "euler-ancestral": EulerAncestral,
    "lcm": Lcm,
    "pndm": Pndm,
}
