"""PyTorch → ONNX through torch.export, with free dimensions named and nothing of the host left inside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch

from edgekit.exporters.formats.rewrites import rewritten
from edgekit.exporters.graphs import Exporter, Graph, Refused, Written
from edgekit.exporters.proof.places import message_of, of_error
from edgekit.exporters.quiet import quiet
from edgekit.tensors import TensorSpec

EXTERNAL_FROM = 2**29  # bytes of weights that go to a file of their own: a protobuf ends at 2 GiB, and is held twice


class OnnxExporter(Exporter):
    """Writes one .onnx file, large weights to a .onnx.data file beside it; opset as torch chooses (20 and up)."""

    format = "onnx"
    fixed = False

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        name = f"{stem}.onnx"
        with quiet():
            program = rewritten(capture(graph), "onnx")
            try:
                written = torch.onnx.export(
                    program,
                    (),
                    input_names=[s.name for s in graph.inputs],
                    output_names=[s.name for s in graph.outputs],
                    dynamo=True,
                    verbose=False,
                )
                assert written is not None
                clean(written.model, graph.inputs, graph.outputs)
                part_zero_points(written.model)
                files = save(written.model, folder, name)
            except Exception as error:  # the exporter wraps and re-raises whatever a converter threw
                raise Refused(message_of(error), of_error(error, graph.module, program.graph.nodes)) from error
        graph.memo["onnx"] = folder / name
        return Written(files, graph.inputs, graph.outputs)


def capture(graph: Graph, sizes: Mapping[str, int] | None = None) -> torch.export.ExportedProgram:
    """The graph's exported program.

    Raises:
        Refused: torch.export cannot follow the module.
    """
    try:
        return graph.program(sizes)
    except Exception as error:  # what the module raises while it is traced, too
        raise Refused(message_of(error), of_error(error, graph.module)) from error


def clean(model: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Name the free dimensions after the specs, and drop stack traces, paths of the exporting machine, and shapes
    between the border, which follow from the rest.
    """
    border = (*model.graph.inputs, *model.graph.outputs)
    for value, spec in zip(border, (*inputs, *outputs), strict=True):
        for axis, wanted in enumerate(spec.shape):
            if isinstance(wanted, str):
                value.shape[axis] = wanted
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for holder in (*graph, *graph.inputs, *graph.outputs, *graph.initializers.values()):
            holder.doc_string = None
            holder.metadata_props.clear()
        for value in (output for node in graph for output in node.outputs if output not in border):
            value.doc_string = value.shape = value.type = None
            value.metadata_props.clear()


def part_zero_points(model: Any) -> None:
    """Give every quantized weight a zero point of its own: ONNX Runtime's exact int8 on x86-64 without VNNI
    (`session.x64quantprecision`) refuses weights that share one.
    """
    weights = model.graph.initializers
    taken = {
        n.inputs[2].name for n in model.graph if n.op_type == "QuantizeLinear" and len(n.inputs) > 2 and n.inputs[2]
    }
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3 or node.inputs[0].name not in weights:
            continue
        shared = node.inputs[2]
        if shared.name in taken:
            own = onnx_ir.Value(name=f"{node.inputs[0].name}_zero_point", const_value=shared.const_value)
            own.shape, own.type = shared.shape, shared.type
            weights[own.name] = own
            node.replace_input_with(2, own)
        taken.add(node.inputs[2].name)


def save(model: Any, folder: Path, name: str) -> tuple[str, ...]:
    """Write the model, checked; the names of its files."""
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if weights < EXTERNAL_FROM:
        proto = onnx_ir.to_proto(model)
        onnx.checker.check_model(proto)
        (folder / name).write_bytes(proto.SerializeToString())
        return (name,)
    onnx_ir.save(model, folder / name, external_data=f"{name}.data")
    onnx.checker.check_model(str(folder / name))
    return name, f"{name}.data"
