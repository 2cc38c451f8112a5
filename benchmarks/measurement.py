"""Measure a bundle: each engine × precision in a process of its own, interleaved in rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from edgekit import images, machine, registry
from edgekit.benchmarks.cases import cases_of, component_cases, usual_sizes
from edgekit.benchmarks.race import Race
from edgekit.benchmarks.records import Case, Report, Row
from edgekit.bundle import Bundle
from edgekit.choice import readable
from edgekit.errors import DeviceUnavailable

ANSWER_TIMEOUT_S = 900.0  # an engine that hangs is killed, and becomes a row


def _never(rows: Sequence[Row]) -> bool:
    return False


@dataclass(frozen=True)
class MeasureOptions:
    """`size`: (height, width) of the image, None for its own; `image`: a photo's path, None for the one that ships.

    `components` are measured one by one, file by file, in the place of the whole task: on golden values, brought to
    `sizes` where a file leaves its dimensions free (`usual_sizes` where left out). Every case gets `rounds` ×
    `seconds`; `enough` is asked after each round whether the rows of those interleaved say enough already. A process
    that does not answer within `timeout_s` is ended. `progress` is told (done, of all, what is next).
    """

    size: tuple[int, int] | None = (360, 640)
    image: str | Path | None = None
    components: Sequence[str] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    rounds: int = 5
    seconds: float = 1.0
    threads: int | None = None
    enough: Callable[[Sequence[Row]], bool] = _never
    timeout_s: float = ANSWER_TIMEOUT_S
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
    groups = _groups(opened, runtimes, precisions, options)
    if not groups:
        raise DeviceUnavailable(
            f"nothing of {opened.name} can be measured: no installed engine of {list(runtimes) or 'any'} has a file of "
            f"{list(precisions) or 'any precision'}; see `edgekit devices`"
        )
    with tempfile.TemporaryDirectory() as folder:
        image, what = prepared(opened, options, Path(folder))
        rows = _measured(opened, groups, image, options)
    return Report(opened.name, opened.hash, machine.facts(), what, rows)


def _groups(
    bundle: Bundle, runtimes: Sequence[str], precisions: Sequence[str], options: MeasureOptions
) -> list[list[Case]]:
    """The cases, those together that are interleaved: all of the task, or all of one component at the same sizes."""
    if not options.components:
        whole = cases_of(bundle, runtimes, precisions, options.threads)
        return [whole] if whole else []
    groups: dict[str, list[Case]] = {}
    for name in options.components:
        usual = dict(options.sizes) or usual_sizes(bundle, name)
        for case in component_cases(bundle, name, runtimes, precisions):
            sized = msgspec.structs.replace(case, sizes=case.sizes or usual, threads=options.threads)
            groups.setdefault(f"{name} {sorted(sized.sizes.items())}", []).append(sized)
    return list(groups.values())


def sample_photo() -> Path:
    """The photo that ships: Eileen Collins, NASA, public domain, 512 × 512."""
    import edgekit.demos

    return Path(edgekit.demos.__path__[0]) / "photos" / "astronaut.jpg"


def prepared(bundle: Bundle, options: MeasureOptions, folder: Path) -> tuple[str | None, str]:
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


def _measured(bundle: Bundle, groups: list[list[Case]], image: str | None, options: MeasureOptions) -> list[Row]:
    """The rows of all groups, one group after the other."""
    total = sum(len(cases) for cases in groups) * (options.rounds + 1)
    done = 0
    rows: list[Row] = []
    for cases in groups:
        rows += _interleaved(bundle, cases, image, _after(options, done, total))
        done += len(cases) * (options.rounds + 1)
    options.progress(total, total, "done")
    return rows


def _after(options: MeasureOptions, done: int, total: int) -> MeasureOptions:
    """The same options, whose progress goes on after what is done."""
    return replace(options, progress=lambda more, _, what: options.progress(done + more, total, what))


def _interleaved(bundle: Bundle, cases: list[Case], image: str | None, options: MeasureOptions) -> list[Row]:
    """Open every case in a process of its own, then run round after round of all of them."""
    rows = [row_of(bundle, case) for case in cases]
    with Race(image, options.timeout_s) as race:
        for index, row in enumerate(rows):
            options.progress(index, 0, f"load {row.case.runtime} {row.case.precision}")
            race.open(row)
        for round_ in range(options.rounds):

            def told(index: int, row: Row, done: int = len(cases) * (round_ + 1), number: int = round_ + 1) -> None:
                options.progress(done + index, 0, f"round {number} {row.case.runtime} {row.case.precision}")

            race.round({"do": "round", "seconds": options.seconds}, told)
            if options.enough(rows):
                break
    return rows


def row_of(bundle: Bundle, case: Case) -> Row:
    """A case's row before it is measured, with the size of its files and their quality."""
    named = case.component or bundle.main
    found = readable(case.runtime, case.precision, bundle.component(named).variants)
    variant = next((v for v in found if v.sizes == case.sizes), found[0])
    quality = msgspec.to_builtins(variant.quality) if variant.quality else None
    if case.component is not None:
        return Row(case, bytes=variant.bytes, quality=quality)
    parts = [readable(case.runtime, case.precision, c.variants) for c in bundle.manifest.components.values()]
    return Row(case, bytes=sum(files[0].bytes for files in parts if files), quality=quality)
