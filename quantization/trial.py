"""Trial: a bundle with the variants of one plan, written format after format and measured."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from edgekit import bundle as bundles
from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, ExportError, ParityError, QuantizationError
from edgekit.exporters.proof.parity import ENGINES
from edgekit.exporters.sources import Source
from edgekit.exporters.writing import ExportOptions, joined
from edgekit.manifest import Component, Manifest, Precision, Quality, Variant
from edgekit.quantization import agreement, ranking, speed
from edgekit.quantization.calibration import float_precision
from edgekit.quantization.correction import corrected, default
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.schemes.converted import ConvertedStatic
from edgekit.quantization.schemes.scheme import Calibration, Job, Layer, Scheme
from edgekit.quantization.search import Plan
from edgekit.tensors import Array

MEASURED = [format for format in ENGINES if format != "torch"]  # whose quality is measured

SMALLER = ("int8-weights", "int4-weights", "fp16")  # made for their size: weights are unfolded, and fp32 is computed


@dataclass(frozen=True)
class Work:
    """What all trials of one quantization share.

    `sources` has None for a component without a PyTorch network; `tuned` is rounded in a source's place. What is done once is kept: the quality of fp32,
    and networks with their corrections.
    """

    bundle: Bundle
    precision: Precision
    sources: Mapping[str, Source | None]
    tuned: Mapping[str, Source]
    calibration: Mapping[str, Calibration]
    metric: Metric | None
    formats: tuple[str, ...]
    export: ExportOptions
    progress: Callable[[str], None]
    qualities: dict[tuple[str, str], Quality] = field(default_factory=dict)
    changed: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Source] = field(default_factory=dict)

    def qualified(self, component: str, layer: str) -> str:
        """A layer's name in the whole bundle."""
        return layer if len(self.sources) == 1 else f"{component}/{layer}"

    def patterns(self, component: str, kept: Sequence[str]) -> tuple[str, ...]:
        """What is kept float of one component.

        Raises:
            QuantizationError: a pattern is of no component.
        """
        prefix = self.qualified(component, "")
        strangers = [p for p in kept if prefix and p.partition("/")[0] not in self.sources]
        if strangers:
            raise QuantizationError(
                f"got keep_float {strangers}: expected COMPONENT/LAYER of {', '.join(self.sources)}"
            )
        return tuple(p.removeprefix(prefix) for p in kept if p.startswith(prefix))

    def inputs(self, component: str) -> list[tuple[Array, ...]]:
        """A few inputs of a component: calibration's, else what the network was exported with, else golden ones."""
        given = self.calibration.get(component, ())
        if given:
            return list(given[:: max(1, len(given) // 4)][:4])
        source = self.sources[component]
        if source is not None:
            return [tuple(probe) for probe in source.probes]
        golden = self.bundle.golden(component)
        return [tuple(golden[spec.name] for spec in self.bundle.component(component).inputs)]

    def job(self, component: str, plan: Plan) -> Job:
        """One component as planned, its corrections made."""
        source, kept = self.sources[component], self.patterns(component, plan.kept)
        inputs = self.calibration.get(component, ())
        changed = self.tuned.get(component)
        if source is not None and plan.corrections:
            key = (component, plan.corrections, kept)
            if key not in self.changed:
                names = plan.corrections
                self.changed[key] = corrected(names, changed or source, inputs, kept, self.progress)
            changed = self.changed[key]
        return Job(component, self.bundle.component(component), self.bundle.folder, source, changed, inputs, kept)


class Trial:
    """One plan, tried: the bundle at `place`, whose variants of the precision are those of the plan.

    A component of several, of which nothing can be made small, stays as it is: `notes` say so. `drop` is the largest
    loss of the plan's files. `failures` are the formats that could not be written, with the cause.
    """

    def __init__(self, work: Work, plan: Plan, place: Path) -> None:
        self.work, self.plan, self.place = work, plan, place
        find: Callable[[Job], Scheme] = registry.find("schemes", work.precision)
        schemes = {name: find(work.job(name, plan)) for name in work.bundle.manifest.components}
        usable = {name: scheme for name, scheme in schemes.items() if len(schemes) == 1 or _some(scheme.layers())}
        self.schemes = usable or schemes  # which then say what is missing
        self.notes = [f"'{n}' stays fp32: {_reasons(s.layers())}" for n, s in schemes.items() if n not in self.schemes]
        self.failures: dict[str, ExportError] = {}
        self.drop = 0.0
        place.mkdir(parents=True)
        work.bundle.copy_files(place)
        components = {n: self._without_old(c) for n, c in work.bundle.manifest.components.items()}
        write_components(place, work.bundle.manifest, components)

    @property
    def bundle(self) -> Bundle:
        return Bundle.open(self.place)

    def written(self) -> list[str]:
        """The formats that are written."""
        variants = [v for c in self.bundle.manifest.components.values() for v in c.variants]
        have = {v.format for v in variants if v.precision == self.work.precision}
        return [f for f in self.work.formats if f in have]

    def missing(self) -> list[str]:
        """The formats that are neither written nor failed."""
        done = {*self.written(), *self.failures}
        return [f for f in self.work.formats if f not in done]

    def add(self, formats: Sequence[str]) -> None:
        """Write these formats, and measure them.

        Raises:
            ExportError: no format could be written. ParityError: what was written has little to do with the network.
            QuantizationError: nothing is left to quantize, or a metric is no number.
        """
        for format in formats:
            try:
                self._add(format)
            except ExportError as error:
                self.failures[format] = error
        if len(self.failures) == len(self.work.formats):
            raise joined(list(self.failures.values()))
        written = [f for f in formats if f not in self.failures]
        if self.work.metric is not None and written:
            self._measure(self.work.metric, written)

    def layers(self) -> dict[str, list[Layer]]:
        """The layers of every component."""
        return {name: scheme.layers() for name, scheme in self.schemes.items()}

    @property
    def worst_drop(self) -> float:
        """The largest drop of the files that there are: some may have been left out for their speed."""
        variants = [v for c in self.bundle.manifest.components.values() for v in c.variants]
        own = [v for v in variants if v.precision == self.work.precision and v.format in self.work.formats]
        return max((v.quality.drop for v in own if v.quality), default=self.drop)

    def compare_engines(self) -> list[str]:
        """Note in the manifest how alike the engines answer with the files of this trial.

        Returns:
            Which engines compute something else, in words.
        """
        bundle = self.bundle
        own = {name: self._own(component) for name, component in bundle.manifest.components.items()}
        compared = Bundle(self.place, msgspec.structs.replace(bundle.manifest, components=own))
        found: dict[str, Component] = {}
        notes: list[str] = []
        for name, component in bundle.manifest.components.items():
            agreed = agreement.agreements(compared, name, self.work.precision, self.work.inputs(name))
            others = tuple(a for a in component.agreement if a.precision != self.work.precision)
            found[name] = msgspec.structs.replace(component, agreement=(*others, *agreed))
            notes += [
                f"'{name}': {' and '.join(a.engines)} give different answers in {a.precision} ({a.snr_db:.0f} dB); "
                "`edgekit verify` says which is wrong, and auto leaves it alone"
                for a in agreed
                if a.wrong
            ]
        write_components(self.place, bundle.manifest, found)
        return notes

    def guard(self, keep_slower: bool) -> list[str]:
        """Measure the files beside fp32, and leave out those that are slower on every engine, unless they are to stay.

        Returns:
            What is slower, and what was left out, in words.
        """
        keep_slower = keep_slower or self.work.precision in SMALLER
        sources = {name: source for name, source in self.work.sources.items() if source is not None}
        options = speed.GuardOptions(keep_slower=keep_slower, sources=sources, progress=self.work.progress)
        guarded = speed.guard(self.bundle, self.work.precision, options)
        bundles.write(self.place, guarded.manifest)
        return list(guarded.notes)

    def _add(self, format: str) -> None:
        manifest = self.bundle.manifest
        made = {name: scheme.write(format, self.place, self.work.export) for name, scheme in self.schemes.items()}
        write_components(
            self.place,
            manifest,
            {
                name: msgspec.structs.replace(component, variants=(*component.variants, *made.get(name, ())))
                for name, component in manifest.components.items()
            },
        )

    def _own(self, component: Component) -> Component:
        """Without files of the precision that are of another run."""
        variants = [
            v for v in component.variants if v.precision != self.work.precision or v.format in self.work.formats
        ]
        return msgspec.structs.replace(component, variants=tuple(variants))

    def _without_old(self, component: Component) -> Component:
        """Without the variants that this trial writes anew, and what was said of them."""
        kept = [
            v for v in component.variants if not (v.precision == self.work.precision and v.format in self.work.formats)
        ]
        agreement = tuple(a for a in component.agreement if a.precision != self.work.precision)
        return msgspec.structs.replace(component, variants=tuple(kept), agreement=agreement)

    def _measure(self, metric: Metric, formats: Sequence[str]) -> None:
        """The metric of the formats in fp32 and as written, noted in the manifest."""
        bundle, precision = self.bundle, self.work.precision
        variants = [v for c in bundle.manifest.components.values() for v in c.variants]
        exact = float_precision(bundle)
        for format in dict.fromkeys(v.format for v in variants if v.precision == exact and v.format in MEASURED):
            if (format, exact) not in self.work.qualities:
                self.work.qualities[(format, exact)] = self._quality(metric, format, exact)
        found: dict[tuple[str, str], Quality] = {(f, precision): self._quality(metric, f, precision) for f in formats}
        self.drop = max(self.drop, *(q.drop for q in found.values()))
        known = {**self.work.qualities, **found}

        def stated(variant: Variant) -> Variant:
            quality = known.get((variant.format, variant.precision), variant.quality)
            return msgspec.structs.replace(variant, quality=quality)

        components: dict[str, Component] = {
            name: msgspec.structs.replace(component, variants=tuple(map(stated, component.variants)))
            for name, component in bundle.manifest.components.items()
        }
        write_components(self.place, bundle.manifest, components)

    def _quality(self, metric: Metric, format: str, precision: str) -> Quality:
        """The worst of the engines that read the format: OpenVINO too for ONNX, where it has no files of its own."""
        bundle = self.bundle
        own = {v.format for c in bundle.manifest.components.values() for v in c.variants}
        engines = [ENGINES[format], *(["openvino"] if format == "onnx" and "openvino" not in own else [])]
        exact = float_precision(bundle)
        fp32 = self.work.qualities.get((format, exact)) or next(iter(self.work.qualities.values()), None)
        qualities = []
        for engine in engines:
            self.work.progress(f"{metric.name} of {format} {precision} on {engine}: {metric.data}")
            value = metric.value(bundle, engine, precision)
            if not math.isfinite(value):
                raise QuantizationError(
                    f"{metric.name} of {format} {precision} on {engine} is {value}: is the validation data real?"
                )
            drop = metric.drop(value, fp32.value) if fp32 and precision != exact else 0.0
            qualities.append(Quality(metric.name, round(value, 4), round(drop, 4), metric.data))
        return max(qualities, key=lambda q: q.drop)


class Trials:
    """The trials of one search, each in a folder of its own."""

    def __init__(self, work: Work, scratch: Path, max_drop: float | None) -> None:
        self.work, self.scratch, self.max_drop = work, scratch, max_drop
        self._trials: dict[Plan, Trial] = {}
        self._errors: dict[Plan, EdgekitError] = {}
        self._noise: dict[str, float] | None = None

    def run(self, plan: Plan) -> float:
        """The drop of a plan; infinite where its files have little to do with the network, and where a plan after the
        first cannot be made: what was found before is not lost for it.
        """
        later = bool(self._trials)
        try:
            trial = self._tried(plan)
        except EdgekitError as error:
            if self.max_drop is None or not (later or isinstance(error, ParityError)):
                raise
            self._errors[plan] = error
            self.work.progress(f"{self.work.precision}: {plan}: {error}")
            return math.inf
        told = "" if self.work.metric is None else f", drop {trial.drop:.4g}"
        self.work.progress(f"{self.work.precision}: {plan}{told}")
        return trial.drop

    def _tried(self, plan: Plan) -> Trial:
        """Write the first format and measure it; the others too, where it meets the target."""
        number = len(self._trials) + len(self._errors)
        trial = Trial(self.work, plan, self.scratch / str(number) / self.work.bundle.folder.name)
        self._trials[plan] = trial
        while trial.missing() and not trial.written():
            trial.add(trial.missing()[:1])
        if self.max_drop is None or trial.drop <= self.max_drop:
            trial.add(trial.missing())
        return trial

    def completed(self, plan: Plan) -> Trial:
        """The trial of a plan, with every format.

        Raises:
            EdgekitError: what is best cannot be made, or has little to do with the network.
        """
        if plan in self._errors:
            raise self._errors[plan]
        trial = self._trials[plan]
        trial.add(trial.missing())
        return trial

    def corrections(self, asked: Sequence[str]) -> tuple[str, ...]:
        """The corrections by name; "auto" is those that serve the networks. None without a PyTorch network."""
        if not any(self.work.sources.values()):
            return ()
        sources = [source for source in self.work.sources.values() if source is not None]
        serving = [name for source in sources for name in default(source)] if "auto" in asked else []
        calibrated = any(self.work.calibration.values())
        return tuple(dict.fromkeys((*(n for n in asked if n != "auto"), *(serving if calibrated else ()))))

    def ranked(self) -> list[str]:
        """Layers of all components that the first plan made small, the one that errs most first: to return such as
        stay float anyway would be an attempt for nothing, or leave nothing to quantize. As patterns.
        """
        first = next(iter(self._trials.values())).layers()
        small = {self.work.qualified(name, x.name) for name, layers in first.items() for x in layers if not x.kept}
        noise = self.noise()
        order = sorted((layer for layer in noise if layer in small), key=lambda layer: noise[layer])
        return [glob.escape(layer) for layer in order]  # names of converted files may hold brackets

    def noise(self) -> dict[str, float]:
        """How far above each layer's noise the output lies, dB; {} where nothing can tell."""
        if self._noise is None:
            self._noise = {
                self.work.qualified(name, layer): snr
                for name in self.work.calibration
                for layer, snr in self._noise_of(name).items()
            }
        return self._noise

    def _noise_of(self, component: str) -> dict[str, float]:
        source = self.work.sources[component]
        if source is None:
            return ConvertedStatic(self.work.job(component, Plan())).ranked()
        return ranking.rank(source, self.work.calibration[component])

    def layers(self, trial: Trial) -> dict[str, list[Layer]]:
        """The layers of a trial, with their noise."""
        return {name: [self._with_noise(name, layer) for layer in layers] for name, layers in trial.layers().items()}

    def _with_noise(self, component: str, layer: Layer) -> Layer:
        known = self.noise() if self.work.precision == "int8" else {}  # which is the scheme that is ranked
        snr = known.get(self.work.qualified(component, layer.name))
        return layer if snr is None else replace(layer, noise_db=snr)


def _some(layers: Sequence[Layer]) -> bool:
    """Whether there is a layer that becomes small."""
    return any(not layer.kept for layer in layers)


def _reasons(layers: Sequence[Layer]) -> str:
    return "; ".join(dict.fromkeys(layer.kept for layer in layers)) or "it has no layer that could be made small"


def write_components(folder: Path, manifest: Manifest, components: Mapping[str, Component]) -> None:
    """Write the manifest with these components into a folder that holds their files."""
    bundles.write(folder, msgspec.structs.replace(manifest, components=dict(components)))
