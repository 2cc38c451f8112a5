"""Measure a bundle: each engine × precision in a process of its own, interleaved in rounds."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit import images, machine, registry
from edgekit.bundle import Bundle
from edgekit.choice import readable
from edgekit.errors import DeviceUnavailable, EngineError
from edgekit.session import runtime as find_runtime

SCHEMA = 1
ANSWER_TIMEOUT_S = 900.0  # an engine that hangs is killed, and becomes a row


class Case(msgspec.Struct, frozen=True):
    """What is measured: one bundle on one engine, device, precision and thread count."""

    bundle: str
    runtime: str
    device: str = "cpu"
    precision: str = "fp32"
    threads: int | None = None


class Row(msgspec.Struct):
    """One case's raw samples in milliseconds, in the order taken; `error` says why there are none.

    `model_ms` is `session.run`; `task_ms` the whole task, decoded image in, finished image out.
    """

    case: Case
    bytes: int = 0
    quality: dict[str, Any] | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    model_ms: list[float] = []
    task_ms: list[float] = []
    peak_mb: float | None = None
    placement: dict[str, Any] = {}
    error: str = ""

    def percentile(self, q: float, what: str = "task_ms") -> float:
        """A percentile of the samples of the task, or of the model where there is no task."""
        samples = getattr(self, what) or self.model_ms
        return float(np.percentile(samples, q)) if samples else float("nan")


class Report(msgspec.Struct):
    """Every row, and the machine they were measured on."""

    bundle: str
    bundle_hash: str
    machine: dict[str, Any]
    input: str
    rows: list[Row]
    schema: int = SCHEMA

    def save(self, path: str | Path) -> None:
        """Write the report with its raw samples as JSON."""
        partial = Path(f"{path}.partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))
        partial.replace(path)


@dataclass(frozen=True)
class MeasureOptions:
    """`size`: (height, width) of the image, None for its own; `image`: a photo's path, None for the one that ships.

    Every case gets `rounds` × `seconds`; `progress` is told (done, of all, what is next).
    """

    size: tuple[int, int] | None = (360, 640)
    image: str | Path | None = None
    rounds: int = 5
    seconds: float = 1.0
    threads: int | None = None
    progress: Callable[[int, int, str], None] = field(default=lambda done, total, what: None)


def measure(
    bundle: str | Path | Bundle,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    *,
    options: MeasureOptions = MeasureOptions(),
) -> Report:
    """Measure every engine × precision of a bundle that this machine can open.

    Args:
        runtimes, precisions: only these; all that are installed and in the bundle where left out.

    Raises:
        BundleError. DeviceUnavailable: nothing of what was asked for is installed and in the bundle.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    opened.check_files()
    cases = cases_of(opened, runtimes, precisions, options.threads)
    if not cases:
        raise DeviceUnavailable(
            f"nothing of {opened.name} can be measured: no installed engine of {list(runtimes) or 'any'} has a file of "
            f"{list(precisions) or 'any precision'}; see `edgekit devices`"
        )
    with tempfile.TemporaryDirectory() as folder:
        image, what = _prepared(opened, options, Path(folder))
        rows = _run(opened, cases, image, options)
    return Report(opened.name, opened.hash, machine.facts(), what, rows)


def cases_of(
    bundle: Bundle, runtimes: Sequence[str] = (), precisions: Sequence[str] = (), threads: int | None = None
) -> list[Case]:
    """The engine × precision pairs that are installed, in the bundle, and asked for."""
    found = []
    for name in runtimes or registry.device_runtimes():
        engine = find_runtime(name)
        if not engine.installed():
            continue
        variants = bundle.component(bundle.main).variants
        have = [p for p in dict.fromkeys(v.precision for v in variants) if readable(name, p, variants)]
        found += [Case(str(bundle.folder), name, "cpu", p, threads) for p in have if not precisions or p in precisions]
    return found


def sample_photo() -> Path:
    """The photo that ships: Eileen Collins, NASA, public domain, 512 × 512."""
    import edgekit.demos

    return Path(edgekit.demos.__path__[0]) / "photos" / "astronaut.jpg"


def _prepared(bundle: Bundle, options: MeasureOptions, folder: Path) -> tuple[str | None, str]:
    """The photo at the asked size as a file for the workers, and what is measured; None where no image is taken."""
    if bundle.manifest.task is None:
        return None, "golden values"
    draws: str = registry.find("tasks", bundle.manifest.task.name).draws
    if draws:
        return None, draws
    photo = images.read_image(options.image or sample_photo())[:, :, :3]
    if options.size is not None and photo.shape[:2] != options.size:
        height, width = options.size
        factor = max(height / photo.shape[0], width / photo.shape[1])
        cover = [max(n, round(side * factor)) for n, side in zip(options.size, photo.shape, strict=False)]
        photo = images.resize_bicubic(photo, *cover)[:height, :width]
    path = folder / "input.png"
    images.write_image(path, np.ascontiguousarray(photo))
    return str(path), f"a photo of {photo.shape[1]}×{photo.shape[0]}"


def _run(bundle: Bundle, cases: list[Case], image: str | None, options: MeasureOptions) -> list[Row]:
    rows = [_row(bundle, case) for case in cases]
    total = len(cases) * (options.rounds + 1)
    workers: list[_Process] = []
    try:
        for index, (case, row) in enumerate(zip(cases, rows, strict=True)):
            options.progress(index, total, f"load {case.runtime} {case.precision}")
            workers.append(_Process())
            opened = _asked(workers[-1], row, {"do": "open", "case": msgspec.to_builtins(case), "image": image})
            for name in ("load_ms", "first_ms", "placement"):
                if name in opened:
                    setattr(row, name, opened[name])
        for round_ in range(options.rounds):
            for index, row in enumerate(rows):
                options.progress(
                    len(cases) * (round_ + 1) + index,
                    total,
                    f"round {round_ + 1} {row.case.runtime} {row.case.precision}",
                )
                if not row.error:
                    answer = _asked(workers[index], row, {"do": "round", "seconds": options.seconds})
                    row.model_ms += answer.get("model_ms", [])
                    row.task_ms += answer.get("task_ms", [])
                    row.peak_mb = answer.get("peak_mb", row.peak_mb)
    finally:
        for worker in workers:
            worker.stop()
    options.progress(total, total, "done")
    return rows


def _row(bundle: Bundle, case: Case) -> Row:
    variant = readable(case.runtime, case.precision, bundle.component(bundle.main).variants)[0]
    quality = msgspec.to_builtins(variant.quality) if variant.quality else None
    parts = [readable(case.runtime, case.precision, c.variants) for c in bundle.manifest.components.values()]
    return Row(case, bytes=sum(found[0].bytes for found in parts if found), quality=quality)


def _asked(worker: _Process, row: Row, command: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer; a crash or an error is written into the row."""
    try:
        answer = worker.ask(command)
    except EngineError as error:
        answer = {"error": str(error)}
    row.error = answer.get("error", "")
    return answer


class _Process:
    """A worker: `python -m edgekit.benchmarks.worker`, spoken to in JSON lines."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_TIMEOUT_S, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            code = self._process.wait()
            raise EngineError(f"the measured process died with exit code {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what the dead process did not read cannot be flushed
                    stream.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"
