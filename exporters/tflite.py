"""PyTorch → TFLite through litert-torch: channels last, every size fixed, one file for each."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgekit.errors import ExportError, NotInstalled
from edgekit.exporters.graphs import Exporter, Graph, Written
from edgekit.exporters.onnx_ import capture, first_line, quiet
from edgekit.tensors import TensorSpec, axes


class TfliteExporter(Exporter):
    """Writes one .tflite file for the given sizes; image tensors become NHWC at the border."""

    format = "tflite"
    fixed = True

    def convert(self, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
        inputs = tuple(s.bound(sizes).in_layout("NHWC") for s in graph.inputs)
        outputs = tuple(s.bound(sizes).in_layout("NHWC") for s in graph.outputs)
        free = sorted({str(d) for s in inputs for d in s.shape if isinstance(d, str)})
        if free:
            raise ExportError(f"tflite: the dimensions {', '.join(free)} are free: name their sizes (--bucket)")
        name = f"{stem}.tflite"
        with quiet(), _silent_descriptors():
            convert, settings = _converter(graph.precision)
            try:
                module = ChannelsLast(
                    shuffle_channels_last(capture(graph, sizes).module()), graph.inputs, graph.outputs
                )
                example = tuple(
                    _to_last(torch.from_numpy(a.copy()), s)
                    for a, s in zip(graph.example(sizes), graph.inputs, strict=True)
                )
                convert(module, example, **settings).export(str(folder / name))
            except Exception as error:  # converters of three projects, each with its own errors
                raise ExportError(
                    f"tflite: {type(graph.module).__name__} does not convert: {first_line(error)}"
                ) from error
        return Written((name,), inputs, outputs)


class ChannelsLast(nn.Module):
    """The same module with NHWC image tensors at its border."""

    def __init__(self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__()
        self.module = module
        self.input_specs, self.output_specs = inputs, outputs
        self.training = False  # an exported graph inside refuses eval(), and needs none

    def forward(self, *tensors: Tensor) -> Any:
        turned = [
            t.permute(axes("NHWC", "NCHW")) if s.layout == "NCHW" else t
            for t, s in zip(tensors, self.input_specs, strict=True)
        ]
        results = self.module(*turned)
        several = isinstance(results, (tuple, list))
        last = [_to_last(r, s) for r, s in zip(results if several else (results,), self.output_specs, strict=True)]
        return tuple(last) if several else last[0]


def shuffle_channels_last(module: Any) -> Any:
    """Rewrite pixel_shuffle as one transposition of channels-last data.

    litert-torch lowers it to three transpositions around channels-first shapes otherwise, which took a
    quarter of the time of a ×2 network on two threads.
    """
    assert isinstance(module, fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.pixel_shuffle.default:
            node.target = _pixel_shuffle
    module.recompile()
    return module


def _pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    last = x.permute(0, 2, 3, 1)
    batch, height, width, channels = last.shape
    blocks = last.reshape(batch, height, width, channels // factor**2, factor, factor)
    shuffled = blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, height * factor, width * factor, -1)
    return shuffled.permute(0, 3, 1, 2)


def _to_last(tensor: Tensor, spec: TensorSpec) -> Tensor:
    return tensor.permute(axes("NCHW", "NHWC")).contiguous() if spec.layout == "NCHW" else tensor


def _converter(precision: str) -> tuple[Any, dict[str, Any]]:
    """litert-torch's convert, and the settings that tell it of quantization nodes in the graph."""
    try:
        import litert_torch
        from litert_torch.quantize.quant_config import QuantConfig
    except ImportError as error:
        raise NotInstalled.named("tflite export", "litert-torch", "export") from error
    if precision == "fp32":
        return litert_torch.convert, {}
    quantizer = SimpleNamespace(global_config=SimpleNamespace(is_dynamic=False))  # all that convert reads of it
    return litert_torch.convert, {"quant_config": QuantConfig(pt2e_quantizer=quantizer)}


@contextlib.contextmanager
def _silent_descriptors() -> Iterator[None]:
    """Send what C++ writes to stdout and stderr nowhere; Python's own streams stay as they are."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)
