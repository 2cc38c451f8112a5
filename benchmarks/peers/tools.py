"""Tools: what makes int8 of a component, each as its own documentation has it, and as edgekit asks it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit import bundle as bundles
from edgekit.errors import ExportError
from edgekit.exporters.formats.flatbuffer import mended
from edgekit.exporters.quiet import quiet
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Variant
from edgekit.quantization.schemes.converted import ConvertedStatic
from edgekit.quantization.schemes.scheme import Job
from edgekit.quantization.schemes.static import Static
from edgekit.tensors import Array, axes

Inputs = list[tuple[Array, ...]]
Tool = Callable[[Job, Path], list[Variant]]


def main_road(job: Job, stage: Path) -> list[Variant]:
    """edgekit's own: quantized once in PyTorch, written to every format."""
    scheme = Static(job)
    options = ExportOptions(buckets=[v.sizes for v in job.component.variants if v.sizes][:1])
    return [v for format in ("onnx", "openvino", "tflite") for v in scheme.write(format, stage, options)]


def converted(job: Job, stage: Path) -> list[Variant]:
    """The formats' tools as edgekit asks them, on the fp32 files: layers only, ranges of all that was seen."""
    scheme = ConvertedStatic(without_network(job))
    made: list[Variant] = []
    errors: list[ExportError] = []
    for format in ("onnx", "openvino", "tflite"):
        try:
            made += scheme.write(format, stage, ExportOptions())
        except ExportError as error:
            errors.append(error)
    if not made:
        raise errors[0]
    return made


def without_network(job: Job) -> Job:
    """The same job without its network."""
    return Job(job.name, job.component, job.files, None, None, job.calibration, job.keep_float)


def onnxruntime_(job: Job, stage: Path) -> list[Variant]:
    """quantize_static after quant_pre_process, QDQ, S8S8, per channel; else its defaults."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    variant, path = _float(job, "onnx")
    with quiet():
        prepared = stage / "prepared.onnx"
        quant_pre_process(str(path), str(prepared))
        names = [i.name for i in onnx.load(prepared).graph.input]
        target = stage / f"{job.name}-int8.onnx"
        quantize_static(
            str(prepared),
            str(target),
            _Reader([dict(zip(names, arrays, strict=True)) for arrays in job.calibration]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        prepared.unlink()
    return [_int8(variant, stage, target.name)]


def nncf_(job: Job, stage: Path) -> list[Variant]:
    """nncf.quantize with its defaults; of transformers (no convolution), with model_type=TRANSFORMER as it advises."""
    import openvino

    from edgekit.quantization.schemes.openvino_file import CONVOLUTIONS, imported

    nncf = imported()
    variant, path = _float(job, "openvino")
    with quiet():
        model = openvino.Core().read_model(path)
        convolves = any(node.get_type_name() in CONVOLUTIONS for node in model.get_ops())
        made = nncf.quantize(
            model,
            nncf.Dataset([list(arrays) for arrays in job.calibration]),
            model_type=None if convolves else nncf.ModelType.TRANSFORMER,
        )
        openvino.save_model(made, stage / f"{job.name}-int8.xml", compress_to_fp16=False)
    return [_int8(variant, stage, f"{job.name}-int8.xml", f"{job.name}-int8.bin")]


def ai_edge_quantizer(job: Job, stage: Path) -> list[Variant]:
    """The recipe static_wi8_ai8, for every operator that it knows."""
    from ai_edge_quantizer import quantizer, recipe

    from edgekit.quantization.schemes.tflite_file import TfliteFile

    variant, path = _float(job, "tflite")
    target = stage / f"{job.name}-int8.tflite"
    with quiet():
        mended(path)
        key, names = TfliteFile(path)._signature
        tool = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        seen = tool.calibrate(
            {key: [dict(zip(names, arrays, strict=True)) for arrays in _as_file(job, variant)]}, num_threads=2
        )
        tool.quantize(seen, enable_progress_report=False).export_model(target, overwrite=True)
    return [_int8(variant, stage, target.name)]


TOOLS: dict[str, Tool] = {
    "edgekit": main_road,
    "edgekit, converted files": converted,
    "onnxruntime.quantization": onnxruntime_,
    "NNCF": nncf_,
    "ai-edge-quantizer": ai_edge_quantizer,
}


def _float(job: Job, format: str) -> tuple[Variant, Path]:
    variant = next(v for v in job.component.variants if (v.format, v.precision) == (format, "fp32"))
    return variant, job.files / variant.path


def _int8(variant: Variant, stage: Path, *names: str) -> Variant:
    files = tuple(bundles.file_entry(stage, name) for name in names)
    return msgspec.structs.replace(variant, precision="int8", files=files, parity=None)


def _as_file(job: Job, variant: Variant) -> Inputs:
    """Inputs in the layout of the .tflite file."""
    given, own = job.component.inputs, variant.inputs or job.component.inputs
    return [
        tuple(
            (a.transpose(axes(s.layout, o.layout)) if s.layout and o.layout and s.layout != o.layout else a).astype(
                o.dtype
            )
            for a, s, o in zip(arrays, given, own, strict=True)
        )
        for arrays in job.calibration
    ]


class _Reader:
    def __init__(self, inputs: list[dict[str, Array]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._inputs, None)
