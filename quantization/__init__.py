"""int8 next to fp32: one calibration and one list of what stays float for every format, then the quality."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit import bundle as bundles
from edgekit.bundle import Bundle
from edgekit.errors import QuantizationError
from edgekit.exporters import ExportOptions, convert
from edgekit.exporters.parity import ENGINES
from edgekit.exporters.sources import Source
from edgekit.manifest import Component, Quality, Variant
from edgekit.quantization.metrics import Metric
from edgekit.quantization.pt2e import QuantizedSource, layer_names, quantize_source
from edgekit.quantization.search import rank_layers
from edgekit.runtimes.torch_ import load_module
from edgekit.tensors import Array


@dataclass(frozen=True)
class QuantizeOptions:
    """`keep_float`: patterns of layers that stay float from the start. `max_drop`: the most that int8 may lose,
    in the metric's unit; while it loses more, the layer that errs most is returned to float, at most
    `attempts` times. `progress` is told each step.
    """

    keep_float: Sequence[str] = ()
    max_drop: float | None = None
    attempts: int = 4
    formats: Sequence[str] = ()
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
    calibration: Sequence[tuple[Array, ...]],
    metric: Metric | None = None,
    *,
    source: Source | None = None,
    out: str | Path | None = None,
    options: QuantizeOptions = QuantizeOptions(),
) -> Quantized:
    """Write static int8 variants next to a bundle's fp32 ones; the bundle is replaced in one step.

    Args:
        bundle: a folder that `export` wrote.
        calibration: real inputs, a tuple of arrays each; `calibration.from_photos` makes them.
        metric: measured for every variant, fp32 too, each on its own engine; its data are not the calibration's.
        source: the PyTorch module, where the bundle does not carry a zoo network's weights.
        out: the folder to write; None puts the bundle with its new files in its own place.

    Returns:
        The best that was found. `met` is False where the drop stayed above `max_drop`: it is kept all the same.

    Raises:
        QuantizationError: no PyTorch source, no calibration data, nothing to quantize. ExportError.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    target = _target(opened, bundle, out)
    source = source or source_of(opened)
    formats = tuple(options.formats) or tuple(f for f in dict.fromkeys(v.format for v in _fp32(opened)) if f != "torch")
    keep = list(options.keep_float)
    ranked: list[str] | None = None
    qualities: dict[tuple[str, str], Quality] = {}  # fp32 is measured once, int8 at every attempt
    best: tuple[float, Path, tuple[str, ...]] | None = None
    scratch = Path(tempfile.mkdtemp(prefix="edgekit-quantize-"))
    try:
        for attempt in range(max(1, options.attempts if options.max_drop is not None else 1)):
            quantized = quantize_source(source, calibration, keep)
            place = scratch / str(attempt) / opened.folder.name
            drop = _write(opened, quantized, metric, formats, place, options.progress, qualities)
            options.progress(f"int8 with {len(keep)} layers in float: drop {drop:.3f}")
            if best is None or drop < best[0]:
                best = (drop, place, tuple(keep))
            if options.max_drop is None or drop <= options.max_drop:
                break
            ranked = rank_layers(source, calibration) if ranked is None else ranked
            left = [name for name in ranked if name not in keep]
            if len(left) <= 1:
                break
            keep.append(left[0])
        assert best is not None
        with bundles.staged(target) as stage:
            shutil.copytree(best[1], stage, dirs_exist_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    met = options.max_drop is None or best[0] <= options.max_drop
    return Quantized(Bundle.open(target), best[2], best[0] if metric else None, met)


def _target(opened: Bundle, given: str | Path | Bundle, out: str | Path | None) -> Path:
    """Where to write; a bundle that ships, or lies in a .zip, is not changed in its place."""
    if out is not None:
        target = Path(out).absolute()
        bundles.refuse_other(target)
        return target
    if opened.folder in bundles.shipped().values() or bundles.cache_folder() in opened.folder.parents:
        raise QuantizationError(f"'{given}' ships with edgekit or is a .zip: name a folder to write (out=…, or -o)")
    return opened.folder


def source_of(bundle: Bundle) -> Source:
    """The PyTorch source of a bundle that carries a zoo network's weights.

    Raises:
        QuantizationError: it carries none.
    """
    component = bundle.component()
    weights = next((v for v in component.variants if v.format == "torch"), None)
    if weights is None or component.family is None:
        raise QuantizationError(
            f"{bundle.name} has no PyTorch weights of a zoo network: pass the module again (source=…, or --source "
            "package.module:factory)"
        )
    module = load_module(component.family, component.settings, bundle.model_path(weights))
    golden = bundle.golden()
    probes = (tuple(golden[s.name] for s in component.inputs),)
    return Source(module, component.inputs, component.outputs, probes, component.family, component.settings)


def _write(
    opened: Bundle,
    quantized: QuantizedSource,
    metric: Metric | None,
    formats: Sequence[str],
    place: Path,
    progress: Callable[[str], None],
    qualities: dict[tuple[str, str], Quality],
) -> float:
    """Write the bundle with int8 variants to `place`, measure it, and return the largest drop."""
    component = opened.component()
    buckets = list(dict.fromkeys(tuple(v.sizes.items()) for v in component.variants if v.sizes))
    options = ExportOptions(formats=formats, buckets=[dict(b) for b in buckets], progress=progress)
    with bundles.staged(place) as stage:
        for entry in dict.fromkeys(opened.manifest.file_entries()):
            (stage / entry.path).parent.mkdir(exist_ok=True)
            shutil.copy(opened.file(entry), stage / entry.path)
        variants = [v for v in component.variants if not (v.precision == "int8" and v.format in formats)]
        for name in formats:
            variants += convert(quantized.graph(name), name, stage, options)
        _manifest(stage, opened, component, variants, {})
    if metric is None:
        return 0.0
    return _measure(Bundle.open(place), component, variants, metric, progress, qualities)


def _measure(
    bundle: Bundle,
    component: Component,
    variants: list[Variant],
    metric: Metric,
    progress: Callable[[str], None],
    qualities: dict[tuple[str, str], Quality],
) -> float:
    for precision in ("fp32", "int8"):
        for format in dict.fromkeys(v.format for v in variants if v.precision == precision and v.format in ENGINES):
            if precision == "fp32" and (format, precision) in qualities:
                continue
            progress(f"{metric.name} of {format} {precision}")
            value = metric.value(bundle, ENGINES[format], precision)
            if not math.isfinite(value):
                raise QuantizationError(
                    f"{metric.name} of {format} {precision} is {value}: is the validation data real?"
                )
            fp32 = qualities[(format, "fp32")].value if precision != "fp32" else value
            drop = metric.drop(value, fp32)
            qualities[(format, precision)] = Quality(metric.name, round(value, 4), round(drop, 4), metric.data)
    _manifest(bundle.folder, bundle, component, variants, qualities)
    return max(q.drop for (_, precision), q in qualities.items() if precision == "int8")


def _manifest(
    folder: Path,
    bundle: Bundle,
    component: Component,
    variants: list[Variant],
    qualities: dict[tuple[str, str], Quality],
) -> None:
    stated = [msgspec.structs.replace(v, quality=qualities.get((v.format, v.precision), v.quality)) for v in variants]
    components = {**bundle.manifest.components, "model": msgspec.structs.replace(component, variants=tuple(stated))}
    bundles.write(folder, msgspec.structs.replace(bundle.manifest, components=components))


def _fp32(bundle: Bundle) -> list[Variant]:
    return [v for v in bundle.component().variants if v.precision == "fp32"]


__all__ = ["Metric", "QuantizeOptions", "Quantized", "layer_names", "quantize", "source_of"]
