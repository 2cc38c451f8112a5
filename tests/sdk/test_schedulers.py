"""Samplers against the one case that is solved in closed form: Gaussian data, whose exact denoiser is linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgekit.errors import InputError
from edgekit.schedulers import SAMPLERS, Float, Schedule

MEAN, SPREAD = 0.3, 0.5  # of the data, N(MEAN, SPREAD²)


def exact_clean(schedule: Schedule, sample: Float, time: float) -> Float:
    """E[x₀ | x] for Gaussian data."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
    return np.asarray(MEAN + gain * (sample - alpha * MEAN), np.float32)


def standing(schedule: Schedule, sample: Float, time: float) -> Float:
    """The quantile of a sample at a time, which the probability flow keeps: its distance from the mean in deviations."""
    alpha, sigma = schedule.alpha(time), schedule.sigma(time)
    return np.asarray((sample - alpha * MEAN) / np.sqrt(alpha**2 * SPREAD**2 + sigma**2), np.float32)


def sampled(
    name: str, times: Sequence[float], count: int = 4_000, eta: float = 0.0, seed: int = 0
) -> tuple[Float, Float]:
    """(first, last) samples of a walk with the exact denoiser."""
    schedule, random = Schedule(), np.random.default_rng(seed)
    sampler = SAMPLERS[name](schedule, times, random, eta)
    first = sample = random.standard_normal(count, np.float32)
    for index, time in enumerate(times[:-1]):
        sample = sampler.step(index, sample, exact_clean(schedule, sample, time))
    return first, sample


def error(name: str, times: Sequence[float]) -> float:
    """Root mean squared distance from the exact solution, in deviations."""
    first, last = sampled(name, times)
    schedule = Schedule()
    return float(np.sqrt(np.mean((standing(schedule, last, times[-1]) - standing(schedule, first, times[0])) ** 2)))


def even(steps: int) -> list[float]:
    """Times from 0.9 to 0.1 that are evenly spaced in log-SNR: where orders of convergence show."""
    ends = [Schedule().log_snr(time) for time in (0.9, 0.1)]
    return [float(2 / np.pi * np.arctan(np.exp(-log_snr))) for log_snr in np.linspace(*ends, steps + 1)]


@pytest.mark.parametrize(("name", "eta"), [("dpm++2m", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("lcm", 0.0)])
def test_reaches_the_data(name: str, eta: float) -> None:
    _, last = sampled(name, Schedule().times(200), count=20_000, eta=eta)
    assert last.dtype == np.float32
    assert abs(last.mean() - MEAN) < 0.02
    # the estimate under fresh noise is the mean of what is possible: consistency sampling with an exact denoiser
    # (not a consistency model) narrows the data
    assert abs(last.std() - SPREAD) < 0.02 or name == "lcm"


def test_orders_of_convergence() -> None:
    """Twice the steps halve DDIM's error and quarter that of DPM-Solver++ 2M."""
    assert error("ddim", even(20)) / error("ddim", even(40)) == pytest.approx(2.0, abs=0.2)
    assert error("dpm++2m", even(40)) / error("dpm++2m", even(80)) == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("steps", [10, 20])
def test_second_order_pays_at_few_steps(steps: int) -> None:
    assert error("dpm++2m", Schedule().times(steps)) < 0.4 * error("ddim", Schedule().times(steps))


def test_ddim_is_exact_for_one_point() -> None:
    """Data that is one image: every estimate is it, and so is the end, from wherever and in however few steps."""
    schedule = Schedule()
    for name in SAMPLERS:
        sampler = SAMPLERS[name](schedule, schedule.times(3), np.random.default_rng(0))
        sample, image = np.ones((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 0.25, np.float32)
        for index in range(3):
            sample = sampler.step(index, sample, image)
        np.testing.assert_allclose(sample, image, atol=1e-6)


def test_ddim_follows_the_noise() -> None:
    """On the line between an image and a noise, DDIM at eta 0 stays on it."""
    schedule = Schedule()
    image, noise = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 4), np.float32)
    sampler = SAMPLERS["ddim"](schedule, schedule.times(5), np.random.default_rng(0))
    sample = schedule.noised(image, noise, sampler.times[1])
    np.testing.assert_allclose(
        sampler.step(1, sample, image), schedule.noised(image, noise, sampler.times[2]), atol=1e-6
    )


@pytest.mark.parametrize("prediction", ["velocity", "noise", "image"])
def test_predictions_agree(prediction: str) -> None:
    """The three things that a network may predict amount to the same image."""
    schedule = Schedule(prediction)  # type: ignore[arg-type]
    image, noise = np.random.default_rng(0).standard_normal((2, 1, 1, 4, 4), np.float32)
    for time in (0.1, 0.5, 0.9):
        alpha, sigma = schedule.alpha(time), schedule.sigma(time)
        predicted = {"velocity": alpha * noise - sigma * image, "noise": noise, "image": image}[prediction]
        clean = schedule.clean(schedule.noised(image, noise, time), predicted.astype(np.float32), time)
        np.testing.assert_allclose(clean, image, atol=1e-5)
        assert alpha**2 + sigma**2 == pytest.approx(1.0)


def test_noise_is_drawn_by_the_given_generator() -> None:
    for name, eta in (("ddim", 1.0), ("lcm", 0.0)):
        same = [sampled(name, Schedule().times(4), eta=eta, seed=3)[1] for _ in range(2)]
        np.testing.assert_array_equal(*same)
        assert not np.array_equal(same[0], sampled(name, Schedule().times(4), eta=eta, seed=4)[1])


def test_times() -> None:
    times = Schedule().times(4)
    assert times[0] == 0.996 and times[-1] == 0.0 and len(times) == 5
    assert Schedule().times(12)[::3] == pytest.approx(times)
    assert Schedule().log_snr(0.5) == pytest.approx(0.0) and Schedule().log_snr(0.0) == np.inf


@pytest.mark.parametrize("steps", [0, -1, 10_000, 2.5, True])
def test_refuses_steps(steps: int) -> None:
    with pytest.raises(InputError, match="from 1 to 1000"):
        Schedule().times(steps)


def test_refuses_what_has_no_meaning() -> None:
    with pytest.raises(InputError, match="start"):
        Schedule().times(4, start=1.5)
    with pytest.raises(InputError, match="predicts noise"):
        Schedule("noise").clean(np.zeros(1, np.float32), np.zeros(1, np.float32), 1.0)
