"""Small variants next to fp32: one calibration and one list of what stays float for every format, then the quality."""

from __future__ import annotations

import glob
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from edgekit import bundle as bundles
from edgekit import guard, registry
from edgekit.bundle import Bundle
from edgekit.compiled import nothing_kept
from edgekit.errors import QuantizationError
from edgekit.exporters.sources import Source, from_bundle, leaving_modes
from edgekit.exporters.writing import ExportOptions, joined
from edgekit.manifest import Precision
from edgekit.quantization.calibration import checked, float_precision, named
from edgekit.quantization.metrics.chosen import metric_of
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.networks import again, carries_network, described, require_same
from edgekit.quantization.schemes.scheme import Calibration, Layer, Scheme
from edgekit.quantization.search import Attempt, Limits, Plan, best, search
from edgekit.quantization.trial import Trials, Work


@dataclass(frozen=True)
class QuantizeOptions:
    """What is made, and how long is searched.

    `scheme`: "int8" (static), "int8-dynamic", "int8-weights", "int4-weights" or "fp16". `formats` of the files, and
    `buckets`, the sizes of .tflite files where dimensions are free: those of the fp32 files where left out.
    `keep_float`: patterns of layers that stay float from the start, as "component/layer" where there are several
    components. `correct`: corrections that are made before rounding ("equalise", "smooth", "round", "bias"), each of
    which is kept where it helps on inputs put aside; "auto" makes those that serve the network. At most `attempts` plans are tried, and none is begun
    after `budget_s` seconds. A file that is slower than fp32 on every engine here is not kept, unless `keep_slower` or of
    a scheme that is there for size (int8-weights, int4-weights);
    `time_it` False measures no speed. `tuned`: networks that were fine-tuned for int8, by component, which are rounded
    in the place of the source; files are compared with the source. `progress` is told each step.
    """

    scheme: Precision = "int8"
    formats: Sequence[str] = ()
    buckets: Sequence[Mapping[str, int]] = ()
    keep_float: Sequence[str] = ()
    correct: Sequence[str] = ("auto",)
    attempts: int = 8
    budget_s: float = math.inf
    keep_slower: bool = False
    time_it: bool = True
    tuned: Mapping[str, Source] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Quantized:
    """What came out.

    `kept_float` are the patterns of layers in float, `worst_drop` the largest loss of any file in the metric's unit
    (None where nothing was measured), `met` whether that is within the target and a file was kept. `layers` of each
    component, `attempts` in order, and `notes` for people: what was left out, and why.
    """

    bundle: Bundle
    precision: str
    kept_float: tuple[str, ...]
    corrections: tuple[str, ...]
    worst_drop: float | None
    max_drop: float | None
    met: bool
    layers: Mapping[str, Sequence[Layer]] = field(default_factory=dict)
    attempts: Sequence[Attempt] = ()
    notes: Sequence[str] = ()


@nothing_kept()
@leaving_modes
def quantize(
    bundle: str | Path | Bundle,
    calibration: str | Path | Calibration | Mapping[str, Calibration] | None = None,
    metric: str | Metric | None = None,
    *,
    validation: str | Path | None = None,
    max_drop: float | None = None,
    source: str | Path | nn.Module | Source | Mapping[str, nn.Module | Source] | None = None,
    out: str | Path | None = None,
    options: QuantizeOptions = QuantizeOptions(),
) -> Quantized:
    """Write variants of one scheme next to a bundle's fp32 ones; the bundle is replaced in one step.

    Args:
        bundle: a folder that `export` wrote.
        calibration: real inputs, a tuple of arrays each, by component where there are several; a path to photos, a
            text or arrays, as `calibration.from_path` reads it; "zoo" for what ships with edgekit, or "random" for
            what the task draws itself, or noise. Weight-only and dynamic schemes need none.
        metric: measured for every variant, fp32 too, each on its own engine; a name with `validation`, as
            `metrics.chosen.metric_of` has them ("auto" where `validation` alone is given).
        validation: photos, a text or arrays to measure on, apart from the calibration's.
        max_drop: the most that a variant may lose, in the metric's unit. While it loses more, the layers that err most
            are returned to float.
        source: the PyTorch module that was exported, or what names it ("file.py:factory"), where the bundle does not
            carry a zoo network's weights; by component where there are several. Without one, int8 is made from the
            converted files by their formats' own tools.
        out: the folder to write; None puts the bundle with its new files in its own place.

    Returns:
        The best that was found. `met` is False where the drop stayed above `max_drop`: it is kept all the same.

    Raises:
        BundleError. InputError: a `source` that is no module, or of other components.
        QuantizationError: no calibration data, nothing to quantize, or no file that is worth keeping.
        ExportError: a format could not be written; what could is, and is the error's `bundle`.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    target = _target(opened, out)
    measured = _metric(opened, metric, validation)
    if max_drop is not None and measured is None:
        raise QuantizationError(f"got max_drop={max_drop} without a metric: pass what to measure it with")
    if max_drop is not None and not max_drop >= 0:
        raise QuantizationError(f"got max_drop={max_drop}: expected 0 or more, in the metric's unit")
    work = Work(
        bundle=opened,
        precision=options.scheme,
        sources=_sources(opened, source),
        tuned=options.tuned,
        calibration=_inputs(opened, calibration, options.scheme),
        metric=measured,
        formats=_formats(opened, options),
        export=ExportOptions(buckets=options.buckets or _buckets(opened), progress=options.progress),
        progress=options.progress,
    )
    limits = Limits(max_drop, max(1, options.attempts), options.budget_s)
    with _scratch(target) as scratch, guard.trusting():
        trials = Trials(work, scratch, max_drop)
        first = Plan(tuple(options.keep_float), trials.corrections(options.correct))
        attempts, why = search(trials.run, first, limits, trials.ranked)
        chosen = best(attempts)
        trial = trials.completed(chosen.plan)
        notes = [*_roads(work), *trial.notes, *([f"the search ended: {why}"] if why else [])]
        notes += trial.compare_engines()
        if options.time_it:
            notes += trial.guard(options.keep_slower)
        left, worst_drop, layers = trial.written(), trial.worst_drop, trials.layers(trial)
        if left:
            with bundles.staged(target) as stage:
                trial.bundle.copy_files(stage)
                bundles.write(stage, trial.bundle.manifest)
    made = Quantized(
        bundle=Bundle.open(target) if left else opened,
        precision=options.scheme,
        kept_float=chosen.plan.kept,
        corrections=chosen.plan.corrections,
        worst_drop=worst_drop if measured else None,
        max_drop=max_drop,
        met=bool(left) and (max_drop is None or worst_drop <= max_drop),
        layers=layers,
        attempts=tuple(attempts),
        notes=tuple(notes),
    )
    if trial.failures:
        raise joined(list(trial.failures.values()), made.bundle)
    return made


def _roads(work: Work) -> list[str]:
    """What is to be said of components without a PyTorch network."""
    without = [name for name, source in work.sources.items() if source is None]
    if not without or work.precision != "int8":
        return []
    which = f" '{', '.join(without)}'" if len(work.sources) > 1 else ""
    return [
        f"int8{which} was made from the converted files by their formats' own tools: with the PyTorch network (--source) "
        "one quantization serves all formats, and loses less"
    ]


def _target(opened: Bundle, out: str | Path | None) -> Path:
    """Where to write; a bundle that ships, or lies in a .zip, is not changed in its place."""
    if out is not None:
        target = Path(out).absolute()
        bundles.refuse_other(target)
        return target
    place = opened.folder.resolve()
    shipped = {folder.resolve() for folder in bundles.shipped().values()}
    if place in shipped or bundles.cache_folder().resolve() in place.parents:
        raise QuantizationError(
            f"'{opened.name}' ships with edgekit or is a .zip: name a folder to write (out=…, or -o)"
        )
    return opened.folder


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target, gone afterwards; what a killed run left there is removed first."""
    stem = f".{target.name}.quantize-"
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f"{glob.escape(stem)}*"):
        pid = left.name.removeprefix(stem).partition("-")[0]
        if pid.isdecimal() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{stem}{os.getpid()}-", dir=target.parent) as folder:
        yield Path(folder)


def _alive(pid: int) -> bool:
    """Whether a process of this number runs; as far as it can be told."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _metric(bundle: Bundle, metric: str | Metric | None, validation: str | Path | None) -> Metric | None:
    """The metric by name or itself; None where neither it nor data to measure on are given."""
    if isinstance(metric, Metric):
        return metric
    if validation is None and metric in (None, "auto"):
        return None
    return metric_of(metric or "auto", bundle, None if validation is None else Path(validation))


def _sources(bundle: Bundle, given: Any) -> dict[str, Source | None]:
    """The PyTorch network of each component, None where the bundle carries none."""
    names = tuple(bundle.manifest.components)
    if given is not None:
        found = again(bundle, str(given)) if isinstance(given, (str, Path)) else described(bundle, given)
        require_same(bundle, found)
        return dict(found)
    return {name: from_bundle(bundle, name) if carries_network(bundle, name) else None for name in names}


def _inputs(bundle: Bundle, given: object, scheme: str) -> dict[str, Calibration]:
    """Calibration inputs of each component; none where the scheme needs none and none are given.

    Raises:
        QuantizationError: nothing that could show a range.
    """
    if given is None:
        found: type[Scheme] = registry.find("schemes", scheme)
        if found.calibrated:
            raise QuantizationError(
                f"{scheme} needs calibration inputs: name 20 or more real ones (--calibration), or 'zoo' for what ships"
            )
        return {}
    by_name = named(bundle, given) if isinstance(given, (str, Path)) else given
    names = tuple(bundle.manifest.components)
    inputs = _by_component(by_name, names)
    return {name: checked(list(arrays), bundle.component(name).inputs) for name, arrays in inputs.items()}


def _by_component(given: Any, names: Sequence[str]) -> Mapping[str, Calibration]:
    """The calibration that is given for each component; a single component needs no name.

    Raises:
        QuantizationError: a component got none.
    """
    alone = {names[0]: given} if len(names) == 1 else {}
    found: Mapping[str, Calibration] = given if isinstance(given, Mapping) else alone
    if set(found) != set(names):
        have = sorted(found) or "no component by name"
        raise QuantizationError(f"got calibration for {have}: expected {list(names)}")
    return found


def _formats(bundle: Bundle, options: QuantizeOptions) -> tuple[str, ...]:
    """The formats to write: those of the fp32 files where none are named."""
    first = bundle.component(bundle.main)
    found = dict.fromkeys(
        v.format for v in first.variants if v.precision == float_precision(bundle) and v.format != "torch"
    )
    formats = tuple(options.formats) or tuple(found)
    if not formats:
        raise QuantizationError(f"{bundle.name} has no fp32 file but PyTorch's: name the formats to write")
    return formats


def _buckets(bundle: Bundle) -> list[dict[str, int]]:
    """The sizes of the files that have fixed ones."""
    variants = [v for c in bundle.manifest.components.values() for v in c.variants if v.sizes]
    return [dict(sizes) for sizes in dict.fromkeys(tuple(v.sizes.items()) for v in variants)]


__all__ = ["Attempt", "Layer", "Metric", "QuantizeOptions", "Quantized", "quantize"]
