"""Rewrites: each gives what the operator gives, takes it out of the graph, and keeps free dimensions and source lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.exporters.formats.flatbuffer import mended
from edgekit.exporters.formats.rewrites import REWRITES, rewritten
from edgekit.exporters.formats.tflite import TfliteExporter
from edgekit.exporters.graphs import Graph
from edgekit.exporters.sources import from_module

aten = torch.ops.aten


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def image(*shape: int) -> Tensor:
    return torch.randn(shape or (1, 3, 12, 15), generator=torch.Generator().manual_seed(0))


def transposed(rank: int, **settings: Any) -> nn.Module:
    layers = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    return layers[rank](3, 4, **settings)


def resize(size: Any = None, **settings: Any) -> nn.Module:
    return Of(lambda x: F.interpolate(x, size, **settings))


def sampled(padding: str, align: bool, mode: str = "bilinear") -> nn.Module:
    return Of(lambda x, grid: F.grid_sample(x, grid, mode, padding, align))


def folded(stride: int, padding: int, dilation: int) -> nn.Module:
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    return Of(lambda x: F.fold(F.unfold(x, 3, **settings), (12, 15), 3, **settings))


CUBE = image(1, 3, 4, 5, 6)
GRID = torch.rand(1, 5, 7, 2, generator=torch.Generator().manual_seed(1)) * 8 - 4
INDEX = torch.tensor([[0, 3, 3, 5], [1, 1, 1, 0]])
CASES: dict[str, tuple[str, nn.Module, tuple[Tensor, ...]]] = {
    "output_padding": ("tflite", transposed(2, kernel_size=3, stride=2, padding=1, output_padding=1), (image(),)),
    "output_padding of unequal sides": (
        "tflite",
        transposed(2, kernel_size=(3, 5), stride=(3, 2), padding=(0, 2), output_padding=(2, 1), bias=False),
        (image(),),
    ),
    "output_padding, groups": (
        "tflite",
        nn.ConvTranspose2d(6, 9, 3, 2, 1, 1, groups=3),
        (image(1, 6, 5, 7),),
    ),
    "output_padding, 1-D": ("tflite", transposed(1, kernel_size=5, stride=3, output_padding=2), (image(2, 3, 9),)),
    "dilation": ("tflite", transposed(2, kernel_size=3, stride=2, padding=1, dilation=2), (image(),)),
    "dilation and output_padding": (
        "tflite",
        transposed(2, kernel_size=2, stride=2, padding=1, dilation=3, output_padding=2),
        (image(),),
    ),
    "3-D": ("tflite", transposed(3, kernel_size=3, stride=2, padding=1, output_padding=1), (CUBE,)),
    "3-D, unequal": ("tflite", transposed(3, kernel_size=(1, 2, 3), stride=(1, 2, 3)), (CUBE,)),
    "max_pool ceil": ("tflite", nn.MaxPool2d(3, 2, ceil_mode=True), (image(1, 3, 12, 16),)),
    "max_pool ceil, no window in the padding": ("tflite", nn.MaxPool2d(2, 3, 1, ceil_mode=True), (image(1, 3, 9, 11),)),
    "max_pool ceil, dilated": ("tflite", nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True), (image(),)),
    "adaptive_max_pool": ("tflite", nn.AdaptiveMaxPool2d((3, 5)), (image(),)),
    "max_pool with indices": ("tflite", nn.MaxPool2d(2, return_indices=True), (image(2, 3, 12, 16),)),
    "max_pool with indices, all settings": ("tflite", nn.MaxPool2d((3, 2), (2, 3), 1, 2, True), (image(),)),
    "median": ("onnx", Of(lambda x: x.median(1)), (image(),)),
    "median of an even number": ("tflite", Of(lambda x: x.median(2, keepdim=True)), (image(),)),
    "kthvalue": ("tflite", Of(lambda x: x.kthvalue(4)), (image(),)),
    "cumprod": ("onnx", Of(lambda x: x.cumprod(2)), (image(),)),
    "bucketize": ("tflite", Of(lambda x: torch.bucketize(x, torch.linspace(-2, 2, 9))), (image(),)),
    "bucketize, right": (
        "tflite",
        Of(lambda x: torch.bucketize(x.round(), torch.linspace(-2, 2, 5), right=True)),
        (image(),),
    ),
    "nearest to a size": ("tflite", resize((17, 23), mode="nearest"), (image(),)),
    "nearest by a factor": ("tflite", resize(scale_factor=1.7, mode="nearest"), (image(),)),
    "bicubic by a whole number": ("tflite", resize(scale_factor=3, mode="bicubic"), (image(),)),
    "bicubic to a multiple": ("tflite", resize((24, 60), mode="bicubic"), (image(),)),
    "bilinear antialias": ("tflite", resize((5, 7), mode="bilinear", antialias=True), (image(),)),
    "bilinear antialias, larger": ("onnx", resize((30, 17), mode="bilinear", antialias=True), (image(),)),
    "bicubic antialias": ("onnx", resize((4, 6), mode="bicubic", antialias=True), (image(),)),
    "bicubic antialias, corners": (
        "tflite",
        resize((5, 7), mode="bicubic", antialias=True, align_corners=True),
        (image(),),
    ),
    "bicubic antialias by a factor": ("tflite", resize(scale_factor=0.4, mode="bicubic", antialias=True), (image(),)),
    "reflection": ("tflite", sampled("reflection", False), (image(), GRID)),
    "reflection, corners": ("tflite", sampled("reflection", True), (image(), GRID)),
    "reflection, nearest": ("tflite", sampled("reflection", False, "nearest"), (image(), GRID)),
    "fold": ("tflite", folded(1, 1, 1), (image(),)),
    "fold with strides": ("tflite", folded(2, 0, 1), (image(),)),
    "fold dilated": ("tflite", folded(3, 2, 2), (image(),)),
    "Bilinear": ("tflite", nn.Bilinear(5, 6, 4), (image(2, 5), image(2, 6))),
    "topk": ("tflite", Of(lambda x: x.topk(4, 2)), (image(),)),
    "topk, smallest": ("tflite", Of(lambda x: x.topk(4, 2, largest=False)), (image(),)),
    "sort": ("tflite", Of(lambda x: torch.sort(x, 2)), (image(),)),
    "sort descending": ("tflite", Of(lambda x: torch.sort(x, 1, descending=True)), (image(),)),
    "scatter_add": ("tflite", Of(lambda x, i, s: x.scatter_add(1, i, s)), (image(2, 6), INDEX, image(2, 4))),
    "scatter_add, first axis": (
        "tflite",
        Of(lambda x, i, s: x.scatter_add(0, i, s)),
        (image(6, 2), INDEX.mT.contiguous(), image(4, 2)),
    ),
    "one_hot": ("tflite", Of(lambda i: F.one_hot(i, 7)), (INDEX,)),
    "circular": ("onnx", nn.CircularPad2d((1, 2, 0, 3)), (image(),)),
    "circular, 1-D": ("openvino", nn.CircularPad1d(2), (image(1, 3, 9),)),
    "cdist": ("onnx", Of(torch.cdist), (image(2, 5, 4), image(2, 7, 4))),
    "squeeze": ("onnx", Of(lambda x: x.squeeze(1)), (image(),)),
}


def flat(results: Any) -> list[Tensor]:
    return list(results) if isinstance(results, (tuple, list)) else [results]


@pytest.mark.parametrize("name", CASES)
def test_gives_what_the_operator_gives(name: str) -> None:
    format, net, inputs = CASES[name]
    torch.manual_seed(0)
    program = torch.export.export(net.eval(), inputs)
    asked = {node.target for node in program.graph.nodes} & set(REWRITES[format])
    changed = rewritten(program, format)
    results, truths = (flat(p.module()(*(t.clone() for t in inputs))) for p in (changed, program))
    for result, truth in zip(results, truths, strict=True):
        torch.testing.assert_close(result, truth, atol=2e-5, rtol=1e-5)
    assert asked and changed is not program
    kept = {node.target: node for node in changed.graph.nodes if node.target in asked}
    for target, node in kept.items():  # the same operator, in words that the converter knows
        first = next(n for n in program.graph.nodes if n.target is target)
        assert node.args != first.args


def test_leaves_alone_what_converts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 3, 4, 2, 1))
    program = torch.export.export(net.eval(), (image(),))
    assert rewritten(program, "onnx") is program
    before = [n.target for n in program.graph.nodes if n.op == "call_function"]
    assert [n.target for n in rewritten(program, "tflite").graph.nodes if n.op == "call_function"] == before


def test_keeps_free_dimensions_and_source_lines() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()).eval()
    sides = {2: torch.export.Dim("height", min=8, max=64), 3: torch.export.Dim("width", min=8, max=64)}
    changed = rewritten(torch.export.export(net, (image(),), dynamic_shapes=(sides,)), "onnx")
    larger = image(1, 3, 31, 9)
    torch.testing.assert_close(changed.module()(larger), net(larger))
    (joined, *_) = (n for n in changed.graph.nodes if n.target is aten.cat.default)
    assert "0" in dict(joined.meta["nn_module_stack"].values()) and "conv.py" in joined.meta["stack_trace"]


def test_quantized_graphs_are_rewritten_too() -> None:
    from edgekit.quantization.pt2e import quantize_source

    net = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), resize((17, 23), mode="nearest")).eval()
    source = from_module(net, [torch.rand(1, 3, 12, 16)])
    graph = quantize_source(source, [(np.random.rand(1, 3, 12, 16).astype(np.float32),)], ()).graph("tflite")
    program = graph.program()
    changed = rewritten(program, "tflite")
    assert not any(n.target is aten.upsample_nearest2d.vec for n in changed.graph.nodes)
    given = torch.rand(1, 3, 12, 16)
    torch.testing.assert_close(changed.module()(given), program.module()(given))


@pytest.mark.slow
def test_biases_of_transposed_convolutions_are_mended(tmp_path: Path) -> None:
    """With a batch norm behind it: 1 × 1 × 1 × channels, which LiteRT's fast kernels do not take."""
    from ai_edge_litert.interpreter import Interpreter

    torch.manual_seed(0)
    net = nn.Sequential(nn.ConvTranspose2d(3, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
    for _ in range(3):
        net.train()(torch.randn(2, 3, 12, 16) + 1)
    source = from_module(net.eval(), [image(1, 3, 12, 16)])
    TfliteExporter().convert(Graph(net, source), {}, tmp_path, "net")
    mended(tmp_path / "net.tflite")  # as often as one likes
    interpreter = Interpreter(str(tmp_path / "net.tflite"))
    interpreter.allocate_tensors()
    tensors = {d["index"]: d for d in interpreter.get_tensor_details()}
    (operator,) = [o for o in interpreter._get_ops_details() if o["op_name"] == "TRANSPOSE_CONV"]
    assert tensors[operator["inputs"][3]]["shape"].tolist() == [6]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image(1, 3, 12, 16).permute(0, 2, 3, 1).numpy())
    interpreter.invoke()
    result = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    (truth,) = source.run([image(1, 3, 12, 16).numpy()])
    np.testing.assert_allclose(result.reshape(-1), truth.reshape(-1), atol=1e-5)
