"""Compressed: a scheme that changes the weights of fp32 files; one decision for the files of all formats."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from edgekit import bundle as bundles
from edgekit import registry
from edgekit.errors import QuantizationError
from edgekit.exporters.graphs import Graph
from edgekit.exporters.proof import parity
from edgekit.exporters.readers.file_sources import FileSource, engine_of
from edgekit.exporters.sources import Source
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Variant
from edgekit.quantization.schemes import floating, named
from edgekit.quantization.schemes.floating import File
from edgekit.quantization.schemes.named import Named
from edgekit.quantization.schemes.rounding import STORED, Form
from edgekit.quantization.schemes.scheme import ASKED, Layer, Scheme
from edgekit.quantization.schemes.weight_files import Constant, WeightFile
from edgekit.session import Model
from edgekit.tensors import Array

FILES = {  # by format; the first that there is tells what layers there are
    "onnx": "edgekit.quantization.schemes.onnx_weights:OnnxWeights",
    "openvino": "edgekit.quantization.schemes.openvino_weights:OpenVinoWeights",
    "tflite": "edgekit.quantization.schemes.tflite_weights:TfliteWeights",
}
UNUSED = "nothing but a product, an embedding or a convolution takes small weights"
PROBES = 3


@dataclass(frozen=True)
class Decided:
    """A weight and the form it gets, or why it stays float."""

    named: Named
    form: Form | None
    kept: str = ""


class Compressed(Scheme):
    """Weights are changed in the fp32 files themselves, so that a bundle without a PyTorch network serves as well."""

    calibrated = False

    @abstractmethod
    def form(self, constant: Constant, last: bool) -> Form | str:
        """What a weight becomes, or why it stays float; `last`: no product comes after it."""

    def layers(self) -> list[Layer]:
        """The weights in the order they are used; those that two layers share come under both names."""
        return [Layer(name, kept=one.kept) for one in self._decided for name in one.named.names]

    def write(self, format: str, stage: Path, options: ExportOptions) -> list[Variant]:
        """As `Scheme.write`."""
        if format not in FILES:
            raise QuantizationError(f"there is no {self.precision} for {format}: {', '.join(FILES)} have it")
        self._require_some()
        return [self._written(file, stage, options) for file in floating.files(self.job, format, options)]

    def _written(self, file: File, stage: Path, options: ExportOptions) -> Variant:
        sizes = file.variant.sizes
        stem = "-".join([self.job.name, self.precision, "x".join(map(str, sizes.values()))]).rstrip("-")
        part = "" if self.job.name == "model" else f"{self.job.name} "
        format = file.variant.format
        options.progress(f"{part}{format} {self.precision} {'×'.join(map(str, sizes.values()))}".strip())
        weights = _opened(format, file.path)
        forms = self._forms(weights.constants(), format, options)
        entries = tuple(bundles.file_entry(stage, name) for name in weights.write(forms, stage, stem))
        variant = msgspec.structs.replace(
            file.variant, precision=self.precision, files=entries, parity=None, quality=None, speed=()
        )
        return self._compared(variant, file, stage)

    def _forms(self, constants: Sequence[Constant], format: str, options: ExportOptions) -> dict[str, Form]:
        """The decision in a file's own keys.

        Raises:
            QuantizationError: a layer that was to stay float is not found in the file, or no other is.
        """
        found = named.matched(constants, [one.named for one in self._decided])
        decided = {one.named.mark: one for one in self._decided}
        lost = [one for one in self._decided if one.named not in found.values()]
        if asked := [one.named.names[0] for one in lost if one.kept == ASKED]:
            raise QuantizationError(
                f"{format}: '{asked[0]}' is to stay float, and is not found among the weights of '{self.job.name}': "
                f"its converter has changed it; leave it out of keep_float, or leave out {format}"
            )
        if changed := [one.named.names[0] for one in lost if one.form is not None]:
            options.progress(f"{format}: {', '.join(changed)} stay float: the converter has changed their weights …")
        forms = {c.key: _fitting(decided[found[c.key].mark].form, c) for c in constants if c.key in found}
        small = {key: form for key, form in forms.items() if form is not None}
        if not small:
            raise QuantizationError(f"{format}: no weight of '{self.job.name}' that can be small is found in its file")
        return small

    @cached_property
    def _decided(self) -> list[Decided]:
        """What becomes of each weight.

        Raises:
            QuantizationError: a pattern of `keep_float` that is no layer's name.
        """
        constants = self._constants()
        source = self.job.corrected or self.job.source
        known = named.of_constants(constants)
        if source is not None:
            names = named.matched(constants, named.of_module(source.module))
            known = [
                Named(names[c.key].names if c.key in names else own.names, c.mark, c.shape)
                for c, own in zip(constants, known, strict=True)
            ]
        self._require_layers([name for one in known for name in one.names])
        last = max((c for c in constants if c.kind == "linear"), key=lambda c: c.runs[-1], default=None)
        pairs = sorted(zip(known, constants, strict=True), key=lambda pair: pair[1].runs)
        unlike = {one.mark: (one, constant) for one, constant in reversed(pairs)}  # such as are all zero may be alike
        return [self._decide(one, constant, constant is last) for one, constant in reversed(unlike.values())]

    def _require_layers(self, names: Sequence[str]) -> None:
        """Refuse a pattern of `keep_float` that is no layer's name; one of small layers, float as they are, will do.

        Raises:
            QuantizationError.
        """
        source = self.job.source
        others = [] if source is None else [name for name, _ in source.module.named_modules()]
        for pattern in self.job.keep_float:
            if not any(fnmatchcase(name, pattern) for name in (*names, *others)):
                raise QuantizationError(f"keep_float '{pattern}' matches no layer: the layers are {', '.join(names)}")

    def _decide(self, one: Named, constant: Constant, last: bool) -> Decided:
        if any(self.job.keeps(name) for name in one.names):
            return Decided(one, None, ASKED)
        form = UNUSED if constant.kind == "other" else self.form(constant, last)
        return Decided(one, None, form) if isinstance(form, str) else Decided(one, form)

    def _constants(self) -> list[Constant]:
        """The weights as the first fp32 file has them: that of ONNX, which has the source's names, where there is one."""
        have = {v.format for v in self.job.component.variants if v.precision == "fp32"}
        own = [format for format in FILES if format in have] if self.job.corrected is None else []
        format = next(iter(own), "onnx")
        file = floating.files(self.job, format, ExportOptions())[0]
        return _opened(format, file.path).constants()

    def _require_some(self) -> None:
        """Refuse a component of which nothing becomes small.

        Raises:
            QuantizationError: says why, and what there is instead.
        """
        if any(one.form is not None for one in self._decided):
            return
        reasons = dict.fromkeys(one.kept for one in self._decided) or ["it has no weights of size"]
        raise QuantizationError(
            f"no layer of '{self.job.name}' can be {self.precision} ({'; '.join(reasons)}): {self.instead}"
        )

    instead = "keep it in fp32"

    def _compared(self, variant: Variant, file: File, stage: Path) -> Variant:
        """The variant with its parity to PyTorch, or to the fp32 file where there is no network.

        Raises:
            ParityError.
        """
        if self.job.source is not None:
            graph = Graph(self.job.source.module, self.job.source, self.precision, self.job.name)
            return parity.compared(variant, graph, stage, parity.INT8_FLOOR_DB)
        source = self._of_file(file)
        specs = {"inputs": variant.inputs or source.inputs, "outputs": variant.outputs or source.outputs}
        described = msgspec.structs.replace(variant, **specs)
        probes, expected = source.fitted_probes(variant.sizes), source.answers(variant.sizes)
        path = stage / variant.path
        found, _ = parity.measure_parity(path, described, source.inputs, source.outputs, probes, expected)
        parity.require_some(found, f"{variant} of component '{self.job.name}'")
        return msgspec.structs.replace(
            variant, parity=msgspec.structs.replace(found, reference=f"fp32 {file.variant.format}")
        )

    def _of_file(self, file: File) -> Source:
        """What the fp32 file answers, on inputs of the calibration or golden ones."""
        component = self.job.component
        format = "onnx" if file.path.suffix == ".onnx" else file.variant.format
        model = Model(file.path, format, "fp32", file.variant.inputs, file.variant.outputs)
        probes = tuple(tuple(p) for p in self.job.calibration[:PROBES]) or (self._golden(),)
        return FileSource(
            nn.Identity(), component.inputs, component.outputs, probes, model=model, engine=engine_of(model)
        )

    def _golden(self) -> tuple[Array, ...]:
        """The golden inputs.

        Raises:
            QuantizationError: there are none.
        """
        component = self.job.component
        files = {g.tensor: self.job.files / g.file.path for g in component.golden}
        if missing := [spec.name for spec in component.inputs if spec.name not in files]:
            raise QuantizationError(f"'{self.job.name}' has no golden {', '.join(missing)}: pass calibration inputs")
        return tuple(np.load(files[s.name], allow_pickle=False).astype(s.dtype) for s in component.inputs)


def _fitting(form: Form | None, constant: Constant) -> Form | None:
    """The form in a format that may compute a layer by another operator: only products round their inputs."""
    if constant.kind == "other":
        return None
    return STORED if form is not None and form.dynamic and constant.kind != "linear" else form


def _opened(format: str, path: Path) -> WeightFile:
    place, _, name = FILES[format].partition(":")
    weights = registry.load(place, name, f"{format} weights")(path)
    assert isinstance(weights, WeightFile)
    return weights
