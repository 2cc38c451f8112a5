"""Few-step diffusion: a student that goes its teacher's guided way in a third of the steps, without guidance.

Progressive distillation (Salimans & Ho 2022) of a guided teacher (Meng et al. 2023, "On Distillation of
Guided Diffusion Models") in one leap: the teacher's deterministic trajectories are recorded once; the
student, which begins as the teacher, takes long DDIM steps from the same noise, and learns at each of them
to land where the teacher was at that time, from where its own steps before have brought it. It needs no data.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor

from edgekit.schedulers import DpmSolver2M, Float, Sampler, Schedule
from edgekit.zoo.diffusion import Recipe, fall
from edgekit.zoo.training import Checkpoint, fingerprint, update_average
from edgekit.zoo.unet import UNet

STEPS = 4  # of the student
TEACHER_STEPS = 12
CHUNK = 500  # trajectories of one file
SCHEDULE = Schedule()


@torch.no_grad()
def denoise(
    net: UNet, sampler: Sampler, sample: Float, label: Float, guidance: float | None = None
) -> Iterator[tuple[Float, Float, float]]:
    """The way from noise to images in PyTorch: before each step (sample, the estimate of x₀, time), all at the end.

    Args:
        sample: float32 count × channels × side × side, N(0, 1). label: float32 count × classes.
        guidance: of the classifier-free kind (Ho & Salimans 2022), two evaluations a step; None takes one.
    """
    for index, time in enumerate(sampler.times[:-1]):
        velocity = guided(net, torch.from_numpy(sample), time, torch.from_numpy(label), guidance).numpy()
        clean = sampler.schedule.clean(sample, velocity, time).clip(-1.0, 1.0)
        yield sample, clean, time
        sample = sampler.step(index, sample, clean)
    yield sample, sample, 0.0


def guided(net: UNet, sample: Tensor, time: float, label: Tensor, guidance: float | None) -> Tensor:
    """The velocity, moved away from that without a label: v₀ + guidance · (v − v₀)."""
    batch = sample.contiguous(memory_format=torch.channels_last)
    times = torch.full((len(sample),), time)
    with torch.autocast("cpu", torch.bfloat16):
        velocity: Tensor = net(batch, times, label).float()
        if guidance is None:
            return velocity
        free: Tensor = net(batch, times, torch.zeros_like(label)).float()
    return free + guidance * (velocity - free)


def trajectories(teacher: UNet, runs: Path, recipe: Recipe) -> tuple[npt.NDArray[np.float16], Float]:
    """Where the teacher was at each of the student's times, STEPS + 1 × count × image, and the labels, count × classes.

    They are kept in `runs`, a file for every CHUNK, so that an interrupted run continues.
    """
    folder = runs / f"{recipe.name}-trajectories-{fingerprint(teacher)}"
    folder.mkdir(parents=True, exist_ok=True)
    states, labels = [], []
    for chunk in range(-(-recipe.distil_trajectories // CHUNK)):
        path = folder / f"{chunk}.npz"
        if not path.exists():
            _record(teacher, recipe, chunk, path)
        with np.load(path) as arrays:
            states.append(arrays["states"])
            labels.append(arrays["labels"])
    return np.concatenate(states, axis=1), np.concatenate(labels)


def _record(teacher: UNet, recipe: Recipe, chunk: int, path: Path) -> None:
    random = np.random.default_rng((recipe.seed, chunk))
    label = np.eye(10, dtype=np.float32)[random.integers(0, 10, CHUNK)]
    noise = random.standard_normal((CHUNK, recipe.channels, 32, 32), np.float32)
    found = []
    for part in np.split(np.arange(CHUNK), CHUNK // 100):
        sampler = DpmSolver2M(SCHEDULE, SCHEDULE.times(TEACHER_STEPS), random)
        walk = denoise(teacher, sampler, noise[part], label[part], recipe.guidance)
        stops = [state for index, (state, _, _) in enumerate(walk) if index % (TEACHER_STEPS // STEPS) == 0]
        found.append(np.stack(stops))
    partial = path.with_name(f"{path.stem}.partial.npz")
    np.savez(partial, states=np.concatenate(found, axis=1).astype(np.float16), labels=label)
    partial.replace(path)


def distil(teacher: UNet, runs: Path, recipe: Recipe) -> UNet:
    """Train a network of the teacher's form to take STEPS steps; returns its average.

    The recorded trajectories and the checkpoint lie in `runs`: an interrupted run continues with the same batches.
    """
    student, average = copy.deepcopy(teacher), copy.deepcopy(teacher)
    student.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(student.parameters(), lr=recipe.distil_rate, betas=(0.9, 0.99))
    parts = {"student": student, "average": average, "optimizer": optimizer}
    name, steps = f"{recipe.name}-few-steps", recipe.distil_steps
    checkpoint = Checkpoint(runs / f"{name}.pt", asdict(recipe) | {"teacher": fingerprint(teacher)}, parts)
    states, labels = trajectories(teacher, runs, recipe)
    done = checkpoint.resume()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        bar = progress.add_task(name, total=steps, completed=done)
        for step in range(done, steps):
            picked = np.random.default_rng((recipe.seed, step)).integers(0, len(labels), recipe.distil_batch)
            for group in optimizer.param_groups:
                group["lr"] = recipe.distil_rate * fall(step, steps)
            loss = _step(student, optimizer, states[:, picked].astype(np.float32), labels[picked])
            update_average(average, student, step, recipe.ema)
            progress.update(bar, completed=step + 1, description=f"{name} loss {loss:.4f}")
            if checkpoint.save(step + 1, last=step + 1 == steps) and not progress.console.is_terminal:
                progress.console.print(f"{name} step {step + 1} of {steps}, loss {loss:.4f}")
    return average.eval()


def _step(student: UNet, optimizer: torch.optim.Optimizer, states: Float, label: Float) -> float:
    """One way through all STEPS; the student's own states are inputs, and nothing flows back through them."""
    optimizer.zero_grad()
    sample, total = torch.from_numpy(states[0]), 0.0
    times = SCHEDULE.times(STEPS)
    for index, (now, then) in enumerate(itertools.pairwise(times)):
        velocity = guided(student, sample, now, torch.from_numpy(label), None)
        wanted = landing(sample, torch.from_numpy(states[index + 1]), now, then)
        loss = F.mse_loss(velocity, wanted)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no hint for it
        total += float(loss.detach()) / STEPS
        sample = ddim(sample, velocity.detach(), now, then)
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return total


def ddim(sample: Tensor, velocity: Tensor, now: float, then: float) -> Tensor:
    """The deterministic step from one time to another, which under v-prediction is a turn by their angle."""
    cosine, sine = turn(now, then)
    return cosine * sample - sine * velocity


def landing(sample: Tensor, target: Tensor, now: float, then: float) -> Tensor:
    """The velocity with which `ddim` goes from a sample to a target."""
    cosine, sine = turn(now, then)
    return (cosine * sample - target) / sine


def turn(now: float, then: float) -> tuple[float, float]:
    """Cosine and sine of the angle between two times of the cosine schedule."""
    angle = 0.5 * math.pi * (now - then)
    return math.cos(angle), math.sin(angle)
