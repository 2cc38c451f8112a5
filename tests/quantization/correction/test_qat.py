"""Fine-tuning in simulated int8: gains on real loss, the same from its checkpoint, the best kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.exporters.sources import Source, from_module
from edgekit.quantization.correction.qat import QatOptions, fine_tuned
from edgekit.zoo.training import Checkpoint

OPTIONS = QatOptions(steps=40, learning_rate=1e-3, batch=4)


def images(count: int = 8) -> list[tuple[np.ndarray, ...]]:
    random = np.random.default_rng(0)
    return [(random.random((1, 3, 12, 12), np.float32),) for _ in range(count)]


@pytest.fixture
def source() -> Source:
    """A network whose channels differ so much that one range for all serves none of the small ones."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 3, 3)
    )
    net[0].weight.data[:3] *= 30
    net[2].weight.data[:, :3] /= 30
    return from_module(net, images()[0])


def tuned(source: Source, **given: Any) -> tuple[Source, list[str]]:
    told: list[str] = []
    options = given.pop("options", OPTIONS)
    return fine_tuned(source, images(), (), told.append, options=options, **given), told


def test_loses_less_and_leaves_the_teacher(source: Source) -> None:
    before = {name: t.clone() for name, t in source.module.state_dict().items()}
    made, told = tuned(source)
    first, last = (float(part.split()[-1]) for part in told[-1].split(" dB")[0].removeprefix("qat: ").split(" → "))
    assert made is not source and last > first, told
    assert all(torch.equal(t, before[name]) for name, t in source.module.state_dict().items())
    assert list(made.module.state_dict()) == list(before)


def test_an_interrupted_run_ends_as_a_whole_one(source: Source, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def checkpoint(parts: Mapping[str, Any]) -> Checkpoint:
        return Checkpoint(tmp_path / "run-qat.pt", {"seed": 0}, parts, every_s=0.0)

    def breaking(step: int) -> list[tuple[np.ndarray, ...]]:
        if step == 20:
            raise Stopped
        return practice(step)

    def practice(step: int) -> list[tuple[np.ndarray, ...]]:
        random = np.random.default_rng(step)
        return [(random.random((1, 3, 12, 12), np.float32),) for _ in range(2)]

    whole, _ = tuned(source, practice=practice)
    with pytest.raises(Stopped):
        tuned(source, practice=breaking, checkpoint=checkpoint)
    again, told = tuned(source, practice=practice, checkpoint=checkpoint)
    assert "20 steps" in told[0]
    for name, tensor in whole.module.state_dict().items():
        torch.testing.assert_close(again.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_what_gains_nothing_is_not_kept(source: Source) -> None:
    made, told = tuned(source, options=QatOptions(steps=2, learning_rate=10.0))
    assert made is source and "nothing gained" in told[-1]


def test_networks_that_take_one_sample_at_a_time() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.first(x.view(1, 6))) + state
            return self.last(y), y

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    arrays = [tuple(random.standard_normal(s).astype(np.float32) for s in ((6,), (1, 8))) for _ in range(8)]
    source = from_module(Single(), arrays[0])
    made = fine_tuned(source, arrays, (), lambda step: None, options=QatOptions(steps=4, learning_rate=1e-3))
    assert [o.shape for o in made.run(arrays[0])] == [(1, 2), (1, 8)]
