"""Solvers step for step beside the scheduler classes of diffusers: the same predictions lead to the same samples."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from edgekit.errors import InputError
from edgekit.solvers import SOLVERS
from edgekit.timesteps import TrainedSchedule

diffusers = pytest.importorskip("diffusers")

from edgekit.exporters.readers.schedules import SOLVERS as CLASSES  # noqa: E402
from edgekit.exporters.readers.schedules import schedule_of  # noqa: E402

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
LARGEST = 1e-4  # of the largest value of a sample
FROM_NOISE = 1e-3  # the same where σ/α begins at 4,096: what is left of a sample's float32 there has four digits
SHAPE = (1, 4, 6, 6)


def settings_of(kind: str) -> list[dict[str, Any]]:
    """Settings of a scheduler class that change its arithmetic, among those that it has."""
    known = set(inspect.signature(getattr(diffusers, kind).__init__).parameters)
    spacings = [{"timestep_spacing": s, "prediction_type": "v_prediction"} for s in ("linspace", "leading", "trailing")]
    flags = ("rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas", "euler_at_final")
    further = [
        *({flag: True, "prediction_type": "v_prediction"} for flag in flags),
        {"prediction_type": "sample"} if kind != "PNDMScheduler" and "Ancestral" not in kind else {},
        {"set_alpha_to_one": False},
        {"clip_sample": False},
        {"final_sigmas_type": "sigma_min"},
        {"skip_prk_steps": True},
        {"solver_type": "heun"},
        {"solver_order": 1},
        {"interpolation_type": "log_linear"},
        {"variance_type": "fixed_large"},
        {"trained_betas": [0.01 * (i + 1) for i in range(60)], "num_train_timesteps": 60},
    ]
    every = [{}, *spacings, *further]
    return [{**STABLE, **s} for s in every if set(s) <= known]


CASES = [(kind, s) for kind in CLASSES for s in settings_of(kind)]


def predicted(seen: np.ndarray, time: float) -> np.ndarray:
    """A network, of a kind."""
    return np.asarray(np.tanh(0.7 * seen + np.float32(1e-3 * time)) + 0.1 * np.roll(seen, 1, -1), np.float32)


class Walks:
    """Both walks from one noise, fed with the same predictions and, where they add some, the same noise."""

    def __init__(self, kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self.theirs = getattr(diffusers, kind)(**settings)
        self.schedule = msgspec.convert(schedule_of(self.theirs), TrainedSchedule)
        self.random = np.random.default_rng(1)
        module = inspect.getmodule(type(self.theirs))
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(
                module,
                "randn_tensor",
                lambda shape, **_: torch.from_numpy(self.random.standard_normal(tuple(shape), "f4")),
            )

    def departure(self, steps: int, eta: float = 0.0, strength: float = 1.0) -> float:
        """The largest difference of any sample, as a part of the largest value."""
        random = np.random.default_rng(0)
        noise, image = (random.standard_normal(SHAPE, np.float32) for _ in range(2))
        begun = image if strength < 1 else None
        ours = SOLVERS[self.schedule.solver](self.schedule, steps, np.random.default_rng(1), eta, strength)
        mine, yours = ours.begin(noise, begun), self._begun(noise, begun, steps, strength)
        np.testing.assert_allclose(ours.times, self.times, rtol=1e-4, atol=2e-3)
        self.random = np.random.default_rng(1)
        extra = {"eta": eta} if self.schedule.solver == "ddim" else {}
        worst = float(np.abs(mine - yours.numpy()).max() / max(1.0, np.abs(mine).max()))
        for index, time in enumerate(self.times):
            answer = torch.from_numpy(predicted(self.theirs.scale_model_input(yours, time).numpy(), float(time)))
            yours = self.theirs.step(answer, time, yours, **extra).prev_sample
            mine = ours.step(index, mine, predicted(ours.seen(index, mine), ours.times[index]))
            worst = max(worst, float(np.abs(mine - yours.numpy()).max() / max(1.0, np.abs(mine).max())))
        return worst

    def _begun(self, noise: np.ndarray, image: np.ndarray | None, steps: int, strength: float) -> torch.Tensor:
        """As the pipelines begin, of noise or of an image."""
        self.theirs.set_timesteps(steps)
        self.times = self.theirs.timesteps
        if image is None:
            return torch.from_numpy(noise) * self.theirs.init_noise_sigma
        skipped = steps - int(steps * strength)
        self.times = self.times[skipped:]
        if hasattr(self.theirs, "set_begin_index"):
            self.theirs.set_begin_index(skipped)
        return self.theirs.add_noise(torch.from_numpy(image), torch.from_numpy(noise), self.times[:1])


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_steps_are_those_of_diffusers(kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    walks = Walks(kind, settings, monkeypatch)
    for steps in (5, 20):
        assert walks.departure(steps) < (FROM_NOISE if walks.schedule.rescale_betas_zero_snr else LARGEST)
    if walks.schedule.solver != "pndm" or walks.schedule.skip_prk_steps:
        assert walks.departure(10, strength=0.6) < LARGEST


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("base", [COSINE, {}], ids=["cosine", "linear"])
def test_other_betas(kind: str, base: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    walks = Walks(kind, {**base, "timestep_spacing": "leading"} if kind != "LCMScheduler" else base, monkeypatch)
    assert max(walks.departure(steps) for steps in (4, 7, 25)) < LARGEST


def test_noise_that_ddim_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    walks = Walks("DDIMScheduler", {**STABLE, "clip_sample": False}, monkeypatch)
    assert max(walks.departure(10, eta=eta) for eta in (0.3, 1.0)) < LARGEST


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_one_step(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**STABLE, "skip_prk_steps": True} if kind == "PNDMScheduler" else STABLE
    assert Walks(kind, settings, monkeypatch).departure(1) < LARGEST


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("UniPCMultistepScheduler", {}, "UniPCMultistepScheduler: .*DPMSolverMultistepScheduler.from_config"),
        ("DDIMScheduler", {"thresholding": True}, "thresholding=True"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "sde-dpmsolver"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "continuous"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type"),
        ("DDPMScheduler", {"beta_schedule": "sigmoid"}, "beta_schedule"),
    ],
)
def test_what_cannot_be_followed_is_named(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule_of(getattr(diffusers, kind)(**settings))


def test_more_steps_than_there_are() -> None:
    schedule = TrainedSchedule("ddim", num_train_timesteps=10)
    with pytest.raises(InputError, match="steps=11.*1 to 10"):
        SOLVERS["ddim"](schedule, 11, np.random.default_rng(0))
    with pytest.raises(InputError, match="1 to 50"):
        SOLVERS["lcm"](TrainedSchedule("lcm"), 51, np.random.default_rng(0))
    with pytest.raises(InputError, match="4 and more"):
        SOLVERS["pndm"](TrainedSchedule("pndm", skip_prk_steps=False), 3, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["ddim", "ddpm", "pndm"])
def test_the_offset_leaves_no_step_beyond_the_last(kind: str) -> None:
    schedule = TrainedSchedule(kind, steps_offset=1)
    assert schedule.most_leading == 999
    with pytest.raises(InputError, match="expected 1 to 999"):
        SOLVERS[kind](schedule, 1000, np.random.default_rng(0))


def test_steps_that_fall_on_one_another_are_refused() -> None:
    with pytest.raises(InputError, match="two of them fall on one time step"):
        SOLVERS["dpm++2m"](TrainedSchedule("dpm++2m", steps_offset=1), 1000, np.random.default_rng(0))


@pytest.mark.parametrize(
    "settings",
    [{"original_inference_steps": 10**13}, {"trained_betas": [0.1, 0.2]}, {"sigma_min": -1.0}],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_a_hostile_bundle_are_bounded(settings: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"solver": "ddim", **settings}, TrainedSchedule)
