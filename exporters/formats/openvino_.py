"""PyTorch → OpenVINO IR, by way of an ONNX file that is not kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import openvino
from openvino._offline_transformations import apply_moc_transformations

from edgekit.exporters import shelf
from edgekit.exporters.formats.onnx_ import OnnxExporter
from edgekit.exporters.graphs import Exporter, Graph, Refused, Written
from edgekit.exporters.proof.places import message_of, of_error
from edgekit.exporters.quiet import quiet


class OpenVinoExporter(Exporter):
    """Writes .xml and .bin in fp32, or with the int8 weights and quantization nodes of the graph."""

    format = "openvino"
    fixed = False

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        with tempfile.TemporaryDirectory(prefix=".openvino-", dir=folder) as scratch:
            made: Path | None = graph.memo.get("onnx")  # by the export of the same graph to ONNX
            if made is None or not made.is_file():
                made = Path(scratch, OnnxExporter().convert(graph, sizes, Path(scratch), "model").files[0])
            try:
                shelf.rest(graph.module)
                files = from_onnx(made, folder, stem)
            except RuntimeError as error:
                place = of_error(error, graph.module, graph.program().graph.nodes)
                raise Refused(message_of(error), place) from error
        return Written(files, graph.inputs, graph.outputs)


def from_onnx(source: Path, folder: Path, stem: str) -> tuple[str, str]:
    """Write an ONNX file's graph as .xml and .bin; their names."""
    with quiet():
        # what convert_model does, which besides reports each use to its maker over the network
        model = openvino.Core().read_model(source)
        apply_moc_transformations(model, cf=False)
        openvino.save_model(model, folder / f"{stem}.xml", compress_to_fp16=False)
    return f"{stem}.xml", f"{stem}.bin"
