"""How a bundle is measured: what is asked of it, how long, and what is taken down beside latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.benchmarks.records import Row

ANSWER_TIMEOUT_S = 900.0  # an engine that hangs is killed, and becomes a row


def _never(rows: Sequence[Row]) -> bool:
    return False


@dataclass(frozen=True)
class Thorough:
    """What is taken down beside latency: processor time, stages, throughput, memory, energy, by round.

    `fps` paces calls too; every case is loaded in `loads` fresh processes, its files put out of memory before if
    `drop_cache`; rounds go on for `minutes` where that is given. `keep` keeps what was measured when Ctrl-C ends it;
    `bound` shows MLPerf's early-stopping bound.
    """

    fps: float | None = None
    loads: int = 3
    drop_cache: bool = False
    minutes: float | None = None
    keep: bool = False
    bound: bool = False


LATENCY_ALONE = Thorough(loads=1)


@dataclass(frozen=True)
class MeasureOptions:
    """`size`: (height, width) of the image, None for its own; `image`: a photo's path, None for the one that ships.

    `components` are measured one by one, file by file, in the place of the whole task: on golden values, brought to
    `sizes` where a file leaves its dimensions free (`usual_sizes` where left out). Every case gets `rounds` ×
    `seconds`; `enough` is asked after each round whether the rows of those interleaved say enough already. A process
    that does not answer within `timeout_s` is ended. `devices` and `threads` multiply the cases; `thorough` asks for
    more than latency. `progress` is told (done, of all, what is next).
    """

    size: tuple[int, int] | None = (360, 640)
    image: str | Path | None = None
    components: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 5
    seconds: float = 1.0
    devices: Sequence[str] = ("cpu",)
    threads: Sequence[int | None] = (None,)
    thorough: Thorough | None = None
    enough: Callable[[Sequence[Row]], bool] = _never
    timeout_s: float = ANSWER_TIMEOUT_S
    progress: Callable[[int, int, str], None] = field(default=lambda done, total, what: None)
