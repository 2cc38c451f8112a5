"""PyTorch → OpenVINO IR, by way of an ONNX file that is not kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import openvino
from openvino._offline_transformations import apply_moc_transformations

from edgekit.errors import ExportError
from edgekit.exporters.graphs import Exporter, Graph, Written
from edgekit.exporters.onnx_ import OnnxExporter, first_line, quiet


class OpenVinoExporter(Exporter):
    """Writes .xml and .bin in fp32, or with the int8 weights and quantization nodes of the graph."""

    format = "openvino"
    fixed = False

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        with tempfile.TemporaryDirectory() as scratch:
            OnnxExporter().convert(graph, sizes, Path(scratch), "model")
            try:
                files = from_onnx(Path(scratch, "model.onnx"), folder, stem)
            except RuntimeError as error:
                raise ExportError(
                    f"openvino: {type(graph.module).__name__} does not convert: {first_line(error)}"
                ) from error
        return Written(files, graph.inputs, graph.outputs)


def from_onnx(source: Path, folder: Path, stem: str) -> tuple[str, str]:
    """Write an ONNX file's graph as .xml and .bin; their names."""
    with quiet():
        # what convert_model does, which besides reports each use to its maker over the network
        model = openvino.Core().read_model(source)
        apply_moc_transformations(model, cf=False)
        openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)
    return f"{stem}.xml", f"{stem}.bin"
