"""PyTorch → ONNX through torch.export, with free dimensions named and nothing of the host left inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch

from edgekit.errors import ExportError
from edgekit.exporters.graphs import Exporter, Graph, Written
from edgekit.tensors import TensorSpec


class OnnxExporter(Exporter):
    """Writes one .onnx file with its weights inside; opset as torch's exporter chooses (20 and up)."""

    format = "onnx"
    fixed = False

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        name = f"{stem}.onnx"
        with quiet():
            try:
                program = capture(graph)
                torch.onnx.export(
                    program,
                    (),
                    str(folder / name),
                    input_names=[s.name for s in graph.inputs],
                    output_names=[s.name for s in graph.outputs],
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
                clean(folder / name, graph.inputs, graph.outputs)
            except Exception as error:  # the exporter wraps and re-raises whatever a converter threw
                raise ExportError(
                    f"onnx: {type(graph.module).__name__} does not convert: {first_line(error)}"
                ) from error
        return Written((name,), graph.inputs, graph.outputs)


def capture(graph: Graph, sizes: Mapping[str, int] | None = None) -> torch.export.ExportedProgram:
    """torch.export of the graph's module, its named dimensions free unless `sizes` fixes them.

    The bounds are for the tracing alone: sides of pictures begin at 8, so that a network may halve them
    three times without a size of 1 in between, which torch.export takes for a special case.
    """
    sizes = sizes or {}
    names = {d for s in graph.inputs for d in s.shape if isinstance(d, str) and d not in sizes}
    sides = {d for s in graph.inputs if s.layout for d in s.shape}
    dims = {name: torch.export.Dim(name, min=8 if name in sides else 2, max=2**15) for name in names}
    shapes = tuple(
        {axis: dims[d] for axis, d in enumerate(spec.shape) if isinstance(d, str) and d in dims}
        for spec in graph.inputs
    )
    example = tuple(torch.from_numpy(a.copy()) for a in graph.example(sizes))
    return torch.export.export(graph.module, example, dynamic_shapes=shapes if names else None)


def clean(path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    """Name the free dimensions after the specs, and drop stack traces and paths of the exporting machine."""
    model = onnx.load(path)
    for value, spec in zip((*model.graph.input, *model.graph.output), (*inputs, *outputs), strict=True):
        for dimension, wanted in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(wanted, str):
                dimension.dim_param = wanted
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for holder in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        holder.doc_string = ""
        del holder.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def first_line(error: BaseException) -> str:
    """The line of an exporter's message that names the cause."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:400]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep converters' progress lines and warnings off the terminal; their errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
