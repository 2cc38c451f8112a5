"""Measure a bundle: each engine × precision in a process of its own, interleaved in rounds."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit import images, machine, registry
from edgekit.benchmarks.cases import cases_of, component_cases, usual_sizes
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.records import Case, Report
from edgekit.benchmarks.rounds import Rounds
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable


def measure(
    bundle: str | Path | Bundle,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    *,
    options: MeasureOptions = MeasureOptions(),  # noqa: B008  (frozen)
) -> Report:
    """Measure every engine × precision of a bundle that this machine can open.

    Args:
        runtimes, precisions: only these; all that are installed and in the bundle where left out.

    Returns:
        The raw samples; an engine that failed, crashed or hung is a row with the reason.

    Raises:
        BundleError. InputError: an unknown name. DeviceUnavailable: nothing of what was asked for is in the bundle.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    opened.check_files()
    groups = groups_of(opened, runtimes, precisions, options)
    with tempfile.TemporaryDirectory() as folder:
        image, what = prepared(opened, options, Path(folder))
        rounds = Rounds(opened, image, options)
        stopped = rounds.run(groups)
    return Report(
        opened.name,
        opened.hash,
        machine.facts(),
        what,
        rounds.rows,
        time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        _asked(options),
        rounds.watch.states,
        stopped,
    )


def groups_of(
    bundle: Bundle, runtimes: Sequence[str], precisions: Sequence[str], options: MeasureOptions
) -> list[list[Case]]:
    """The cases that `measure` takes, those together that are interleaved.

    Raises:
        InputError: an unknown name. DeviceUnavailable: there are none.
    """
    groups = _groups(bundle, runtimes, precisions, options)
    if not groups:
        have = dict.fromkeys(v.precision for v in bundle.component(bundle.main).variants)
        raise DeviceUnavailable(
            f"nothing of {bundle.name} can be measured: no installed engine of {list(runtimes) or 'any'} has a file of "
            f"{list(precisions) or 'any precision'}; it has {', '.join(have)}; see `edgekit devices`"
        )
    return groups


def _groups(
    bundle: Bundle, runtimes: Sequence[str], precisions: Sequence[str], options: MeasureOptions
) -> list[list[Case]]:
    """The cases, those together that are interleaved: all of the task, or all of one component at the same sizes."""
    if not options.components:
        whole = cases_of(bundle, runtimes, precisions, options.devices, options.threads)
        return [whole] if whole else []
    groups: dict[str, list[Case]] = {}
    for name in options.components:
        usual = dict(options.sizes) or usual_sizes(bundle, name)
        for case in component_cases(bundle, name, runtimes, precisions):
            for count in options.threads:
                sized = msgspec.structs.replace(case, sizes=case.sizes or usual, threads=count)
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


def _asked(options: MeasureOptions) -> dict[str, Any]:
    """The options that shape the figures, as the report keeps them."""
    plain = {"rounds": options.rounds, "seconds": options.seconds}
    return plain | (dataclasses.asdict(options.thorough) if options.thorough else {})
