"""PyTorch → TFLite through litert-torch in a child process: channels last, every size fixed, one file for each."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec
import torch

from edgekit.errors import ExportError, NotInstalled
from edgekit.exporters.formats.flatbuffer import mended
from edgekit.exporters.formats.onnx_ import capture
from edgekit.exporters.formats.worker import Worker
from edgekit.exporters.graphs import Exporter, Graph, Refused, Written
from edgekit.exporters.proof.places import Place
from edgekit.exporters.quiet import quiet
from edgekit.tensors import TensorSpec

WORKER = Worker("edgekit.exporters.formats.lowering:to_tflite", "the TFLite converter")
LARGE = 2**28  # bytes of a program that is converted sparingly, and after which the child's memory is given back
NARROWED = {"int64": "int32", "float64": "float32"}  # what litert-torch makes of them


class TfliteExporter(Exporter):
    """Writes one .tflite file for the given sizes; image tensors become NHWC at the border, int64 becomes int32."""

    format = "tflite"
    fixed = True

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        inputs, given = (tuple(s.bound(sizes) for s in specs) for specs in (graph.inputs, graph.outputs))
        free = sorted({str(d) for s in inputs for d in s.shape if isinstance(d, str)})
        if free:
            raise ExportError(f"tflite: the dimensions {', '.join(free)} are free: name their sizes (--bucket)")
        if any(isinstance(d, str) for s in given for d in s.shape):  # such as a count that follows two sides
            shapes = [answer.shape for answer in graph.source.answers(sizes)[0]]
            given = tuple(msgspec.structs.replace(s, shape=n) for s, n in zip(given, shapes, strict=True))
        if find_spec("litert_torch") is None:
            raise NotInstalled.named("tflite export", "litert-torch", "export")
        name = f"{stem}.tflite"
        with tempfile.TemporaryDirectory(prefix=".program-", dir=folder) as scratch:
            program = Path(scratch, "program.pt2")
            with quiet():
                torch.export.save(capture(graph, sizes), program)
            self._lower(graph, program, folder / name)
        mended(folder / name)
        return Written((name,), tuple(map(_at_border, inputs)), tuple(map(_at_border, given)))

    def _lower(self, graph: Graph, program: Path, target: Path) -> None:
        """Have the child convert the file.

        Raises:
            Refused: the converter refused. ExportError: it crashed or took too long.
        """
        large = program.stat().st_size > LARGE
        try:
            found = WORKER.call(
                {
                    "program": str(program),
                    "target": str(target),
                    "precision": graph.precision,
                    "large": large,
                    "inputs": msgspec.to_builtins(graph.inputs),
                    "outputs": msgspec.to_builtins(graph.outputs),
                },
                graph.timeout_s,
                graph.progress,
            )
        finally:
            if large:
                WORKER.stop()
        if found:
            raise Refused(found["message"], msgspec.convert(found["place"], Place))


def _at_border(spec: TensorSpec) -> TensorSpec:
    """A tensor as the file takes or gives it."""
    return msgspec.structs.replace(spec.in_layout("NHWC"), dtype=NARROWED.get(spec.dtype, spec.dtype))
