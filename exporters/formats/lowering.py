"""Lowering: an exported program in a file → a .tflite file, by litert-torch; runs in a worker's child process."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
from torch import Tensor, fx, nn

from edgekit.errors import NotInstalled
from edgekit.exporters.formats.rewrites import rewritten
from edgekit.exporters.formats.shuffles import in_four_axes
from edgekit.exporters.proof.places import Marks, Place, message_of
from edgekit.tensors import TensorSpec, axes


def to_tflite(
    program: str, target: str, precision: str, large: bool, inputs: list[Any], outputs: list[Any]
) -> dict[str, Any]:
    """Convert the program in a .pt2 file of ours to a .tflite file.

    Args:
        program, target: paths.
        precision: "fp32", or that of the quantization nodes in the graph.
        large: constants stay where PyTorch has them, which takes 1× instead of 3× the weights in memory, and are
            folded by the runtime.
        inputs, outputs: the graph's TensorSpecs; NCHW ones are turned to NHWC at the border.

    Returns:
        {} where all went well; else the converter's "message" and, where it is found, the "place" it refers to.

    Raises:
        NotInstalled: litert-torch is missing.
    """
    convert, settings = _converter(precision)
    if large and precision == "fp32":
        settings = {**settings, "lightweight_conversion": True}
    loaded = rewritten(torch.export.load(program), "tflite int8" if precision == "int8" else "tflite")
    Path(program).unlink()
    graph, (example, _) = in_four_axes(loaded.module()), loaded.example_inputs
    del loaded
    taken, given = (tuple(msgspec.convert(specs, list[TensorSpec])) for specs in (inputs, outputs))
    turned = tuple(to_last(tensor, spec) for tensor, spec in zip(example, taken, strict=True))
    bordered = ChannelsLast(graph, taken, given)
    try:
        convert(bordered, turned, **settings).export(target)
        return {}
    except Exception as error:  # converters of three projects, each with its own errors
        message = message_of(error)
    finally:
        gc.collect()
    bordered.traced = True  # done again with marks on the nodes, which would end up in the file
    marks = Marks(graph)
    try:
        convert(bordered, turned, **settings)
        place = Place()
    except Exception as error:
        place = marks.of_error(error)
    return {"message": message, "place": msgspec.to_builtins(place)}


class ChannelsLast(nn.Module):
    """The same module with NHWC image tensors at its border."""

    def __init__(self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        super().__init__()
        self.module = module
        self.input_specs, self.output_specs = inputs, outputs
        self.training = False  # an exported graph inside refuses eval(), and needs none
        self.traced = False

    def forward(self, *tensors: Tensor) -> Any:
        turned = [
            t.permute(axes("NHWC", "NCHW")) if s.layout == "NCHW" else t
            for t, s in zip(tensors, self.input_specs, strict=True)
        ]
        results = self._traced(turned) if self.traced else self.module(*turned)
        several = isinstance(results, (tuple, list))
        last = [to_last(r, s) for r, s in zip(results if several else (results,), self.output_specs, strict=True)]
        return tuple(last) if several else last[0]

    def _traced(self, tensors: list[Tensor]) -> Any:
        """The graph node by node, each with its source line and module."""
        with fx.traceback.preserve_node_meta():
            return fx.Interpreter(self.module).run(*tensors)


def to_last(tensor: Tensor, spec: TensorSpec) -> Tensor:
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
    import torchao.quantization.pt2e  # noqa: F401  # defines the quantization nodes that the file holds

    quantizer = SimpleNamespace(global_config=SimpleNamespace(is_dynamic=False))  # all that convert reads of it
    return litert_torch.convert, {"quant_config": QuantConfig(pt2e_quantizer=quantizer)}
