"""Static int8 of components without a PyTorch network, by the formats' own tools on the files that there are."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from edgekit import bundle as bundles
from edgekit.errors import ExportError, QuantizationError
from edgekit.exporters.proof import parity
from edgekit.exporters.proof.places import last_line
from edgekit.exporters.sizing import fitted
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Variant
from edgekit.quantization.schemes.float_file import FloatFile, Inputs
from edgekit.quantization.schemes.scheme import ASKED, Job, Layer, Scheme
from edgekit.session import Model
from edgekit.tensors import Array, Layout, TensorSpec, axes
from edgekit.verify import compare

PROBES = 3  # real inputs that a new file is compared on
RANKED = 4  # real inputs that layers are ranked on


def _onnx(path: Path) -> FloatFile:
    from edgekit.quantization.schemes.onnx_file import OnnxFile

    return OnnxFile(path)


def _openvino(path: Path) -> FloatFile:
    from edgekit.quantization.schemes.openvino_file import OpenVinoFile

    return OpenVinoFile(path)


def _tflite(path: Path) -> FloatFile:
    from edgekit.quantization.schemes.tflite_file import TfliteFile

    return TfliteFile(path)


def _onnx_for_openvino(path: Path) -> FloatFile:
    from edgekit.quantization.schemes.onnx_file import OnnxForOpenVino

    return OnnxForOpenVino(path)


FILES: dict[str, Callable[[Path], FloatFile]] = {"onnx": _onnx, "openvino": _openvino, "tflite": _tflite}
OTHERS = {"for openvino": _onnx_for_openvino}


class ConvertedStatic(Scheme):
    """onnxruntime.quantization for ONNX, and OpenVINO reads the same graph; NNCF where there is OpenVINO IR alone;
    ai-edge-quantizer for .tflite. Layers have the names of the first of these files.
    """

    precision = "int8"
    calibrated = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if not job.calibration:
            raise QuantizationError("got no calibration inputs: static int8 needs some, 20 or more real ones")
        self._opened: dict[tuple[str, str], FloatFile] = {}
        self._made: dict[str, Path] = {}

    def layers(self) -> list[Layer]:
        return [replace(x, kept=x.kept or (ASKED if self.job.keeps(x.name) else "")) for x in self._first.layers()]

    def ranked(self) -> dict[str, float]:
        """SNR in dB of the outputs when a layer alone is int8, by layer, the one that disturbs most first."""
        variant = self._variants[0]
        names = [layer.name for layer in self._first.layers() if not layer.kept]
        given = self._inputs(variant)
        probes = _spread(given, RANKED)
        truth = self._answers(variant, self.job.files / variant.path, probes)
        noise = {}
        with tempfile.TemporaryDirectory(prefix="edgekit-rank-") as scratch:
            for name in names:
                others = [other for other in names if other != name]
                file = self._first.quantize(given, others, Path(scratch), "alone")[0]
                found = self._answers(variant, Path(scratch, file), probes)
                noise[name] = float(np.mean([compare(f, t)[1] for f, t in zip(found, truth, strict=True)]))
        return dict(sorted(noise.items(), key=lambda item: item[1]))

    def write(self, format: str, stage: Path, options: ExportOptions) -> list[Variant]:
        if format not in FILES:
            raise QuantizationError(f"no int8 {format} file is made of a converted one: expected {', '.join(FILES)}")
        self._refuse_unmatched()
        of_onnx = self._variants_of("onnx") if format == "openvino" else []
        variants = of_onnx or self._variants_of(format)
        if not variants:
            have = ", ".join(dict.fromkeys(v.format for v in self._variants))
            raise ExportError(
                f"{format}: '{self.job.name}' has no {format} file in float, and its {have} file is not converted to "
                "it: name what it was exported from (--source)"
            )
        make = self._read_by_openvino if of_onnx else self._quantized
        return [make(variant, stage, options) for variant in variants]

    def _quantized(self, variant: Variant, stage: Path, options: ExportOptions) -> Variant:
        """The int8 file of one fp32 file, compared with it."""
        file, stem = self._file(variant), self._stem(variant)
        options.progress(f"{variant.format} int8 by {file.tool}")
        names = self._by_tool(file, variant, stage)
        if variant.format == "onnx":
            self._made[stem] = stage / names[0]
        return self._compared(variant, variant.format, names, stage)

    def _read_by_openvino(self, variant: Variant, stage: Path, options: ExportOptions) -> Variant:
        """The int8 ONNX graph as OpenVINO IR, the same rounding for both; with more of it in int8 where OpenVINO has
        kernels that ONNX Runtime has not.
        """
        from edgekit.exporters.formats.openvino_ import from_onnx

        stem = self._stem(variant)
        options.progress("openvino int8, of the int8 ONNX graph")
        with tempfile.TemporaryDirectory(prefix=".openvino-", dir=stage) as scratch:
            made = self._made.get(stem)
            file = self._file(variant)
            lacking = any(x.kept and not self.job.keeps(x.name) for x in file.layers())
            if lacking or made is None or not made.is_file():
                file = self._file(variant, "for openvino") if lacking else file
                made = Path(scratch, self._by_tool(file, variant, Path(scratch))[0])
            try:
                names = from_onnx(made, stage, stem)
            except RuntimeError as error:
                raise ExportError(f"openvino: the int8 graph does not convert: {last_line(error, 300)}") from error
        return self._compared(variant, "openvino", names, stage)

    def _by_tool(self, file: FloatFile, variant: Variant, folder: Path) -> tuple[str, ...]:
        """What the tool writes of a file.

        Raises:
            ExportError: no layer is left to quantize. QuantizationError: the tool refuses.
        """
        layers, asked = file.layers(), self._asked(file)
        if all(x.kept or x.name in asked for x in layers):
            by_reason: dict[str, list[str]] = {}
            for layer in layers:
                by_reason.setdefault(layer.kept or ASKED, []).append(layer.name)
            told = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in by_reason.items())
            raise ExportError(
                f"{variant.format}: nothing of '{self.job.name}' is left to quantize: "
                f"{told or 'it has no layer with weights'}"
            )
        return file.quantize(self._inputs(variant), asked, folder, self._stem(variant))

    def _asked(self, file: FloatFile) -> list[str]:
        """The layers of a file that are to stay float: by their names, and in another file than the first those with
        the weights of such as the first has.
        """
        own = [layer.name for layer in file.layers() if self.job.keeps(layer.name)]
        if file.path == self._first.path or not self.job.keep_float:
            return own
        named = [layer.name for layer in self._first.layers() if self.job.keeps(layer.name)]
        return list(dict.fromkeys([*own, *file.same(named, self._first)]))

    def _compared(self, float_one: Variant, format: str, names: Sequence[str], stage: Path) -> Variant:
        """The variant with its parity, beside the float file in its own engine.

        Raises:
            ParityError: they have little to do with each other.
        """
        variant = msgspec.structs.replace(
            float_one,
            format=format,  # one of FILES
            precision="int8",
            files=tuple(bundles.file_entry(stage, name) for name in names),
            quality=None,
            speed=(),
        )
        probes = _spread(self._inputs(float_one), PROBES)
        inputs, outputs = self._specs(float_one)
        truth = self._answers(float_one, self.job.files / float_one.path, probes)
        described = msgspec.structs.replace(variant, inputs=inputs, outputs=outputs)
        measured, _ = parity.measure_parity(stage / variant.path, described, inputs, outputs, probes, truth)
        parity.require_some(measured, f"{variant} of component '{self.job.name}'")
        return msgspec.structs.replace(
            variant, parity=msgspec.structs.replace(measured, reference=parity.ENGINES[float_one.format])
        )

    def _answers(self, variant: Variant, path: Path, probes: Inputs) -> list[list[Array]]:
        """What a file of this variant's form answers in its engine."""
        inputs, outputs = self._specs(variant)
        return parity.run_file(Model(path, variant.format, "file", inputs, outputs), inputs, outputs, probes)

    def _specs(self, variant: Variant) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """What the files of a variant take and give."""
        component = self.job.component
        return variant.inputs or component.inputs, variant.outputs or component.outputs

    def _inputs(self, variant: Variant) -> list[tuple[Array, ...]]:
        """The calibration inputs in the layout, dtypes and sizes of a variant's file."""
        own = [spec.bound(variant.sizes) for spec in self._specs(variant)[0]]
        given = self.job.component.inputs
        return [
            tuple(_turned(array, spec.layout, wanted) for array, spec, wanted in zip(arrays, given, own, strict=True))
            for arrays in self.job.calibration
        ]

    def _stem(self, variant: Variant) -> str:
        sizes = "x".join(str(n) for n in variant.sizes.values())
        return "-".join(part for part in (self.job.name, "int8", sizes) if part)

    def _file(self, variant: Variant, use: str = "") -> FloatFile:
        """A variant's file, opened once for every use that is made of it."""
        key = (variant.path, use)
        if key not in self._opened:
            self._opened[key] = (OTHERS.get(use) or FILES[variant.format])(self.job.files / variant.path)
        return self._opened[key]

    @property
    def _first(self) -> FloatFile:
        return self._file(self._variants[0])

    @cached_property
    def _variants(self) -> list[Variant]:
        """The float files, those of the first format first, in the order of FILES.

        Raises:
            QuantizationError: there are none; what the first file is instead.
        """
        variants = [v for v in self.job.component.variants if v.format in FILES]
        found = [v for v in variants if v.precision == "fp32"] or [v for v in variants if v.precision == "fp16"]
        if not found and variants:
            self._file(variants[0])  # says what it is
        if not found:
            raise QuantizationError(f"'{self.job.name}' has no file in float: export it, or name its --source")
        return sorted(found, key=lambda v: list(FILES).index(v.format))

    def _variants_of(self, format: str) -> list[Variant]:
        return [v for v in self._variants if v.format == format]

    def _refuse_unmatched(self) -> None:
        """Refuse patterns that match no layer.

        Raises:
            QuantizationError.
        """
        names = [layer.name for variant in self._variants for layer in self._file(variant).layers()]
        for pattern in self.job.keep_float:
            if not any(fnmatchcase(name, pattern) for name in names):
                listed = ", ".join(layer.name for layer in self._first.layers()) or "none"
                raise QuantizationError(f"keep_float '{pattern}' matches no layer: the layers are {listed}")


def _spread(inputs: Inputs, count: int) -> Inputs:
    """Some inputs, evenly spread: neighbours are much alike."""
    return inputs[:: max(1, len(inputs) // count)][:count]


def _turned(array: Array, layout: Layout | None, wanted: TensorSpec) -> Array:
    """A calibration input as a file takes it."""
    if layout and wanted.layout and layout != wanted.layout:
        array = array.transpose(axes(layout, wanted.layout))
    return fitted(array.astype(wanted.dtype, copy=False), wanted.shape)
