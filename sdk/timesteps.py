"""The noise schedule that a network was trained on, in numbered time steps, and what a walk along them is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from edgekit.errors import InputError
from edgekit.schedulers import Float

Floats = npt.NDArray[np.float64]
Spacing = Literal["linspace", "leading", "trailing"]
Name = Literal["ddim", "ddpm", "dpm++2m", "euler", "euler-ancestral", "lcm", "pndm"]
KARRAS_RHO = 7.0
TINY = np.float32(2.0**-24)  # what α² is held at where a schedule ends in pure noise and σ/α must be a number


class TrainedSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """A diffusers scheduler's own settings, as plain data: names and meanings are those of scheduler_config.json.

    `solver` stands for the class. A sample at step t is α·x₀ + σ·ε, with α² = Π (1 − β) up to t. The network
    predicts ε ("epsilon"), x₀ ("sample") or α·ε − σ·x₀ ("v_prediction").
    """

    solver: Name
    num_train_timesteps: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    beta_start: Annotated[float, Meta(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[Annotated[float, Meta(gt=0, lt=1)], ...] = ()
    rescale_betas_zero_snr: bool = False
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: Annotated[int, Meta(ge=0, le=1000)] = 0
    clip_sample: bool = False
    clip_sample_range: Annotated[float, Meta(gt=0)] = 1.0
    set_alpha_to_one: bool = True
    skip_prk_steps: bool = True
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    sigma_min: Annotated[float, Meta(gt=0)] | None = None
    sigma_max: Annotated[float, Meta(gt=0)] | None = None
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    solver_order: Annotated[int, Meta(ge=1, le=2)] = 2
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    original_inference_steps: Annotated[int, Meta(ge=1, le=100_000)] = 50
    timestep_scaling: float = 10.0
    variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small"

    def __post_init__(self) -> None:
        if len(self.trained_betas) not in (0, self.num_train_timesteps):
            raise ValueError(f"{len(self.trained_betas)} trained_betas for {self.num_train_timesteps} time steps")

    @cached_property
    def alphas(self) -> Float:
        """α² of every time step (diffusers: `alphas_cumprod`); float32, as it was when the network was trained."""
        kept = np.float32(1.0) - np.asarray(self.trained_betas or _betas(self), np.float32)
        if self.rescale_betas_zero_snr:
            kept = _ending_in_noise(kept)
        return np.cumprod(kept.astype(np.float64)).astype(np.float32)

    @property
    def final_alpha(self) -> float:
        """α² of the image itself, after the last step."""
        return 1.0 if self.set_alpha_to_one else float(self.alphas[0])

    @cached_property
    def ratios(self) -> Float:
        """σ/α of every time step, finite where a schedule ends in pure noise."""
        alphas = self.alphas
        if self.rescale_betas_zero_snr:
            alphas = np.append(alphas[:-1], TINY)
        return single(np.sqrt((np.float32(1.0) - alphas) / alphas))

    def alpha_at(self, step: float) -> float:
        """α² at a time step; that of the image where the step lies before the first."""
        return float(self.alphas[int(step)]) if step >= 0 else self.final_alpha

    def steps(self, count: int) -> Floats:
        """`count` time steps of the range, falling, as DDIM visits them."""
        train = self.num_train_timesteps
        self.check(count, self.most_leading if self.timestep_spacing == "leading" else train)
        if self.timestep_spacing == "linspace":
            return np.linspace(0, train - 1, count).round()[::-1]
        if self.timestep_spacing == "leading":
            return (np.arange(count) * (train // count))[::-1].astype(np.float64) + self.steps_offset
        return np.round(np.arange(train, 0, -train / count)) - 1

    @property
    def most_leading(self) -> int:
        """The most steps whose first, moved by the offset, is still one that the network was trained on."""
        train = self.num_train_timesteps
        return next(n for n in range(train, 0, -1) if (n - 1) * (train // n) + self.steps_offset < train or n == 1)

    def check(self, count: int, most: int | None = None) -> None:
        """Refuse more steps than there are.

        Raises:
            InputError.
        """
        most = self.num_train_timesteps if most is None else most
        if count > most:
            raise InputError(
                f"got steps={count}: expected 1 to {most} of the {self.num_train_timesteps} it was trained on"
            )

    def spread(self, high: float, low: float, count: int) -> Floats:
        """`count` values of σ/α from high to low, spread as the settings say, whose own range comes first.

        Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", equation 5; or
        evenly in their logarithm.
        """
        low = low if self.sigma_min is None else self.sigma_min
        high = high if self.sigma_max is None else self.sigma_max
        if not self.use_karras_sigmas:
            return np.exp(np.linspace(math.log(high), math.log(low), count))
        ends = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
        return np.asarray((ends[0] + np.linspace(0, 1, count) * (ends[1] - ends[0])) ** KARRAS_RHO)

    def step_of(self, ratios: Floats) -> Floats:
        """The time steps, with fractions, that have these σ/α."""
        return np.interp(np.log(np.maximum(ratios, 1e-10)), np.log(self.ratios), np.arange(len(self.ratios)))

    @property
    def final_ratio(self) -> float:
        return 0.0 if self.final_sigmas_type == "zero" else float(self.ratios[0])


class Solver(ABC):
    """One walk from noise to an image: a network is asked once for each of `times`, in order.

    `begin` gives the first sample, `seen` what the network sees of a sample, `step` the next sample from what the
    network predicted. `clean` is the estimate of x₀ at the last step.

    Args:
        steps: how many; some solvers ask the network more often.
        strength: 1, or the part of the way (above 0) that an image is noised to and led back from.
        eta: share of the noise that DDIM adds anew, 0…1.
        random: draws the noise of the solvers that add some.
    """

    takes_eta: ClassVar[bool] = False

    def __init__(
        self,
        schedule: TrainedSchedule,
        steps: int,
        random: np.random.Generator,
        eta: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        self.schedule, self.steps, self.random, self.eta = schedule, steps, random, eta
        self.skipped = steps - max(1, min(int(steps * strength), steps))
        self.clean: Float = np.zeros(1, np.float32)
        self._visited = self._visit()
        self.times = tuple(float(time) for time in self._visited[self.skipped :])

    @abstractmethod
    def _visit(self) -> Floats:
        """Every time that a whole walk visits, the first of the noise."""

    def begin(self, noise: Float, image: Float | None = None) -> Float:
        """The first sample: the noise N(0, 1), or an image under as much of it as the first time has."""
        if image is None:
            return noise
        alpha = self.schedule.alpha_at(self.times[0])
        return single(alpha**0.5 * image + (1 - alpha) ** 0.5 * noise)

    def seen(self, index: int, sample: Float) -> Float:
        """What the network is given for the sample at times[index]."""
        return sample

    @abstractmethod
    def step(self, index: int, sample: Float, predicted: Float) -> Float:
        """The next sample, from that at times[index] and the network's prediction there."""

    def _noise(self, sample: Float) -> Float:
        return self.random.standard_normal(sample.shape, np.float32)

    def _parted(self, sample: Float, predicted: Float, alpha: float, sigma: float) -> tuple[Float, Float]:
        """x₀ and ε that a prediction at these levels amounts to; x₀ is clipped where the settings say so.

        Raises:
            InputError: ε says nothing of x₀ where there is nothing but noise.
        """
        kind = self.schedule.prediction_type
        if kind == "epsilon":
            if alpha == 0.0:
                raise InputError("a network that predicts noise cannot begin at pure noise: use spacing 'leading'")
            clean, noise = single((sample - sigma * predicted) / alpha), predicted
        elif kind == "v_prediction":
            clean, noise = single(alpha * sample - sigma * predicted), single(alpha * predicted + sigma * sample)
        else:
            clean, noise = predicted, single((sample - alpha * predicted) / sigma)
        if self.schedule.clip_sample:
            clean = clean.clip(-self.schedule.clip_sample_range, self.schedule.clip_sample_range)
        self.clean = clean
        return clean, noise


def _betas(schedule: TrainedSchedule) -> Floats:
    """β of every time step; "squaredcos_cap_v2" is the cosine schedule of Nichol & Dhariwal 2021."""
    count = schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        return np.linspace(schedule.beta_start, schedule.beta_end, count)
    if schedule.beta_schedule == "scaled_linear":
        return np.asarray(np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, count) ** 2)
    kept = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.asarray(np.minimum(1.0 - kept[1:] / kept[:-1], 0.999))


def _ending_in_noise(kept: Float) -> Float:
    """1 − β of every step, such that nothing of the image is left at the last (Lin et al. 2024, algorithm 1)."""
    roots = np.sqrt(np.cumprod(kept.astype(np.float64)).astype(np.float32))
    products = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    shares = np.append(products[:1], products[1:] / products[:-1])
    return np.asarray(np.float32(1.0) - (np.float32(1.0) - shares), np.float32)


def single(array: npt.NDArray[np.floating[Any]]) -> Float:
    """float32, whatever the arithmetic made of it."""
    return np.asarray(array, np.float32)
