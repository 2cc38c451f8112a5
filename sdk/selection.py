"""Which of the measured combinations is taken: the fastest that keeps within limits; among equals the smallest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from edgekit.errors import InputError
from edgekit.manifest import METRICS, Quality, higher_is_better

TIE = 0.03  # two that differ by less are equally fast, if the measurement cannot tell them apart
LEAN = 0.05  # peak memory of two runs of one file differs by up to so much
MB = 2**20


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured combination of a bundle; `error` says why there is no figure.

    `p50_ms` is the whole task's, the median of the medians of `rounds` (the model's where there is no task); `noise` is
    what its ratio to the fastest row is uncertain by, as a part of it; `threads` what was asked for, None the engine's own
    choice, and `ran` the number that the engine tells; `tile` the input pixels a side of a tile, None the task's own; `peak_mb` the largest resident memory of the
    process that did it, in MiB; `bytes` its files.
    """

    runtime: str
    device: str
    precision: str
    threads: int | None
    p50_ms: float | None
    noise: float = 0.0
    rounds: int = 0
    peak_mb: float | None = None
    bytes: int = 0
    quality: Quality | None = None
    ran: int | None = None
    tile: int | None = None
    error: str = ""

    @property
    def ms(self) -> float:
        return math.inf if self.p50_ms is None or self.error else self.p50_ms

    def __str__(self) -> str:
        """ "openvino int8 on gpu, 2 threads"."""
        device = "" if self.device == "cpu" else f" on {self.device}"
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        tile = "" if self.tile is None else f", tiles of {self.tile}"
        return f"{self.runtime} {self.precision}{device}{threads}{tile}"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a choice has to keep within; None asks nothing.

    `min_quality` is the worst value of the bundle's own metric: the highest one where lower is better.
    """

    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_memory_mb: float | None = None
    max_file_mb: float | None = None

    def check(self) -> None:
        """Refuse what no row could keep or miss.

        Raises:
            InputError.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or (value <= 0 and name != "min_quality")):
                raise InputError(
                    f"got {name}={value}: expected a {'number' if name == 'min_quality' else 'number > 0'}"
                )

    def misses(self, row: Row, higher: bool = True) -> Iterator[tuple[float, str]]:
        """By what part a row misses each limit, and in words; infinity where there is no figure to tell by."""
        yield from _above("ms", row.p50_ms, self.max_latency_ms)
        yield from _above("MB of memory", row.peak_mb, self.max_memory_mb)
        yield from _above("MB of files", row.bytes / MB, self.max_file_mb)
        if self.min_quality is not None:
            if row.quality is None:
                yield math.inf, "no quality is recorded"
                return
            short = (self.min_quality - row.quality.value) * (1 if higher else -1)
            if short > 0:
                wanted = f"{self.min_quality:g} {METRICS.get(row.quality.metric, row.quality.metric)}"
                yield short / max(abs(self.min_quality), 1e-12), f"{row.quality.figure}, {wanted} asked for"


def _above(unit: str, value: float | None, limit: float | None) -> Iterator[tuple[float, str]]:
    if limit is not None and value is None:
        yield math.inf, f"no {unit} measured"
    elif limit is not None and value is not None and value > limit:
        yield value / limit - 1, f"{value:.3g} {unit}, {limit:g} asked for"


@dataclass(frozen=True)
class Selected:
    """The row that is taken and why; `met` False where none keeps within the limits, and this one comes closest."""

    row: Row
    why: str
    met: bool = True


def select(rows: Sequence[Row], limits: Limits = Limits()) -> Selected | None:  # noqa: B008  (frozen)
    """The fastest row within the limits; of those that are as fast the one of the least memory, the smallest files, the
    fewest threads. The one that comes closest where none is within; None where none has a figure.
    """
    measured = [row for row in rows if row.ms < math.inf]
    if not measured:
        return None
    higher = higher_is_better(row.quality for row in rows if row.quality)
    missed = {id(row): list(limits.misses(row, higher)) for row in measured}
    within = [row for row in measured if not missed[id(row)]]
    if not within:
        row = min(measured, key=lambda r: (max(part for part, _ in missed[id(r)]), r.ms))
        told = "; ".join(words for _, words in missed[id(row)])
        return Selected(row, f"nothing measured keeps within the limits, {row} comes closest: {told}", met=False)
    fastest = min(within, key=lambda r: r.ms)
    row = _smallest([r for r in within if r.ms <= fastest.ms * (1 + min(r.noise, TIE))])
    return Selected(row, _reason(row, fastest, within, limits))


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that no other row beats: none is as good in quality, latency, memory and files, and better in one of them."""
    measured = [row for row in rows if row.ms < math.inf]
    higher = higher_is_better(row.quality for row in rows if row.quality)
    return [row for row in measured if not any(_beats(other, row, higher) for other in measured)]


def _smallest(rows: Sequence[Row]) -> Row:
    """The least memory; where that is alike, the smallest files, then the fewest threads, then the fastest."""
    least = min(row.peak_mb or math.inf for row in rows)
    lean = [row for row in rows if (row.peak_mb or math.inf) <= least * (1 + LEAN)]
    return min(lean, key=lambda r: (r.bytes, _threads(r), r.ms))


def _reason(row: Row, fastest: Row, within: Sequence[Row], limits: Limits) -> str:
    asked = " within the limits" if limits != Limits() else ""
    tiles = f" with tiles of {row.tile}" if row.tile else ""
    if row is not fastest:
        less = _less(row, fastest)
        return f"as fast as {fastest}{asked} ({figure(row.ms)} and {figure(fastest.ms)} ms), with {less}"
    pairs = [r for r in within if (r.runtime, r.device, r.precision) != (row.runtime, row.device, row.precision)]
    other = min(pairs, key=lambda r: r.ms, default=None)
    ahead = f", ahead of {other} ({figure(other.ms)} ms)" if other else ""
    return f"the fastest{asked}{tiles}: {figure(row.ms)} ms{ahead}"


def _less(row: Row, fastest: Row) -> str:
    """What the smaller of two equals has less of."""
    mine, theirs = row.peak_mb or math.inf, fastest.peak_mb or math.inf
    if mine * (1 + LEAN) < theirs:
        return f"{mine:.0f} MB of memory for {theirs:.0f}"
    if row.bytes < fastest.bytes:
        return f"{row.bytes / 1024:.0f} KB of files for {fastest.bytes / 1024:.0f}"
    return "fewer threads" if _threads(row) < _threads(fastest) else "less memory"


def _threads(row: Row) -> float:
    """How many ran, as the engine tells where the number was its own choice."""
    return row.threads or row.ran or math.inf


def figure(ms: float) -> str:
    """ "0.153", "1.53", "15.3", "153": three digits tell two choices apart."""
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def _beats(one: Row, other: Row, higher: bool) -> bool:
    """Whether one is no worse in anything than the other, and better in something, by more than a measurement errs."""
    values = [
        (one.ms, other.ms, TIE),
        (one.peak_mb or math.inf, other.peak_mb or math.inf, LEAN),
        (one.bytes, other.bytes, 0.0),
    ]
    worse = any(mine > theirs * (1 + slack) for mine, theirs, slack in values)
    better = any(mine * (1 + slack) < theirs for mine, theirs, slack in values)
    mine, theirs = (_goodness(row, higher) for row in (one, other))
    return not worse and mine >= theirs and (better or mine > theirs)


def _goodness(row: Row, higher: bool) -> float:
    if row.quality is None:
        return -math.inf
    return row.quality.value if higher else -row.quality.value
