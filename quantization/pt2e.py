"""Static int8 in PyTorch, once for all engines: the PT2E flow with our own choice of what becomes int8.

Weights are int8 per output channel and symmetric, activations int8 per tensor and affine, as TFLite's
quantization specification and ONNX's QDQ form have them (Jacob et al. 2018). Only convolutions and
linear layers, each with a ReLU that follows, are quantized; what lies between them stays float, which
keeps image residuals exact.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from edgekit.errors import QuantizationError
from edgekit.exporters.graphs import Graph
from edgekit.exporters.quiet import quiet
from edgekit.exporters.sources import Source
from edgekit.tensors import Array

with quiet():  # torchao names every optional library that it does not find
    from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

aten = torch.ops.aten
LAYERS = (aten.conv2d.default, aten.conv1d.default, aten.linear.default)
ACTIVATIONS = (aten.relu.default, aten.relu_.default)
EPSILON = 2**-12

ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    observer_or_fake_quant_ctr=HistogramObserver.with_args(eps=EPSILON),
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
)
WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=EPSILON),
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
)


@dataclass(frozen=True)
class QuantizedSource:
    """The same network twice: `folded` holds int8 weights (ONNX, OpenVINO), `unfolded` float ones (TFLite)."""

    folded: nn.Module
    unfolded: nn.Module
    source: Source
    layers: tuple[str, ...]

    def graph(self, format: str, component: str = "model") -> Graph:
        """What the exporter of a format converts."""
        return Graph(self.unfolded if format == "tflite" else self.folded, self.source, "int8", component)


class Int8Quantizer(Quantizer):  # type: ignore[misc]  # torchao has no type hints
    """Annotates layers whose module name no pattern of `keep_float` matches; `layers` lists them."""

    def __init__(self, keep_float: Sequence[str] = ()) -> None:
        super().__init__()
        self.keep_float = tuple(keep_float)
        self.layers: list[str] = []

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        for node in model.graph.nodes:
            if node.target in LAYERS:
                name = layer_name(node)
                if not any(fnmatchcase(name, pattern) for pattern in self.keep_float):
                    self.layers.append(name)
                    _annotate(node)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: what was annotated is plain."""


def quantize_source(
    source: Source, calibration: Sequence[tuple[Array, ...]], keep_float: Sequence[str]
) -> QuantizedSource:
    """Calibrate a float source and return it in int8.

    Args:
        calibration: real inputs, in the order of the source's.
        keep_float: shell patterns of module names that stay float ("tail", "body.*").

    Raises:
        QuantizationError: no calibration data, a pattern that matches nothing, or nothing left to quantize.
    """
    if not calibration:
        raise QuantizationError("got no calibration inputs: static int8 needs some, 20 or more real ones")
    quantizer = Int8Quantizer(keep_float)
    with quiet(), torch.no_grad():
        graph_module = Graph(source.module, source).program().module()
        _refuse_unmatched(graph_module, keep_float)
        prepared = prepare_pt2e(graph_module, quantizer)
        if not quantizer.layers:
            raise QuantizationError(
                f"no layer is left to quantize: {type(source.module).__name__} has none but {keep_float}"
            )
        for arrays in calibration:
            prepared(*(torch.from_numpy(a.copy()) for a in arrays))
        folded = convert_pt2e(copy.deepcopy(prepared), fold_quantize=True)
        unfolded = convert_pt2e(prepared, fold_quantize=False)
    return QuantizedSource(folded, unfolded, source, tuple(quantizer.layers))


def layer_names(source: Source) -> list[str]:
    """The module names of the layers that can be quantized, in the order they run."""
    module = Graph(source.module, source).program().module()
    return [layer_name(node) for node in module.graph.nodes if node.target in LAYERS]


def layer_name(node: fx.Node) -> str:
    """The name, in the source module, of the layer that a node computes."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [str(name) for name, _ in stack.values()]
    return names[-1] if names else str(node.name)


def _annotate(node: fx.Node) -> None:
    users = list(node.users)
    activation = users[0] if len(users) == 1 and users[0].target in ACTIVATIONS else None
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map={node.args[0]: ACTIVATION, node.args[1]: WEIGHT},
        output_qspec=None if activation else ACTIVATION,
        _annotated=True,
    )
    if activation is not None:
        activation.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=ACTIVATION, _annotated=True)


def _refuse_unmatched(module: Any, patterns: Sequence[str]) -> None:
    names = [layer_name(n) for n in module.graph.nodes if n.target in LAYERS]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise QuantizationError(f"keep_float '{pattern}' matches no layer: the layers are {', '.join(names)}")
