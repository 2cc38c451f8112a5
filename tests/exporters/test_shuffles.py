"""Pixel shuffles of TFLite files: in four axes, computing what PyTorch computes, with nothing done to channels at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit import open_session
from edgekit.exporters.formats.shuffles import SHUFFLE, in_four_axes, order
from edgekit.exporters.formats.tflite import TfliteExporter
from edgekit.exporters.graphs import Graph
from edgekit.exporters.sources import from_module
from edgekit.zoo.super_resolution import SuperResolution

aten = torch.ops.aten
IMAGE = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))


class Shuffled(nn.Module):
    """A network around a pixel shuffle; `kind` says what stands before it."""

    def __init__(self, kind: str, factor: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.factor = kind, factor
        padding = "same" if kind == "padding by name" else 1
        self.tail = nn.Conv2d(3, 4 * factor**2, 3, padding=padding, bias=kind != "without a bias")
        self.biased = nn.Linear(5, 4 * factor**2)
        self.steps = nn.Parameter(torch.randn(5))
        self.grouped = nn.Conv2d(12, 4 * factor**2, 1, groups=4)

    def forward(self, image: Tensor) -> Any:
        x = self.tail(image)
        if self.kind == "activations":
            x = F.leaky_relu(torch.clamp(x, -0.5, 0.5), 0.1)
        elif self.kind == "a sum":
            x = torch.add(x * 0.5, F.relu(self.tail(image * 0.5)), alpha=0.3) - 0.1
        elif self.kind == "single channels":
            x = x + torch.cat([image[:, i % 3 : i % 3 + 1] for i in range(x.shape[1])], 1)
        elif self.kind == "a bias that is computed":
            x = F.conv2d(image, self.tail.weight, self.biased(self.steps), padding=1)
        elif self.kind == "a sum with itself":
            x = x + x
        elif self.kind == "the input":
            x = torch.cat([image] * (x.shape[1] // 3 + 1), 1)[:, : x.shape[1]]
        elif self.kind == "groups":
            x = self.grouped(torch.cat([image] * 4, 1))
        elif self.kind == "a factor for each channel":
            x = x * torch.arange(x.shape[1]).view(1, -1, 1, 1)
        shuffled = F.pixel_shuffle(x, self.factor)
        return (shuffled, x) if self.kind == "two users" else shuffled


FREE = ("a convolution", "without a bias", "padding by name", "activations", "a sum", "single channels")
MOVED = (
    "a bias that is computed",
    "a sum with itself",
    "the input",
    "groups",
    "a factor for each channel",
    "two users",
)


def nodes(module: torch.fx.GraphModule, target: Any) -> list[Any]:
    return [node for node in module.graph.nodes if node.target == target]


def written_out(net: nn.Module, image: Tensor = IMAGE) -> tuple[torch.fx.GraphModule, Any, Any]:
    """The module, what it gives, and what it gave before."""
    program = torch.export.export(net.eval(), (image,))
    module = in_four_axes(program.module())
    return module, module(image), program.module()(image)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("kind", FREE + MOVED)
def test_gives_the_same_in_four_axes(kind: str, factor: int) -> None:
    module, found, truth = written_out(Shuffled(kind, factor))
    torch.testing.assert_close(found, truth, atol=0, rtol=0)
    assert not nodes(module, SHUFFLE)
    assert all(node.meta["val"].ndim <= 4 for node in module.graph.nodes if node.op == "call_function")
    turns = [list(node.args[1]) for node in nodes(module, aten.permute.default)]
    assert turns.count([0, 2, 1, 3]) == 1  # the pixels
    assert turns.count([0, 1, 3, 2]) == (kind in MOVED)  # the channels, where no weights could be put in their order


def test_of_the_order_of_channels() -> None:
    channels = torch.arange(12.0).view(1, 12, 1, 1)
    pixels = F.pixel_shuffle(channels, 2)  # 1 × 3 × 2 × 2
    assert order(12, 2).tolist() == pixels.permute(0, 2, 3, 1).flatten().int().tolist()


def test_weights_that_others_use_too_stay_as_they_are() -> None:
    class Thrice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tail = nn.Conv2d(3, 16, 3, padding=1)

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            shuffled = (F.pixel_shuffle(self.tail(image * f), f) for f in (2, 4))
            return *shuffled, self.tail(image.flip(2))

    _, found, truth = written_out(Thrice())
    torch.testing.assert_close(found, truth, atol=0, rtol=0)


def test_a_super_resolution_network_moves_nothing() -> None:
    module, found, truth = written_out(SuperResolution(4, channels=8, blocks=1))
    torch.testing.assert_close(found, truth, atol=0, rtol=0)
    assert [list(n.args[1]) for n in nodes(module, aten.permute.default)] == [[0, 2, 3, 1], [0, 2, 1, 3], [0, 3, 1, 2]]


def test_shuffles_of_other_axes_are_the_converters() -> None:
    module, found, truth = written_out(nn.PixelShuffle(2), torch.rand(1, 2, 12, 3, 4))
    torch.testing.assert_close(found, truth)
    assert nodes(module, SHUFFLE)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_files_have_no_tensor_of_more_axes(precision: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from edgekit.quantization.pt2e import quantize_source

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 12, 3, padding=1),
        nn.PixelShuffle(2),
    ).eval()  # fmt: skip
    image = torch.rand(1, 3, 12, 16)
    source = from_module(net, [image])
    quantized = quantize_source(source, [(image.numpy(),)], ()).graph("tflite")
    graph = quantized if precision == "int8" else Graph(net, source)
    (name,) = TfliteExporter().convert(graph, {}, tmp_path, "net").files
    interpreter = Interpreter(str(tmp_path / name))
    interpreter.allocate_tensors()
    assert max(len(detail["shape"]) for detail in interpreter.get_tensor_details()) == 4
    with open_session(tmp_path / name, "litert", floats=True) as session:
        (found,) = session.run({session.inputs[0].name: image.permute(0, 2, 3, 1).numpy()}).values()
    truth = graph.module(image) if precision == "int8" else net(image)
    np.testing.assert_allclose(
        found.transpose(0, 3, 1, 2), truth.detach().numpy(), atol=1e-5 if precision == "fp32" else 0.02
    )
