"""Quantization-aware fine-tuning: a network learns, in simulated int8, to answer as it does in fp32.

The student's weights and activations are rounded where static int8 rounds them, gradients pass straight through
(Jacob et al. 2018), and the teacher is the network itself in fp32 (self-distillation: no labels are needed).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.exporters.sources import Source
from edgekit.quantization.correction.grid import Range, rounded_weight
from edgekit.quantization.correction.network import Network, spread, tensors_of
from edgekit.quantization.correction.simulation import Simulation, snr_db
from edgekit.tensors import Array

JUDGED = 8  # calibration inputs that ranges are observed on, and results judged by
AGAIN = 50  # steps after which ranges are observed anew, and the result is judged
Progress = Callable[[str], None]
Batch = Sequence[tuple[Array, ...]]


class State(Protocol):
    """A checkpoint, as `edgekit.zoo.training.Checkpoint` is."""

    def resume(self) -> int:
        """Load what there is; the steps that are done."""

    def save(self, step: int, last: bool = False) -> bool:
        """Write the state, where it is time to."""


@dataclass(frozen=True)
class QatOptions:
    """How long and how fast is learnt.

    The rate falls on a cosine to 2 % of itself; `clip` is the largest norm of the gradient. `batch` inputs a step are
    drawn from the calibration where there is no stream of inputs; `seed` decides which.
    """

    steps: int = 600
    learning_rate: float = 1e-4
    batch: int = 4
    clip: float = 1.0
    seed: int = 0


def tune(source: Source, calibration: Batch, keep_float: Sequence[str], progress: Progress) -> Source:
    """Fine-tune on the calibration inputs: `fine_tuned` as a correction."""
    return fine_tuned(source, calibration, keep_float, progress)


def fine_tuned(
    source: Source,
    calibration: Batch,
    keep_float: Sequence[str],
    progress: Progress,
    *,
    options: QatOptions = QatOptions(),
    practice: Callable[[int], Batch] | None = None,
    checkpoint: Callable[[Mapping[str, Any]], State] | None = None,
) -> Source:
    """Fine-tune a network for static int8; what was best on some of the calibration inputs is returned.

    Args:
        practice: inputs to learn on, by step, the same in every run; the calibration's where left out.
        checkpoint: makes the state that is kept between runs, of parts by name.

    Returns:
        The source with the tuned weights on their int8 levels: in fp32 it computes only nearly what it did, and
        rounding it again changes nothing. The source itself where nothing was gained.
    """
    if not any(layer.weight for layer in Network(source).quantized(keep_float)):
        progress("qat: no layer with weights of its own becomes int8; the network stays as it is")
        return source
    torch.manual_seed(options.seed)
    study = _Study(source, calibration, keep_float, options)
    state = checkpoint(study.parts()) if checkpoint else None
    done = state.resume() if state else 0
    if done:
        study.restore()
    else:
        study.first.fill_(study.judge())
    progress(f"qat: {float(study.first):.1f} dB in int8 before, {options.steps - done} steps …")
    for step in range(done, options.steps):
        study.step(step, practice(step) if practice else _drawn(calibration, step, options))
        last = step + 1 == options.steps
        if (step + 1) % AGAIN == 0 or last:
            progress(f"qat: step {step + 1} of {options.steps}, {study.judge():.1f} dB …")
        if state:
            state.save(step + 1, last)
    told = f"qat: {float(study.first):.1f} → {float(study.record):.1f} dB in int8 after {options.steps} steps"
    if float(study.record) <= float(study.first):
        progress(f"{told}; nothing gained, the network stays as it is")
        return source
    progress(told)
    return study.settled()


class _Study:
    """Teacher, student, and the best that the student has been."""

    def __init__(self, source: Source, calibration: Batch, keep_float: Sequence[str], options: QatOptions) -> None:
        self.options, self.keep_float = options, keep_float
        self.teacher, self.student, self.best = Network(source), Network(source), Network(source)
        for network in (self.teacher, self.best):
            network.traced.requires_grad_(False)
        self.trained = [p for p in self.student.traced.parameters() if p.is_floating_point()]
        self.optimizer = torch.optim.Adam(self.trained, lr=options.learning_rate, betas=(0.9, 0.99))
        self.inputs = spread(calibration, JUDGED)
        with torch.no_grad():
            self.wanted = [self.teacher.run(given) for given in self.inputs]
        self.powers = [_power([o[i] for o in self.wanted]) for i in range(len(self.wanted[0]))]
        self.simulation = Simulation(self.student, self.student.quantized(keep_float), self.inputs)
        self.batched = _takes_batches(self.teacher, self.inputs)
        self.figures = nn.Module()
        self.figures.register_buffer("record", torch.tensor(-math.inf))
        self.figures.register_buffer("first", torch.tensor(-math.inf))
        self.figures.register_buffer("ranges", torch.zeros(len(self.simulation.ranges), 2, dtype=torch.float64))

    @property
    def record(self) -> Tensor:
        found: Tensor = self.figures.get_buffer("record")
        return found

    @property
    def first(self) -> Tensor:
        found: Tensor = self.figures.get_buffer("first")
        return found

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        best, student = self.best.traced, self.student.traced
        return {"student": student, "best": best, "optimizer": self.optimizer, "figures": self.figures}

    def restore(self) -> None:
        """Round to the ranges that a resumed checkpoint was left with."""
        kept = self.figures.get_buffer("ranges").tolist()
        pairs = zip(self.simulation.ranges, kept, strict=True)
        self.simulation.ranges = {node: Range(scale, int(zero)) for node, (scale, zero) in pairs}

    def step(self, step: int, batch: Batch) -> None:
        for group in self.optimizer.param_groups:
            turn = math.pi * step / self.options.steps
            group["lr"] = self.options.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(turn)))
        self.optimizer.zero_grad()
        given = [tensors_of(arrays) for arrays in batch]
        parts = _stacked(given) if self.batched else given
        for inputs in parts:
            with torch.no_grad():
                wanted = self.teacher.run(inputs)
            losses = [
                (made - exact).square().mean() / power
                for made, exact, power in zip(self.simulation.run(inputs), wanted, self.powers, strict=True)
                if power and made.is_floating_point()
            ]
            (torch.stack(losses).sum() / len(parts)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained, self.options.clip)
        self.optimizer.step()

    @torch.no_grad()
    def settled(self) -> Source:
        """The best as a source, its weights on their levels: in fp32 too it is what was learnt, and not beside it."""
        for layer in self.best.quantized(self.keep_float):
            if layer.weight is not None:
                weight = self.best.tensor(layer.weight)
                weight.copy_(rounded_weight(weight, 1 if layer.transposed else 0))
        return self.best.corrected()

    @torch.no_grad()
    def judge(self) -> float:
        """SNR in dB of the student in int8, its ranges observed anew; the best is kept."""
        self.simulation.ranges = self.simulation.observed(self.inputs)
        rows = [[r.scale, r.zero] for r in self.simulation.ranges.values()]
        self.figures.get_buffer("ranges").copy_(torch.tensor(rows, dtype=torch.float64))
        found = snr_db([self.simulation.run(given) for given in self.inputs], self.wanted)
        if found > float(self.record):
            self.record.fill_(found)
            self.best.traced.load_state_dict(copy.deepcopy(self.student.traced.state_dict()))
        return found


def _drawn(calibration: Batch, step: int, options: QatOptions) -> Batch:
    random = np.random.default_rng((options.seed, step))
    return [calibration[i] for i in random.integers(0, len(calibration), options.batch)]


def _power(outputs: Sequence[Tensor]) -> float:
    return float(torch.stack([o.double().square().mean() for o in outputs]).mean())


def _stacked(given: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """One batch of inputs of one sample each; those of different sizes lie in several."""
    groups: dict[tuple[Any, ...], list[Sequence[Tensor]]] = {}
    for inputs in given:
        groups.setdefault(tuple(x.shape for x in inputs), []).append(inputs)
    return [[torch.cat(parts) for parts in zip(*same, strict=True)] for same in groups.values()]


@torch.no_grad()
def _takes_batches(network: Network, inputs: Sequence[Sequence[Tensor]]) -> bool:
    """Whether the graph, traced with one sample, computes two at a time as it does one by one."""
    pair = [inputs[0], inputs[-1]]
    if any(x.ndim == 0 or x.shape[0] != 1 for x in pair[0]) or len(_stacked(pair)) != 1:
        return False
    alone = [network.run(given) for given in pair]
    try:
        together = network.run(_stacked(pair)[0])
    except (RuntimeError, AssertionError):  # a size that was traced as a number
        return False
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
        for a, b in zip(together, expected, strict=True)
    )
