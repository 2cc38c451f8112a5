"""What the page says, gathered from a quantization and from the manifest that it wrote."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import edgekit
from edgekit import machine, registry
from edgekit.bundle import Bundle
from edgekit.manifest import METRICS, Agreement, Quality, Speed, Variant
from edgekit.quantization.agreement import ALIKE_DB
from edgekit.quantization.report.samples import Samples
from edgekit.quantization.schemes.scheme import Layer
from edgekit.stated import largest, readable, whole

if TYPE_CHECKING:
    from edgekit.quantization import Quantized
    from edgekit.quantization.search import Attempt

WORDS = {
    "int8": "static int8: weights and activations",
    "int8-dynamic": "dynamic int8: weights beforehand, activations as they come",
    "int8-weights": "int8 weights, activations in float",
    "int4-weights": "int4 weights, activations in int8 or float as the engine has it",
    "fp16": "half precision",
}


@dataclass(frozen=True)
class File:
    """The files of one format: bytes of all components at their largest sizes, in fp32 and small, and their quality.

    `snr_db` is the lowest SNR beside PyTorch; `sizes` how many files of fixed sizes a component has.
    """

    format: str
    bytes: int
    fp32_bytes: int | None
    fp32_format: str
    before: Quality | None
    after: Quality | None
    snr_db: float | None
    sizes: int

    @property
    def part(self) -> float | None:
        return self.bytes / self.fp32_bytes if self.fp32_bytes else None


@dataclass(frozen=True)
class Timed:
    """One format on one engine: one use of the whole bundle, beside fp32."""

    runtime: str
    format: str
    speed: Speed


@dataclass(frozen=True)
class Part:
    """One component's layers, with the bounds that its plots share, and how alike engines compute it."""

    name: str
    layers: Sequence[Layer]
    agreement: Sequence[Agreement]

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest calibrated value."""
        known = [x for layer in self.layers for x in (layer.low, layer.high) if x is not None and math.isfinite(x)]
        return min([0.0, *known]), max([0.0, *known])

    @property
    def ranked(self) -> bool:
        return any(layer.noise_db is not None for layer in self.layers)

    @property
    def ranged(self) -> bool:
        return any(layer.low is not None for layer in self.layers)

    @property
    def kept(self) -> int:
        return sum(bool(layer.kept) for layer in self.layers)

    def error(self, layer: Layer) -> float:
        """What a layer's noise is of the output's size, in percent (amplitudes)."""
        return 0.0 if layer.noise_db is None else 100 * 10 ** (-layer.noise_db / 20)

    @property
    def largest_error(self) -> float:
        return max((self.error(layer) for layer in self.layers), default=0.0)


@dataclass(frozen=True)
class Tile:
    """One figure that matters most: what, how much, and beside what. `tone` is "good", "bad" or nothing."""

    what: str
    value: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    name: str
    summary: str
    precision: str
    words: str
    verdict: str
    tone: str
    tiles: Sequence[Tile]
    files: Sequence[File]
    metric: str
    speeds: Sequence[Timed]
    samples: Samples | None
    parts: Sequence[Part]
    attempts: Sequence[Attempt]
    chosen: int | None
    notes: Sequence[str]
    facts: Mapping[str, str]
    measured: bool = True
    target: bool = True
    alike_db: float = ALIKE_DB

    @property
    def slowest_ms(self) -> float:
        return max((max(t.speed.ms, t.speed.fp32_ms) for t in self.speeds), default=0.0)


def page(quantized: Quantized, shown: Samples | None, words: Mapping[str, str]) -> Page:
    """Gather the page of a quantization; `words` say what the data were."""
    bundle, precision = quantized.bundle, quantized.precision
    files, speeds = tuple(_files(bundle, precision)), tuple(_speeds(bundle, precision))
    verdict, tone = _verdict(quantized, files)
    metric = next((f.after.metric for f in files if f.after), "")
    parts = [
        Part(name, quantized.layers.get(name, ()), [a for a in component.agreement if a.precision == precision])
        for name, component in bundle.manifest.components.items()
    ]
    return Page(
        name=bundle.name,
        summary=bundle.manifest.summary,
        precision=precision,
        words=WORDS.get(precision, precision),
        verdict=verdict,
        tone=tone,
        tiles=tuple(_tiles(quantized, files, speeds, parts)),
        files=files,
        metric=METRICS.get(metric, metric),
        speeds=speeds,
        samples=shown,
        parts=parts,
        attempts=quantized.attempts,
        chosen=_chosen(quantized),
        notes=tuple(dict.fromkeys(quantized.notes)),
        facts={**words, **_facts(quantized)},
        measured=quantized.worst_drop is not None,
        target=quantized.max_drop is not None,
    )


def _files(bundle: Bundle, precision: str) -> Iterator[File]:
    components = bundle.manifest.components.values()
    variants = [v for c in components for v in c.variants]
    for format in dict.fromkeys(v.format for v in variants if v.precision == precision):
        small = [[v for v in c.variants if (v.format, v.precision) == (format, precision)] for c in components]
        beside = next((f for f in (format, "onnx", "openvino", "tflite") if _fp32(bundle, f)), "")
        fp32 = _fp32(bundle, beside)
        yield File(
            format=format,
            bytes=sum(largest(found).bytes for found in small if found),
            fp32_bytes=sum(v.bytes for v in fp32) or None,
            fp32_format="" if beside == format else beside,
            before=next((v.quality for v in fp32 if v.quality), None),
            after=max((v.quality for f in small for v in f if v.quality), key=lambda q: q.drop, default=None),
            snr_db=min((v.parity.snr_db for f in small for v in f if v.parity), default=None),
            sizes=max(len(found) for found in small),
        )


def _fp32(bundle: Bundle, format: str) -> list[Variant]:
    """The fp32 files of a format, one a component, the largest; none where a component has none."""
    found = [
        [v for v in c.variants if (v.format, v.precision) == (format, "fp32")]
        for c in bundle.manifest.components.values()
    ]
    return [largest(variants) for variants in found] if all(found) else []


def _speeds(bundle: Bundle, precision: str) -> Iterator[Timed]:
    """One bundle on every engine with figures, in the format that most of its components have there."""
    components = bundle.manifest.components
    for runtime in registry.device_runtimes():
        speed = whole(components, runtime, precision)
        files = [v for c in components.values() for v in readable(runtime, precision, c.variants)]
        if speed is not None:
            yield Timed(runtime, files[0].format, speed)


def _verdict(quantized: Quantized, files: Sequence[File]) -> tuple[str, str]:
    """One sentence, and whether it is good or bad news."""
    precision, target = quantized.precision, quantized.max_drop
    if not files:
        return f"No {precision} file was kept.", "bad"
    metric = next((f.after.metric for f in files if f.after), "")
    unit = METRICS.get(metric, metric)
    if quantized.worst_drop is None:
        return "Written; its quality was not measured, as no validation data were given.", ""
    if target is None:
        return f"The worst file loses {quantized.worst_drop:.3g} {unit}; no target was set.", ""
    if quantized.met:
        return f"Target met: the worst file loses {quantized.worst_drop:.3g} {unit}, allowed were {target:g}.", "good"
    return f"Target missed: the worst file loses {quantized.worst_drop:.3g} {unit}, allowed were {target:g}.", "bad"


def _tiles(
    quantized: Quantized, files: Sequence[File], speeds: Sequence[Timed], parts: Sequence[Part]
) -> Iterator[Tile]:
    smallest = min((f for f in files if f.part), key=lambda f: f.part or 1.0, default=None)
    if smallest is not None and smallest.part:
        yield Tile("file size", f"{smallest.part:.2f}×", f"of fp32, {smallest.format}", "good")
    quickest = max(speeds, key=lambda t: t.speed.gain, default=None)
    if quickest is not None:
        tone = "bad" if quickest.speed.slower else "good" if quickest.speed.gain > 1 else ""
        yield Tile("speed", f"{quickest.speed.gain:.1f}×", f"that of fp32, {quickest.runtime}", tone)
    worst = max((f for f in files if f.after), key=lambda f: f.after.drop if f.after else 0.0, default=None)
    if quantized.worst_drop is not None and worst is not None and worst.after is not None:
        missed = quantized.max_drop is not None and worst.after.drop > quantized.max_drop
        unit = METRICS.get(worst.after.metric, worst.after.metric)
        yield Tile("largest drop", f"{worst.after.drop:.3g}", f"{unit}, {worst.format}", "bad" if missed else "good")
    pairs = [a for part in parts for a in part.agreement]
    if pairs:
        lowest = min(pairs, key=lambda a: a.snr_db)
        value = "equal" if lowest.snr_db >= 999 else f"{lowest.snr_db:.0f} dB"
        tone = "good" if lowest.snr_db >= ALIKE_DB else "bad"
        yield Tile("engines agree to", value, " and ".join(lowest.engines), tone)
    layers = [layer for part in parts for layer in part.layers]
    if layers:
        kept = sum(bool(layer.kept) for layer in layers)
        yield Tile("layers in float", f"{kept}", f"of {len(layers)}")


def _chosen(quantized: Quantized) -> int | None:
    """Which attempt was kept: the one with the plan of what came out, the last of those."""
    plan = (tuple(quantized.kept_float), tuple(quantized.corrections))
    found = [i for i, a in enumerate(quantized.attempts) if (a.plan.kept, a.plan.corrections) == plan]
    return found[-1] if found else None


def _facts(quantized: Quantized) -> dict[str, str]:
    facts = machine.facts()
    tools = quantized.bundle.manifest.provenance.get("tools")
    versions = {**facts["packages"], **(tools if isinstance(tools, Mapping) else {})}
    return {
        "kept float from the start or returned to it": ", ".join(quantized.kept_float) or "nothing",
        "corrections": ", ".join(quantized.corrections) or "none",
        "processor": f"{facts['processor']}, {facts['cores']} cores, {facts['architecture']}",
        "int8 units": ", ".join(facts["int8_units"]) or "none: int8 gains little here",
        "load when the page was written": str(facts["load_1min"]),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "written": f"{time.strftime('%Y-%m-%d %H:%M')} by edgekit {edgekit.__version__}",
    }
