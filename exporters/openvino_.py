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
                with quiet():
                    # what convert_model does, which besides reports each use to its maker over the network
                    model = openvino.Core().read_model(Path(scratch, "model.onnx"))
                    apply_moc_transformations(model, cf=False)
                    openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)
            except RuntimeError as error:
                raise ExportError(
                    f"openvino: {type(graph.module).__name__} does not convert: {first_line(error)}"
                ) from error
        return Written((f"{stem}.xml", f"{stem}.bin"), graph.inputs, graph.outputs)
