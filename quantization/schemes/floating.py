"""Floating: the fp32 files that a scheme makes small; those of the bundle, else exported for it, once for all attempts."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from torch import nn

from edgekit.errors import QuantizationError
from edgekit.exporters.graphs import Graph
from edgekit.exporters.writing import ExportOptions, convert
from edgekit.manifest import Variant
from edgekit.quantization.schemes.scheme import Job

FIXED = ("tflite",)  # formats of fixed sizes
TOLERANCE = 1e-2  # of files that are made small next, and compared again
_EXPORTS: weakref.WeakKeyDictionary[nn.Module, Exports] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class File:
    """An fp32 file, and the variant that it is."""

    path: Path
    variant: Variant


class Exports:
    """The fp32 files of a network, in a folder that is gone with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-fp32-", ignore_cleanup_errors=True)
        self._made: dict[str, list[Variant]] = {}

    def files(self, graph: Graph, format: str, options: ExportOptions) -> list[File]:
        """Those of a format, exported where they are not there yet."""
        place = Path(self._folder.name)
        key = f"{format} {options.buckets}" if format in FIXED else format
        if key not in self._made:
            tolerance = TOLERANCE if options.tolerance is None else options.tolerance
            self._made[key] = convert(graph, format, place, replace(options, tolerance=tolerance))
        return [File(place / variant.path, variant) for variant in self._made[key]]


def files(job: Job, format: str, options: ExportOptions) -> list[File]:
    """The fp32 files of a format, one for each size where sizes are fixed; OpenVINO reads those of ONNX too.

    Raises:
        QuantizationError: there are none, and no network to export. ExportError.
    """
    if job.corrected is None and (own := _own(job, format, options)):
        return own
    if format == "openvino":
        readable = files(job, "onnx", options)
        return [File(f.path, msgspec.structs.replace(f.variant, format="openvino")) for f in readable]
    source = job.corrected or job.source
    if source is None:
        job.fp32(format)  # says what is missing
        raise QuantizationError(f"'{job.name}' has no fp32 {format} file of the sizes {list(options.buckets)}")
    graph = Graph(source.module, source, component=job.name, progress=options.progress, timeout_s=options.timeout_s)
    if source.module not in _EXPORTS:
        _EXPORTS[source.module] = Exports()
    return _EXPORTS[source.module].files(graph, format, options)


def _own(job: Job, format: str, options: ExportOptions) -> list[File]:
    """The component's own files; those of the sizes asked for, where there are any."""
    own = [v for v in job.component.variants if (v.format, v.precision) == (format, "fp32")]
    asked = [dict(sizes) for sizes in options.buckets]
    if asked and any(v.sizes for v in own):
        own = [v for v in own if any(v.sizes.items() <= sizes.items() for sizes in asked)]
    return [File(job.files / variant.path, variant) for variant in own]
