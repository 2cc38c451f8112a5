"""Static int8 in PyTorch, once for all engines: the PT2E flow with our own choice of what becomes int8.

Weights are int8 per output channel and symmetric, activations int8 per tensor and affine, as TFLite's
quantization specification and ONNX's QDQ form have them (Jacob et al. 2018). Only layers with weights, each
with a ReLU that follows, are quantized; what lies between them stays float, which keeps image residuals exact.
"""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import fx, nn

from edgekit.errors import QuantizationError
from edgekit.exporters.graphs import Graph
from edgekit.exporters.quiet import quiet
from edgekit.exporters.sources import Source
from edgekit.quantization.ranges import (
    ACTIVATION,
    HIGHEST,
    LOWEST,
    Calibration,
    Range,
    joined,
    observed,
    pixels,
)
from edgekit.quantization.schemes import operators
from edgekit.quantization.schemes.operators import Found
from edgekit.quantization.schemes.subpixel import rewrite

with quiet():  # torchao names every optional library that it does not find
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import (
        FixedQParamsQuantizationSpec,
        QuantizationAnnotation,
        QuantizationSpec,
        Quantizer,
    )

SMALLEST_WEIGHT = 2**-20  # step: of weights that are next to nothing
LARGEST_BIAS = 2**30  # steps that an engine's sums have room for
QUANTIZED = ("quantized", "quantized_decomposed", "torchao", "pt2e_quant")  # namespaces of operators
REMEMBERED = 4  # networks whose calibration is kept for a next attempt


def weight_spec(axis: int) -> QuantizationSpec:
    """int8 weights, symmetric for each index of an axis: the largest absolute value is 127 steps."""
    return QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=PerChannelMinMaxObserver.with_args(eps=SMALLEST_WEIGHT),
        quant_min=-HIGHEST,
        quant_max=HIGHEST,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
    )


@dataclass(frozen=True)
class Cost:
    """What a layer takes: multiplications for one input, and weights."""

    products: int
    weights: int


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
    """Annotates the layers that `takes` says; where `range_of` tells ranges, nothing is observed."""

    def __init__(self, takes: Callable[[Found], bool], range_of: Callable[[fx.Node], Range] | None = None) -> None:
        super().__init__()
        self.takes, self.range_of = takes, range_of
        self.layers: list[Found] = []

    def annotate(self, model: fx.GraphModule) -> fx.GraphModule:
        for layer in operators.found(model.graph):
            if not layer.why and self.takes(layer):
                self.layers.append(layer)
                self._annotate(layer)
        return model

    def validate(self, model: fx.GraphModule) -> None:
        """Nothing to check: what was annotated is plain."""

    def _annotate(self, layer: Found) -> None:
        node, end = layer.node, layer.end
        entering, weight = layer.entering, layer.weight
        node.meta["quantization_annotation"] = QuantizationAnnotation(
            input_qspec_map={
                entering: self._of(entering),
                weight: weight_spec(operators.CHANNELS[node.target]),
            },
            output_qspec=self._of(end) if end is node else None,
            _annotated=True,
        )
        if end is not node:
            end.meta["quantization_annotation"] = QuantizationAnnotation(output_qspec=self._of(end), _annotated=True)

    def _of(self, node: fx.Node) -> QuantizationSpec | FixedQParamsQuantizationSpec:
        if self.range_of is None:
            return ACTIVATION
        found = self.range_of(node)
        return FixedQParamsQuantizationSpec(
            torch.int8, found.scale, found.zero_point, LOWEST, HIGHEST, torch.per_tensor_affine
        )


class Calibrated:
    """A network whose activations were seen once: any of its layers become int8 without looking again."""

    def __init__(self, source: Source, calibration: Calibration) -> None:
        """Run the network over the calibration inputs.

        Raises:
            QuantizationError: there are none, or a layer gave NaN or infinity.
        """
        if not calibration:
            raise QuantizationError("got no calibration inputs: static int8 needs some, 20 or more real ones")
        self.source = source
        self._program = Graph(source.module, source).program()
        _refuse_quantized(source, self._program.graph)
        self._first = [torch.from_numpy(a.copy()) for a in calibration[0]]
        with quiet(), torch.no_grad():
            prepared = prepare_pt2e(self.float_graph(), Int8Quantizer(lambda layer: True))
            for arrays in calibration:
                prepared(*(torch.from_numpy(a.copy()) for a in arrays))
        self.ranges = {**observed(prepared), **pixels(prepared, calibration)}
        graph = self.float_graph()
        self.ranges |= joined(graph, self.ranges)
        self.layers = operators.found(graph.graph)
        self.costs = {layer.name: self._cost(layer, graph) for layer in self.layers if not layer.why}
        self.noise: dict[str, float] = {}  # as `ranking` found it

    def int8(self, takes: Callable[[Found], bool]) -> QuantizedSource:
        """The network with these layers in int8.

        Raises:
            QuantizationError: none is left.
        """
        quantizer = Int8Quantizer(takes, self.range_of)
        with quiet(), torch.no_grad():
            prepared = prepare_pt2e(self.float_graph(), quantizer)
            if not quantizer.layers:
                raise QuantizationError(self._nothing_left())
            prepared(*self._first)  # weights are observed as they pass
            for layer in quantizer.layers:
                _round_tensors(prepared, layer.node.name)
            folded = convert_pt2e(copy.deepcopy(prepared), fold_quantize=True)
            unfolded = convert_pt2e(prepared, fold_quantize=False)
        return QuantizedSource(folded, unfolded, self.source, tuple(layer.name for layer in quantizer.layers))

    def _cost(self, layer: Found, graph: fx.GraphModule) -> Cost:
        weight = _tensor(graph, layer.weight)
        each = weight.numel() // weight.shape[operators.CHANNELS[layer.node.target]]
        return Cost(self.ranges[layer.end.name].count * each, weight.numel())

    def float_graph(self) -> fx.GraphModule:
        """The network in float, as `ranges` names its nodes: norms folded and transposed convolutions in sub-pixel form,
        where that is exact.
        """
        with quiet():
            return rewrite(prepare_pt2e(self._program.module(check_guards=False), Int8Quantizer(lambda layer: False)))

    def range_of(self, node: fx.Node) -> Range:
        """The steps that stand for what a node gives: those of the node that computed it, where it arranges values."""
        return self.ranges.get(operators.root(node).name) or self.ranges[node.name]

    def _nothing_left(self) -> str:
        have = [layer.name for layer in self.layers if not layer.why]
        kind = type(self.source.module).__name__
        if have:
            return f"no layer is left to quantize: {kind} has none but {have}"
        there = "; ".join(dict.fromkeys(f"{layer.name}: {layer.why}" for layer in self.layers))
        return f"{kind} has nothing that int8 makes faster: {there or 'no convolution and no linear layer'}"


def calibrated(source: Source, calibration: Calibration) -> Calibrated:
    """The network's `Calibrated`; the last few are remembered, for a search comes again with the same inputs."""
    for known, inputs, made in _RECENT:
        if known is source and inputs is calibration:
            return made
    made = Calibrated(source, calibration)
    _RECENT.append((source, calibration, made))
    return made


_RECENT: deque[tuple[Source, Calibration, Calibrated]] = deque(maxlen=REMEMBERED)


def quantize_source(source: Source, calibration: Calibration, keep_float: Sequence[str]) -> QuantizedSource:
    """Calibrate a float source and return it in int8.

    Args:
        calibration: real inputs, in the order of the source's.
        keep_float: shell patterns of module names that stay float ("tail", "body.*").

    Raises:
        QuantizationError: no calibration data, a pattern that matches nothing, or nothing left to quantize.
    """
    made = calibrated(source, calibration)
    refuse_unmatched(keep_float, [layer.name for layer in made.layers if not layer.why])
    return made.int8(lambda layer: not any(fnmatchcase(layer.name, pattern) for pattern in keep_float))


def refuse_unmatched(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Refuse patterns that match no layer.

    Raises:
        QuantizationError.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise QuantizationError(f"keep_float '{pattern}' matches no layer: the layers are {', '.join(names)}")


def layer_names(source: Source) -> list[str]:
    """The module names of the layers that can be quantized, in the order they run."""
    graph = Graph(source.module, source).program().module(check_guards=False).graph
    return [layer.name for layer in operators.found(graph) if not layer.why]


def _refuse_quantized(source: Source, graph: fx.Graph) -> None:
    """Refuse a network that holds int8 or other low-bit operators already.

    Raises:
        QuantizationError.
    """
    there = [str(n.target) for n in graph.nodes if getattr(n.target, "namespace", "") in QUANTIZED]
    if there:
        raise QuantizationError(
            f"{type(source.module).__name__} is quantized already ('{there[0]}'): expected the float network"
        )


def weight_scales(weight: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """The int8 step of each output channel, which lie along `axis`; symmetric, −127…127."""
    others = [n for n in range(weight.ndim) if n != axis]
    return (weight.detach().abs().amax(others) / HIGHEST).clamp_min(SMALLEST_WEIGHT)


def _round_tensors(prepared: fx.GraphModule, name: str) -> None:
    """Put a layer's weight onto its int8 steps, and its bias onto the steps of its sums, input scale × weight scale.

    Converters round what lies between two steps each in their own way, and OpenVINO adds a bias as it is where ONNX
    Runtime and LiteRT add whole steps: rounded beforehand, all of them compute the same.
    """
    node = next(node for node in prepared.graph.nodes if node.name == name)
    watching: list[Any] = [prepared.get_submodule(str(node.args[place].target)) for place in (0, 1)]
    entering, observer = watching
    weight = _tensor(prepared, node.args[1].args[0])
    step = entering.calculate_qparams()[0]
    bias = node.args[2] if len(node.args) > 2 and isinstance(node.args[2], fx.Node) else None
    constant = _tensor(prepared, bias) if bias is not None and bias.op == "get_attr" else None
    if constant is not None:  # a channel of tiny weights, and a bias beyond what sums of their steps hold
        observer.max_val.copy_(observer.max_val.maximum(constant.abs() * HIGHEST / (step * LARGEST_BIAS)))
    scales = observer.calculate_qparams()[0]
    shape = [-1 if axis == observer.ch_axis else 1 for axis in range(weight.ndim)]
    _put(prepared, node.args[1], 0, _on_steps(weight, scales.view(shape)))
    if constant is not None:
        _put(prepared, node, 2, _on_steps(constant, step * scales))
    prepared.recompile()


def _on_steps(values: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return torch.round(values / steps) * steps


def _tensor(prepared: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    found: torch.Tensor = operator.attrgetter(str(node.target))(prepared)
    return found


def _put(prepared: fx.GraphModule, node: fx.Node, place: int, value: torch.Tensor) -> None:
    """Give a node another constant, which other nodes that use the one before do not see."""
    name = f"_{node.name}_{place}"
    prepared.register_buffer(name, value)
    with prepared.graph.inserting_before(node):
        node.update_arg(place, prepared.graph.get_attr(name))
