"""What a measurement writes down: cases, rows of raw samples, and the report that is kept as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import edgekit
from edgekit.benchmarks.conditions import State, warnings
from edgekit.errors import InputError

SCHEMA = 2

STOPPED = "stopped before it was measured"  # the error of rows that Ctrl-C left out


class Case(msgspec.Struct, frozen=True):
    """What is measured: one bundle on one engine, device, precision and thread count.

    `component` is one graph alone, at `sizes` of its free dimensions; None is the whole task. `tile`: the input pixels
    a side of a tile, None for the task's own.
    """

    bundle: str
    runtime: str
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None
    component: str | None = None
    sizes: dict[str, int] = {}
    tile: int | None = None


class Load(msgspec.Struct, frozen=True):
    """One load in a fresh process: milliseconds until the session is open, and of its first run.

    It begins in an interpreter that holds NumPy and edgekit; the engine's own import counts. `cached` is the part of
    the model's files that lay in memory before it (0…1), None where the system does not tell.
    """

    load_ms: float
    first_ms: float
    cached: float | None = None


class Detail(msgspec.Struct, frozen=True):
    """What one round tells beside latency; None and empty where it could not be had, or there is no task.

    `model_cpu_ms` and `task_cpu_ms` are a call's processor time, all threads together; `stages_ms` one use of the task
    after another: before the network's first run, in its runs, after and between them; `paced_ms` calls at the frame rate, of which `late` were not done when the next
    was due; `joules` of the whole machine for a call, as `energy` tells them; `rss_mb` (seconds since the load, MiB);
    `elsewhere` the cores that other programs used.
    """

    model_cpu_ms: float
    task_cpu_ms: float | None = None
    stages_ms: list[tuple[float, float, float]] = []
    paced_ms: list[float] = []
    late: int = 0
    joules: float | None = None
    energy: str = ""
    rss_mb: list[tuple[float, float]] = []
    elsewhere: float | None = None


class Row(msgspec.Struct):
    """One case's raw samples in milliseconds, in the order taken; `error` says why there are none.

    `model_ms` is `session.run`; `task_ms` the whole task, decoded image in, finished image out: all calls but the
    first, warm or not; `model_counts` and `task_counts` say how many of them each round took, `round_ms` and
    `task_round_ms` are the rounds' medians. `load_ms` and `first_ms` are those of the process that went on, `loads`
    of all. `runs` says how often one use of the task runs each component; `details` has one a round where asked for;
    `per_second` are runs of the network as a stream, several under way (`Session.map`), after the last round.
    """

    case: Case
    bytes: int = 0
    quality: dict[str, Any] | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    loads: list[Load] = []
    model_ms: list[float] = []
    task_ms: list[float] = []
    model_counts: list[int] = []
    task_counts: list[int] = []
    round_ms: list[float] = []
    task_round_ms: list[float] = []
    details: list[Detail] = []
    per_second: list[float] = []
    runs: dict[str, int] = {}
    peak_mb: float | None = None
    placement: dict[str, Any] = {}
    error: str = ""

    def percentile(self, q: float, what: str = "task_ms") -> float:
        """A percentile of the samples of the task, or of the model where there is no task."""
        samples = getattr(self, what) or self.model_ms
        return float(np.percentile(samples, q)) if samples else float("nan")

    def rounds(self, what: str = "task") -> list[list[float]]:
        """The samples of "task" or "model" round by round; the model's where there is no task."""
        samples, counts = (self.task_ms, self.task_counts) if what == "task" else (self.model_ms, self.model_counts)
        samples, counts = (samples, counts) if samples else (self.model_ms, self.model_counts)
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        split = [samples[end - count : end] for end, count in zip(ends, counts, strict=True)]
        return split or ([samples] if samples else [])

    @property
    def real(self) -> bool:
        """Whether its times are those of a device: not of a simulator, nor of the processor in its place."""
        return str(self.placement.get("kind", "hardware")) == "hardware"

    @property
    def timed(self) -> bool:
        """Whether it has a latency to show."""
        return self.real and bool(self.model_ms or self.task_ms)

    @property
    def label(self) -> str:
        """ "openvino int8", with the device and the threads where they are not the usual ones."""
        threads = f"{self.case.threads} thread{'s' if self.case.threads != 1 else ''}" if self.case.threads else ""
        parts = (self.case.runtime, self.case.precision, self.case.device if self.case.device != "cpu" else "", threads)
        return " ".join(part for part in (*parts, self.case.component or "") if part)


class Report(msgspec.Struct):
    """Every row of a bundle, the machine they were measured on, and what it went through meanwhile.

    `asked` are the options that shape the figures; `states` the machine's state before, after every round, and at the
    end; `stopped` says that Ctrl-C ended it early.
    """

    bundle: str
    bundle_hash: str
    machine: dict[str, Any]
    input: str
    rows: list[Row]
    measured_at: str = ""
    asked: dict[str, Any] = {}
    states: list[State] = []
    stopped: bool = False
    projections: list[Projection] = []

    @property
    def warnings(self) -> list[str]:
        """What may have changed the figures, in words."""
        elsewhere = [d.elsewhere for row in self.rows for d in row.details if d.elsewhere is not None]
        return warnings(self.states, elsewhere)

    def save(self, path: str | Path) -> None:
        """Write the report with its raw samples as JSON."""
        save(path, [self])


class Projection(msgspec.Struct, frozen=True):
    """What a device that is not here would take, by a compiler or an emulator: no latency, and no column of one.

    `what` names device and unit, such as "Ethos-U55-128, cycles"; `source` what says so.
    """

    runtime: str
    precision: str
    what: str
    value: float
    source: str


class Kept(msgspec.Struct, forbid_unknown_fields=True):
    """The file: one report a bundle, all of one machine."""

    schema: int
    edgekit: str
    reports: list[Report]


def save(path: str | Path, reports: Sequence[Report]) -> None:
    """Write reports with their raw samples as JSON, at once or not at all."""
    partial = Path(f"{path}.partial")
    try:
        partial.write_bytes(msgspec.json.format(encode(reports), indent=1))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def encode(reports: Sequence[Report]) -> bytes:
    """Reports as the file has them; times are rounded to 0.1 µs."""
    kept = msgspec.to_builtins(Kept(SCHEMA, edgekit.__version__, list(reports)))
    return msgspec.json.encode(_rounded(kept))


def load(path: str | Path) -> list[Report]:
    """The reports of a file that `edgekit bench` wrote.

    Raises:
        InputError: there is none, or it is of another schema, or no report at all.
    """
    try:
        data = Path(path).read_bytes()
        found = msgspec.json.decode(data, type=_Versioned).schema
        if found != SCHEMA:
            raise InputError(
                f"'{path}' is of schema {found}, this edgekit reads schema {SCHEMA}: measure again, or read it with the "
                "edgekit that wrote it"
            )
        return msgspec.json.decode(data, type=Kept).reports
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"cannot read '{path}' as a report of `edgekit bench --json FILE`: {error}") from error


class _Versioned(msgspec.Struct):
    schema: int


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
