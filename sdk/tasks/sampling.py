"""Sampling: what a diffusion bundle says of its network, and how one call of it goes from noise to an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edgekit.errors import InputError, ManifestError
from edgekit.schedulers import SAMPLERS, Continuous, Prediction, Schedule, check_steps
from edgekit.solvers import SOLVERS
from edgekit.tasks.conditions import PromptSettings
from edgekit.tasks.latents import LatentSettings
from edgekit.timesteps import Solver, TrainedSchedule

FEW_STEPS = "few-steps"
DISTILLED = "few_steps"  # the component that goes without guidance, one evaluation a step
MAX_GUIDANCE = 100.0
Walk = Solver | Continuous


class DiffuseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels` in the order of the one-hot input; `steps` and `guidance` are what sampling takes by itself.

    Networks of the zoo: `prediction`, `start` as `schedulers.Schedule` takes them; `few_steps`: the steps that the
    component of this name was distilled for, 0 where there is none. Networks of diffusers: their own `schedule`,
    `prompt` where they draw from a text, `latent` where they draw an autoencoder's codes.
    """

    labels: tuple[str, ...] = ()
    prediction: Prediction = "velocity"
    start: Annotated[float, Meta(ge=0.01, le=1)] = 0.996
    steps: Annotated[int, Meta(ge=1, le=1000)] = 10
    guidance: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE)] = 2.0
    few_steps: Annotated[int, Meta(ge=0, le=1000)] = 0
    schedule: TrainedSchedule | None = None
    prompt: PromptSettings | None = None
    latent: LatentSettings | None = None


@dataclass(frozen=True)
class Asked:
    """What a call says of sampling; None where it leaves it to the bundle, `strength` None without an image."""

    scheduler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    eta: float = 0.0
    strength: float | None = None


@dataclass(frozen=True)
class Plan:
    """How one call samples; `guidance` is None where the network is run once a step; `walk` makes a walk."""

    component: str
    guidance: float | None
    walk: Callable[[np.random.Generator], Walk]


class Plans(ABC):
    """Checks what is asked, and makes a plan of it; `schedulers` are the names there are, the bundle's own first."""

    schedulers: tuple[str, ...]

    def __init__(self, settings: DiffuseSettings) -> None:
        self.settings = settings

    def plan(self, asked: Asked) -> Plan:
        """The plan of a call.

        Raises:
            InputError: something asked cannot be had.
        """
        name = self.schedulers[0] if asked.scheduler is None else asked.scheduler
        if name not in self.schedulers:
            raise InputError(f"no scheduler {name!r}: expected one of {', '.join(self.schedulers)}")
        if asked.eta and name != "ddim":
            raise InputError(f"got eta={asked.eta} with '{name}': only scheduler='ddim' takes it")
        within("eta", asked.eta, 0.0, 1.0)
        return self._planned(name, asked)

    @abstractmethod
    def _planned(self, name: str, asked: Asked) -> Plan:
        """The plan with this scheduler."""

    def _guidance(self, asked: Asked) -> float:
        guidance = self.settings.guidance if asked.guidance is None else asked.guidance
        within("guidance", guidance, 0.0, MAX_GUIDANCE)
        return float(guidance)

    def _steps(self, asked: Asked) -> int:
        steps = self.settings.steps if asked.steps is None else asked.steps
        check_steps(steps)
        return int(steps)


class ContinuousPlans(Plans):
    """Plans of the zoo's networks, over the cosine schedule in continuous time."""

    def __init__(self, settings: DiffuseSettings) -> None:
        super().__init__(settings)
        self._schedule = Schedule(settings.prediction, settings.start)
        self.schedulers = (*SAMPLERS, *([FEW_STEPS] if settings.few_steps else []))

    def _planned(self, name: str, asked: Asked) -> Plan:
        if name in (FEW_STEPS, "lcm") and self.settings.few_steps:
            return self._few_steps(name, asked)
        guidance, start = self._guidance(asked), self._schedule.start
        if asked.strength is not None:
            within("strength", asked.strength, 0.001, 1.0)
            start *= asked.strength
        times = tuple(self._schedule.times(self._steps(asked), start))
        return self._plan("model", guidance, name, times, asked.eta)

    def _few_steps(self, name: str, asked: Asked) -> Plan:
        """The distilled network's own times, or some of them: it knows no others."""
        most = self.settings.few_steps
        if asked.guidance is not None:
            raise InputError(
                f"got guidance={asked.guidance} with '{name}': the distilled network has its own; leave it out"
            )
        if asked.strength is not None:
            raise InputError(f"got an image with '{name}': begin from one with 'dpm++2m' or 'ddim'")
        steps = most if asked.steps is None else asked.steps
        check_steps(steps)
        if steps > most:
            raise InputError(f"got steps={steps} with '{name}': the network was distilled for 1 to {most}")
        times = self._schedule.times(most)
        picked = np.round(np.linspace(0, most, steps + 1)).astype(int)
        return self._plan(DISTILLED, None, "lcm" if name == "lcm" else "ddim", tuple(times[i] for i in picked), 0.0)

    def _plan(self, component: str, guidance: float | None, name: str, times: tuple[float, ...], eta: float) -> Plan:
        def walk(random: np.random.Generator) -> Walk:
            return Continuous(SAMPLERS[name](self._schedule, times, random, eta))

        return Plan(component, guidance, walk)


class TrainedPlans(Plans):
    """Plans of networks that were trained on numbered time steps, as those of diffusers are."""

    def __init__(self, settings: DiffuseSettings) -> None:
        super().__init__(settings)
        if settings.schedule is None:
            raise ManifestError("a network trained on numbered time steps needs the setting 'schedule'")
        self._schedule = settings.schedule
        self.schedulers = tuple(dict.fromkeys((settings.schedule.solver, *SOLVERS)))

    def _planned(self, name: str, asked: Asked) -> Plan:
        steps, strength = self._steps(asked), 1.0 if asked.strength is None else asked.strength
        within("strength", strength, 0.001, 1.0)

        def walk(random: np.random.Generator) -> Walk:
            return SOLVERS[name](self._schedule, steps, random, asked.eta, strength)

        walk(np.random.default_rng(0))  # what it cannot do is said at once
        return Plan("model", self._guidance(asked), walk)


def plans(settings: DiffuseSettings) -> Plans:
    """The plans that fit a bundle's settings."""
    return ContinuousPlans(settings) if settings.schedule is None else TrainedPlans(settings)


def within(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number that is none, or beyond its range.

    Raises:
        InputError.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise InputError(f"got {name}={value!r}: expected a number from {low:g} to {high:g}")
