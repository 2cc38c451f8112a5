"""int8 next to fp32: one calibration and one list of what stays float for every format, then the quality."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import msgspec

from edgekit import bundle as bundles
from edgekit.bundle import Bundle
from edgekit.errors import QuantizationError
from edgekit.exporters.proof.parity import ENGINES
from edgekit.exporters.sources import Source, from_bundle
from edgekit.exporters.writing import ExportOptions, convert
from edgekit.manifest import Component, Quality, Variant
from edgekit.quantization.calibration import checked, from_path
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.networks import require_same
from edgekit.quantization.pt2e import layer_names, quantize_source
from edgekit.quantization.search import rank_layers
from edgekit.tensors import Array

Calibration = Sequence[tuple[Array, ...]]
T = TypeVar("T")
EXPORTED = [format for format in ENGINES if format != "torch"]  # whose quality is measured


@dataclass(frozen=True)
class QuantizeOptions:
    """`keep_float`: patterns of layers that stay float from the start, as "component/layer" where there are
    several components. `max_drop`: the most that int8 may lose, in the metric's unit; while it loses more,
    the layer that errs most is returned to float, at most `attempts` times and for `budget_s` seconds. `formats` of the int8 files, and
    `buckets`, the sizes of .tflite files where dimensions are free: those of the fp32 files where left out.
    `progress` is told each step.
    """

    keep_float: Sequence[str] = ()
    max_drop: float | None = None
    attempts: int = 4
    budget_s: float = math.inf
    formats: Sequence[str] = ()
    buckets: Sequence[Mapping[str, int]] = ()
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Quantized:
    """What came out: the bundle with its int8 variants, what stayed float, and whether the target was met."""

    bundle: Bundle
    kept_float: tuple[str, ...]
    worst_drop: float | None
    met: bool


def quantize(
    bundle: str | Path | Bundle,
    calibration: str | Path | Calibration | Mapping[str, Calibration],
    metric: Metric | None = None,
    *,
    source: Source | Mapping[str, Source] | None = None,
    out: str | Path | None = None,
    options: QuantizeOptions = QuantizeOptions(),
) -> Quantized:
    """Write static int8 variants next to a bundle's fp32 ones; the bundle is replaced in one step.

    Args:
        bundle: a folder that `export` wrote.
        calibration: real inputs, a tuple of arrays each, by component where there are several; or a path to
            photos, a text or arrays, as `calibration.from_path` reads it.
        metric: measured for every variant, fp32 too, each on its own engine; its data are not the calibration's.
        source: the PyTorch module, where the bundle does not carry a zoo network's weights; by component
            where there are several.
        out: the folder to write; None puts the bundle with its new files in its own place.

    Returns:
        The best that was found. `met` is False where the drop stayed above `max_drop`: it is kept all the same.

    Raises:
        BundleError: no PyTorch source. QuantizationError: no calibration data, nothing to quantize. ExportError.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    target = _target(opened, bundle, out)
    if options.max_drop is not None and metric is None:
        raise QuantizationError(f"got max_drop={options.max_drop} without a metric: pass what to measure it with")
    names = tuple(opened.manifest.components)
    if isinstance(calibration, (str, Path)):
        calibration = from_path(opened, calibration)
    given = _by_component(calibration, names, "calibration")
    inputs = {name: checked(list(found), opened.component(name).inputs) for name, found in given.items()}
    started = time.monotonic()
    sources = (
        {name: from_bundle(opened, name) for name in names}
        if source is None
        else _by_component(source, names, "source")
    )
    if source is not None:
        require_same(opened, sources)
    work = _Work(opened, sources, inputs, metric, options)
    keep = list(options.keep_float)
    ranked: list[str] | None = None
    best: tuple[float, Path, tuple[str, ...]] | None = None
    scratch = Path(tempfile.mkdtemp(prefix="edgekit-quantize-"))
    try:
        for attempt in range(max(1, options.attempts if options.max_drop is not None else 1)):
            place = scratch / str(attempt) / opened.folder.name
            drop = work.write(keep, place)
            options.progress(f"int8 with {len(keep)} layers in float: drop {drop:.3f}")
            if best is None or drop < best[0]:
                best = (drop, place, tuple(keep))
            if options.max_drop is None or drop <= options.max_drop:
                break
            ranked = work.ranked() if ranked is None else ranked
            left = [name for name in ranked if not any(fnmatchcase(name, pattern) for pattern in keep)]
            if len(left) <= 1 or time.monotonic() - started > options.budget_s:
                break
            keep.append(left[0])
        assert best is not None
        with bundles.staged(target) as stage:
            shutil.copytree(best[1], stage, dirs_exist_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    met = options.max_drop is None or best[0] <= options.max_drop
    return Quantized(Bundle.open(target), best[2], best[0] if metric else None, met)


class _Work:
    """One quantization of a bundle, tried with more and more layers in float."""

    def __init__(
        self,
        opened: Bundle,
        sources: Mapping[str, Source],
        calibration: Mapping[str, Calibration],
        metric: Metric | None,
        options: QuantizeOptions,
    ) -> None:
        self.opened, self.sources, self.calibration = opened, sources, calibration
        self.metric, self.options = metric, options
        first = next(iter(opened.manifest.components.values()))
        found = dict.fromkeys(v.format for v in first.variants if v.precision == "fp32" and v.format != "torch")
        self.formats = tuple(options.formats) or tuple(found)
        if not self.formats:
            raise QuantizationError(f"{opened.name} has no fp32 file but PyTorch's: name the int8 formats to write")
        self.qualities: dict[tuple[str, str], Quality] = {}  # fp32 is measured once, int8 at every attempt

    def write(self, keep: Sequence[str], place: Path) -> float:
        """Write the bundle with int8 variants to `place`, measure it, and return the largest drop."""
        with bundles.staged(place) as stage:
            self.opened.copy_files(stage)
            components = {
                name: msgspec.structs.replace(component, variants=(*self._kept_variants(component), *made))
                for name, component in self.opened.manifest.components.items()
                for made in [self._converted(name, component, keep, stage)]
            }
            bundles.write(stage, msgspec.structs.replace(self.opened.manifest, components=components))
        return 0.0 if self.metric is None else self._measure(Bundle.open(place), self.metric)

    def ranked(self) -> list[str]:
        """Layers of all components, the one that errs most first."""
        noise = {
            self._qualified(name, layer): snr
            for name, source in self.sources.items()
            for layer, snr in rank_layers(source, self.calibration[name]).items()
        }
        return sorted(noise, key=lambda layer: noise[layer])

    def _qualified(self, component: str, layer: str) -> str:
        return layer if len(self.sources) == 1 else f"{component}/{layer}"

    def _kept_variants(self, component: Component) -> list[Variant]:
        return [v for v in component.variants if not (v.precision == "int8" and v.format in self.formats)]

    def _converted(self, name: str, component: Component, keep: Sequence[str], stage: Path) -> list[Variant]:
        prefix = self._qualified(name, "")
        of_others = [p for p in keep if prefix and p.partition("/")[0] not in self.sources]
        if of_others:
            raise QuantizationError(
                f"got keep_float {of_others}: expected COMPONENT/LAYER of {', '.join(self.sources)}"
            )
        patterns = [p.removeprefix(prefix) for p in keep if p.startswith(prefix)]
        quantized = quantize_source(self.sources[name], self.calibration[name], patterns)
        found = dict.fromkeys(tuple(v.sizes.items()) for v in component.variants if v.sizes)
        buckets = self.options.buckets or [dict(sizes) for sizes in found]
        options = ExportOptions(buckets=buckets, progress=self.options.progress)
        return [v for f in self.formats for v in convert(quantized.graph(f, name), f, stage, options)]

    def _measure(self, bundle: Bundle, metric: Metric) -> float:
        """The metric of every format in fp32 and int8, written to the manifest; the largest drop of int8."""
        variants = [v for c in bundle.manifest.components.values() for v in c.variants]
        for precision in ("fp32", "int8"):
            for format in dict.fromkeys(
                v.format for v in variants if v.precision == precision and v.format in EXPORTED
            ):
                if precision == "int8" or (format, precision) not in self.qualities:
                    self.qualities[(format, precision)] = self._quality(bundle, metric, format, precision)
        stated = {
            name: msgspec.structs.replace(component, variants=tuple(map(self._stated, component.variants)))
            for name, component in bundle.manifest.components.items()
        }
        bundles.write(bundle.folder, msgspec.structs.replace(bundle.manifest, components=stated))
        return max(q.drop for (_, precision), q in self.qualities.items() if precision == "int8")

    def _quality(self, bundle: Bundle, metric: Metric, format: str, precision: str) -> Quality:
        """The worst of the engines that read the format: OpenVINO too for ONNX, where it has no files of its own."""
        own = {v.format for c in bundle.manifest.components.values() for v in c.variants}
        engines = [ENGINES[format], *(["openvino"] if format == "onnx" and "openvino" not in own else [])]
        qualities = []
        for engine in engines:
            self.options.progress(f"{metric.name} of {format} {precision} on {engine}")
            value = metric.value(bundle, engine, precision)
            if not math.isfinite(value):
                raise QuantizationError(
                    f"{metric.name} of {format} {precision} is {value}: is the validation data real?"
                )
            fp32 = self.qualities.get((format, "fp32"), self.qualities.get(("onnx", "fp32")))
            drop = metric.drop(value, fp32.value) if fp32 and precision != "fp32" else 0.0
            qualities.append(Quality(metric.name, round(value, 4), round(drop, 4), metric.data))
        return max(qualities, key=lambda q: q.drop)

    def _stated(self, variant: Variant) -> Variant:
        quality = self.qualities.get((variant.format, variant.precision), variant.quality)
        return msgspec.structs.replace(variant, quality=quality)


def _by_component(given: T | Mapping[str, T], names: Sequence[str], what: str) -> Mapping[str, T]:
    """What is given for each component; a single component needs no name.

    Raises:
        QuantizationError: a component got none.
    """
    if not isinstance(given, Mapping):
        given = {names[0]: given} if len(names) == 1 else {}
    if set(given) != set(names):
        raise QuantizationError(f"got {what} for {sorted(given) or 'no component by name'}: expected {list(names)}")
    return given


def _target(opened: Bundle, given: str | Path | Bundle, out: str | Path | None) -> Path:
    """Where to write; a bundle that ships, or lies in a .zip, is not changed in its place."""
    if out is not None:
        target = Path(out).absolute()
        bundles.refuse_other(target)
        return target
    place = opened.folder.resolve()
    shipped = {folder.resolve() for folder in bundles.shipped().values()}
    if place in shipped or bundles.cache_folder().resolve() in place.parents:
        raise QuantizationError(f"'{given}' ships with edgekit or is a .zip: name a folder to write (out=…, or -o)")
    return opened.folder


__all__ = ["Metric", "QuantizeOptions", "Quantized", "layer_names", "quantize"]
