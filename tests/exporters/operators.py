"""The operators that people's networks are made of, as small modules, with what each format cannot do of them.

`python tests/exporters/operators.py` writes the table to docs/operators.md. tests/exporters/test_operators.py
converts and runs every row: what is said to work has to, and what is said to fail has to fail for that reason,
so that the table changes with the converters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "operators.md"
FORMATS = ("onnx", "openvino", "tflite")
ENGINES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "tflite": "TFLite (LiteRT)"}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fails:
    """A format that does not do it: a part of the error's text, why, and what to use instead."""

    says: str
    why: str
    instead: str


@dataclass(frozen=True, eq=False)
class Operator:
    """A module and its inputs: shapes of N(0, 1) numbers, or whole numbers below `below` where that is stated.

    `uniform` draws from 0.1…0.9 instead; `tolerance` is the largest absolute error from PyTorch; `alone` is true
    of what no other operator may share a graph with, as its shapes or branches hang on values.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: Sequence[Shape] = ((1, 3, 12, 16),)
    below: Mapping[int, int] = field(default_factory=dict)
    uniform: bool = False
    tolerance: float = 2e-5
    alone: bool = False
    fails: Mapping[str, Fails] = field(default_factory=dict)

    def inputs(self) -> tuple[Tensor, ...]:
        """Its inputs, the same at every call."""
        random = torch.Generator().manual_seed(0)
        arrays = []
        for index, shape in enumerate(self.shapes):
            if index in self.below:
                arrays.append(torch.randint(0, self.below[index], shape, generator=random))
            elif self.uniform:
                arrays.append(torch.rand(shape, generator=random) * 0.8 + 0.1)
            else:
                arrays.append(torch.randn(shape, generator=random))
        return tuple(arrays)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


class First(nn.Module):
    """A recurrent or attention layer without its state or weights."""

    def __init__(self, layer: nn.Module, same: bool = False, **settings: Any) -> None:
        super().__init__()
        self.layer, self.same, self.settings = layer, same, settings

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = (self.layer(x, x, x, **self.settings) if self.same else self.layer(x))[0]
        return result


class Cond(nn.Module):
    """torch.cond on the values of its input."""

    def forward(self, x: Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda t: t + 1.0, lambda t: t * 2.0, (x,))


def of(function: Callable[..., Any]) -> Callable[[], nn.Module]:
    """Builds a module of a function."""
    return lambda: Of(function)


def warmed(norm: Callable[[], nn.Module], *shape: int) -> Callable[[], nn.Module]:
    """A norm that has seen data, so that its statistics are not those of an identity."""

    def build() -> nn.Module:
        layer = norm()
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        layer.train()(torch.randn(shape) * 2 + 1)
        return layer

    return build


def fold(x: Tensor) -> Tensor:
    return F.fold(F.unfold(x, 3, padding=1), (12, 16), 3, padding=1)


def warp(x: Tensor, mode: str = "bilinear", padding: str = "zeros", align: bool = False) -> Tensor:
    grid = torch.stack(torch.meshgrid(torch.linspace(-1.1, 0.9, 9), torch.linspace(-0.8, 1.2, 7), indexing="xy"), -1)
    return F.grid_sample(x, grid[None], mode, padding, align_corners=align)


def turned(theta: Tensor, x: Tensor) -> Tensor:
    grid = F.affine_grid(theta, [1, 3, 12, 16], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def heads(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, **settings)


def rotary(x: Tensor) -> Tensor:
    angles = torch.outer(torch.arange(10.0), 1.0 / 100.0 ** (torch.arange(4.0) / 4))
    cos, sin = torch.cat([angles, angles], 1).cos(), torch.cat([angles, angles], 1).sin()
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def causal() -> nn.Module:
    return nn.Sequential(nn.ConstantPad1d((8, 0), 0.0), nn.Conv1d(8, 6, 3, dilation=4))


CLASSES = (1, 8)
SERIES = (1, 8, 20)
TOKENS = (1, 10, 16)
HEADS = (1, 4, 10, 8)
VOLUME = (1, 2, 6, 8, 10)

VALUES = Fails(
    "data-dependent",
    "torch.export follows one path through the code, and cannot ask for values.",
    "Compute both and pick with torch.where, or decide outside of the graph.",
)
BRANCH = Fails(
    "Lowering not found: cond",
    "litert-torch has no branches.",
    "Compute both and pick with torch.where, or export each branch as a component and decide outside of the graph.",
)
COUNTED = Fails(
    "boolean indices must be concrete",
    "The size of the result hangs on values, and sizes in TFLite are fixed.",
    "Keep the shape: multiply by the mask, or use torch.where, or topk with a fixed number.",
)
EMBEDDINGS = "nn.Embedding and a mean or sum over its rows, which is the same for bags of one length."
BAG = Fails(
    "unconverted_ops_report", "OpenVINO does not read the loop that the ONNX exporter writes for it.", EMBEDDINGS
)
BAG_TFLITE = Fails("_embedding_bag", "litert-torch does not know it.", EMBEDDINGS)
PRODUCT = (
    "A product with the matrix of cosines and sines (nn.Linear with fixed weights), or transform outside of the graph."
)
FOURIER_1D = Fails("1 × 11 × 20 × 1", "OpenVINO reads ONNX's DFT along another axis.", PRODUCT)
FOURIER_2D = Fails("departs", "OpenVINO reads ONNX's DFT along another axis.", PRODUCT)
FOURIER_TFLITE = Fails("IsPowerOfTwo", "LiteRT transforms lengths that are powers of two.", PRODUCT)
COMPLEX = Fails("complex64", "litert-torch knows no complex numbers.", PRODUCT)
MATRICES = "Invert in NumPy outside of the graph, or write out the formula for 2×2 and 3×3 matrices."
INVERSE = Fails("linalg_inv", "ONNX has no matrix inverse.", MATRICES)
INVERSE_TFLITE = Fails("Number of input tokens", "litert-torch stumbles over the check of the result.", MATRICES)

TABLE: dict[str, tuple[Operator, ...]] = {
    "Convolutions": (
        Operator("Conv1d", lambda: nn.Conv1d(8, 6, 3, padding=1), (SERIES,)),
        Operator("Conv1d, dilated, causal", causal, (SERIES,)),
        Operator("Conv2d", lambda: nn.Conv2d(3, 8, 3, padding=1)),
        Operator("Conv2d, stride 2, even kernel", lambda: nn.Conv2d(3, 8, 4, 2, padding=1)),
        Operator("Conv2d, dilation 2", lambda: nn.Conv2d(3, 8, 3, padding=2, dilation=2)),
        Operator("Conv2d, groups", lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3), ((1, 6, 12, 16),)),
        Operator("Conv2d, depthwise", lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), ((1, 6, 12, 16),)),
        Operator("Conv2d, padding='same', 1×7", lambda: nn.Conv2d(3, 4, (1, 7), padding="same")),
        Operator("Conv2d, weights from an input", of(F.conv2d), ((1, 3, 12, 16), (4, 3, 3, 3))),
        Operator("Conv3d", lambda: nn.Conv3d(2, 3, 3, padding=1), (VOLUME,)),
        Operator("ConvTranspose1d", lambda: nn.ConvTranspose1d(8, 6, 4, 2, 1), (SERIES,)),
        Operator("ConvTranspose2d", lambda: nn.ConvTranspose2d(3, 6, 4, 2, 1)),
        Operator("ConvTranspose2d, stride 1", lambda: nn.ConvTranspose2d(3, 6, 4, 1, 0)),
        Operator(
            "ConvTranspose2d, output_padding",
            lambda: nn.ConvTranspose2d(3, 6, 3, 2, 1, output_padding=1),
        ),
        Operator("ConvTranspose2d, kernel 9, stride 3", lambda: nn.ConvTranspose2d(3, 1, 9, 3, 4, output_padding=2)),
        Operator("ConvTranspose2d, groups", lambda: nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=3), ((1, 6, 12, 16),)),
        Operator("ConvTranspose2d, depthwise", lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4), ((1, 4, 12, 16),)),
        Operator("ConvTranspose2d, dilation 2", lambda: nn.ConvTranspose2d(3, 6, 3, 2, 2, dilation=2)),
        Operator(
            "ConvTranspose2d, BatchNorm2d, ReLU",
            lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        ),
        Operator("ConvTranspose3d", lambda: nn.ConvTranspose3d(2, 3, 4, 2, 1), (VOLUME,)),
        Operator("Linear", lambda: nn.Linear(16, 6), (TOKENS,)),
        Operator("Bilinear", lambda: nn.Bilinear(8, 8, 4), (CLASSES, CLASSES)),
    ),
    "Norms": (
        Operator("BatchNorm1d", warmed(lambda: nn.BatchNorm1d(8), 4, 8, 20), (SERIES,)),
        Operator("BatchNorm2d", warmed(lambda: nn.BatchNorm2d(3), 4, 3, 12, 16)),
        Operator("GroupNorm", warmed(lambda: nn.GroupNorm(3, 6), 1, 6, 12, 16), ((1, 6, 12, 16),)),
        Operator("LayerNorm", warmed(lambda: nn.LayerNorm(16), *TOKENS), (TOKENS,)),
        Operator("LayerNorm over channels, height, width", lambda: nn.LayerNorm([3, 12, 16])),
        Operator("InstanceNorm1d", lambda: nn.InstanceNorm1d(8), (SERIES,)),
        Operator("InstanceNorm2d", lambda: nn.InstanceNorm2d(3)),
        Operator("InstanceNorm2d, affine", warmed(lambda: nn.InstanceNorm2d(3, affine=True), 1, 3, 12, 16)),
        Operator(
            "InstanceNorm2d, running statistics",
            warmed(lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), 2, 3, 12, 16),
        ),
        Operator(
            "adaptive InstanceNorm (StyleGAN)",
            of(lambda x, s: F.instance_norm(x) * (1 + s[:, :3, None, None]) + s[:, 3:, None, None]),
            ((1, 3, 12, 16), (1, 6)),
        ),
        Operator("RMSNorm", lambda: nn.RMSNorm(16), (TOKENS,)),
        Operator("LocalResponseNorm", lambda: nn.LocalResponseNorm(3), ((1, 6, 12, 16),)),
        Operator("weight_norm", lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        Operator("spectral_norm", lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
        Operator("F.normalize", of(lambda x: F.normalize(x, dim=1))),
    ),
    "Activations": (
        Operator("ReLU, ReLU6", lambda: nn.Sequential(nn.ReLU6(), nn.ReLU())),
        Operator("LeakyReLU", lambda: nn.LeakyReLU(0.2)),
        Operator("PReLU, one slope", lambda: nn.PReLU()),
        Operator("PReLU, a slope a channel", lambda: nn.PReLU(3)),
        Operator("ELU", lambda: nn.ELU(0.7)),
        Operator("SELU, CELU", lambda: nn.Sequential(nn.SELU(), nn.CELU(0.8))),
        Operator("GELU", lambda: nn.GELU()),
        Operator("GELU, tanh", lambda: nn.GELU("tanh")),
        Operator("SiLU", lambda: nn.SiLU()),
        Operator("Mish", lambda: nn.Mish()),
        Operator("Hardswish", lambda: nn.Hardswish()),
        Operator("Hardsigmoid", lambda: nn.Hardsigmoid()),
        Operator("Hardtanh, Hardshrink", lambda: nn.Sequential(nn.Hardtanh(), nn.Hardshrink(0.2))),
        Operator("Softplus", lambda: nn.Softplus(2.0)),
        Operator("Softsign, Tanhshrink", lambda: nn.Sequential(nn.Softsign(), nn.Tanhshrink())),
        Operator("Tanh", lambda: nn.Tanh()),
        Operator("Sigmoid, LogSigmoid", lambda: nn.Sequential(nn.Sigmoid(), nn.LogSigmoid())),
        Operator("GLU", lambda: nn.GLU(1), ((1, 6, 12, 16),)),
        Operator("Softmax over channels", lambda: nn.Softmax(1)),
        Operator("LogSoftmax", lambda: nn.LogSoftmax(-1), (CLASSES,)),
        Operator(
            "exp, log, sqrt, rsqrt, pow", of(lambda x: x.exp().log() + x.sqrt() * x.rsqrt() + x**1.5), uniform=True
        ),
        Operator("sin, cos, atan2, erf", of(lambda x: torch.sin(x) + torch.atan2(x, x.cos()) + torch.erf(x))),
        Operator(
            "abs, sign, floor, round, remainder", of(lambda x: x.abs() + x.sign() + x.floor() + x.round() + x % 2.0)
        ),
        Operator("lerp, addcmul, nan_to_num", of(lambda x: torch.addcmul(x.lerp(x * 2, 0.3), x, x).nan_to_num())),
        Operator("integers: //, %, comparisons", of(lambda i: (i // 3) * (i % 4) + (i > 5).int()), ((2, 10),), {0: 20}),
        Operator("clamp, maximum, minimum", of(lambda x: torch.maximum(x.clamp(-0.5, 0.5), x * 0.1).clamp(max=0.4))),
    ),
    "Attention": (
        Operator("scaled_dot_product_attention", of(heads), (HEADS, HEADS, HEADS)),
        Operator(
            "scaled_dot_product_attention, causal", of(lambda q, k, v: heads(q, k, v, is_causal=True)), (HEADS,) * 3
        ),
        Operator(
            "scaled_dot_product_attention, float mask",
            of(lambda q, k, v, m: heads(q, k, v, attn_mask=m)),
            (HEADS, HEADS, HEADS, (1, 1, 10, 10)),
        ),
        Operator(
            "scaled_dot_product_attention, Boolean mask",
            of(lambda q, k, v, m: heads(q, k, v, attn_mask=m > -0.5)),
            (HEADS, HEADS, HEADS, (1, 1, 10, 10)),
        ),
        Operator(
            "scaled_dot_product_attention, grouped queries",
            of(lambda q, k, v: heads(q, k, v, enable_gqa=True)),
            (HEADS, (1, 2, 10, 8), (1, 2, 10, 8)),
        ),
        Operator("MultiheadAttention", lambda: First(nn.MultiheadAttention(16, 4, batch_first=True), True), (TOKENS,)),
        Operator(
            "MultiheadAttention, causal mask",
            lambda: First(
                nn.MultiheadAttention(16, 4, batch_first=True),
                True,
                attn_mask=nn.Transformer.generate_square_subsequent_mask(10),
                need_weights=False,
            ),
            (TOKENS,),
        ),
        Operator(
            "TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(16, 4, 32, 0.0, batch_first=True), (TOKENS,)
        ),
        Operator(
            "TransformerDecoderLayer",
            lambda: nn.TransformerDecoderLayer(16, 4, 32, 0.0, batch_first=True),
            (TOKENS, TOKENS),
        ),
        Operator("rotary positions", of(rotary), (HEADS,)),
        Operator("matmul, bmm", of(lambda a, b: torch.bmm(a, b) @ a.mT), ((2, 5, 6), (2, 6, 6))),
        Operator("einsum", of(lambda a, b: torch.einsum("bchw,bkhw->bck", a, b)), ((1, 6, 5, 7), (1, 2, 5, 7))),
    ),
    "Resizing": (
        Operator("nearest ×2", lambda: nn.Upsample(scale_factor=2)),
        Operator("nearest, to a size", lambda: nn.Upsample((17, 23))),
        Operator("nearest-exact, to a size", lambda: nn.Upsample((17, 23), mode="nearest-exact")),
        Operator("bilinear ×2", lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
        Operator(
            "bilinear ×2, align_corners", lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        ),
        Operator("bilinear, to a smaller size", lambda: nn.Upsample((7, 9), mode="bilinear")),
        Operator("bilinear ×1.5", of(lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"))),
        Operator("bilinear, antialias", of(lambda x: F.interpolate(x, (5, 7), mode="bilinear", antialias=True))),
        Operator("bicubic ×2", lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
        Operator("bicubic ×3, align_corners", lambda: nn.Upsample(scale_factor=3, mode="bicubic", align_corners=True)),
        Operator("bicubic, to a smaller size", lambda: nn.Upsample((7, 9), mode="bicubic")),
        Operator("bicubic ×2.5", of(lambda x: F.interpolate(x, scale_factor=2.5, mode="bicubic"))),
        Operator("bicubic, antialias", of(lambda x: F.interpolate(x, (5, 7), mode="bicubic", antialias=True))),
        Operator("area", of(lambda x: F.interpolate(x, (5, 7), mode="area"))),
        Operator("linear, 1-D", lambda: nn.Upsample(33, mode="linear"), (SERIES,)),
        Operator("trilinear", lambda: nn.Upsample(scale_factor=2, mode="trilinear"), (VOLUME,)),
        Operator("pixel_shuffle", lambda: nn.PixelShuffle(2), ((1, 12, 6, 8),)),
        Operator("pixel_unshuffle", lambda: nn.PixelUnshuffle(2)),
        Operator("channel_shuffle", lambda: nn.ChannelShuffle(3), ((1, 6, 12, 16),)),
        Operator("grid_sample", of(warp)),
        Operator("grid_sample, border, align_corners", of(lambda x: warp(x, "bilinear", "border", True))),
        Operator("grid_sample, reflection", of(lambda x: warp(x, "bilinear", "reflection"))),
        Operator("grid_sample, nearest", of(lambda x: warp(x, "nearest"))),
        Operator("grid_sample, bicubic", of(lambda x: warp(x, "bicubic"))),
        Operator("affine_grid and grid_sample", of(turned), ((1, 2, 3), (1, 3, 12, 16))),
    ),
    "Padding": (
        Operator("zeros, constant", lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.ConstantPad2d(1, 0.5))),
        Operator("reflect", lambda: nn.ReflectionPad2d(3)),
        Operator("reflect, 1-D", lambda: nn.ReflectionPad1d(2), (SERIES,)),
        Operator("replicate", lambda: nn.ReplicationPad2d((1, 2, 0, 3))),
        Operator("circular", lambda: nn.CircularPad2d(2)),
        Operator("negative (cropping)", of(lambda x: F.pad(x, (-1, -2, -3, 1)))),
        Operator("Conv2d, padding_mode='reflect'", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        Operator("Conv2d, padding_mode='circular'", lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
    ),
    "Pooling": (
        Operator("MaxPool2d", lambda: nn.MaxPool2d(2)),
        Operator("MaxPool2d, kernel 3, stride 2, padding 1", lambda: nn.MaxPool2d(3, 2, 1)),
        Operator("MaxPool2d, ceil_mode", lambda: nn.MaxPool2d(3, 2, ceil_mode=True), ((1, 3, 12, 15),)),
        Operator("MaxPool2d with indices", lambda: nn.MaxPool2d(2, return_indices=True)),
        Operator("AvgPool1d", lambda: nn.AvgPool1d(2), (SERIES,)),
        Operator("AvgPool2d", lambda: nn.AvgPool2d(2)),
        Operator("AvgPool2d, padding counted", lambda: nn.AvgPool2d(3, 2, 1)),
        Operator("AvgPool2d, padding not counted", lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        Operator("AvgPool2d, ceil_mode", lambda: nn.AvgPool2d(3, 2, ceil_mode=True), ((1, 3, 12, 16),)),
        Operator("AdaptiveAvgPool2d to 1", lambda: nn.AdaptiveAvgPool2d(1)),
        Operator("AdaptiveAvgPool2d to 5×7", lambda: nn.AdaptiveAvgPool2d((5, 7))),
        Operator("AdaptiveMaxPool2d", lambda: nn.AdaptiveMaxPool2d((3, 4))),
        Operator("LPPool2d", lambda: nn.LPPool2d(2, 2), uniform=True),
        Operator("unfold", of(lambda x: F.unfold(x, 3, padding=1))),
        Operator("unfold, fold", of(fold)),
    ),
    "Recurrent": (
        Operator("LSTM", lambda: First(nn.LSTM(16, 12, batch_first=True)), (TOKENS,)),
        Operator(
            "LSTM, two layers, both directions",
            lambda: First(nn.LSTM(16, 6, 2, batch_first=True, bidirectional=True)),
            (TOKENS,),
        ),
        Operator("GRU", lambda: First(nn.GRU(16, 12, batch_first=True)), (TOKENS,)),
        Operator("GRU, both directions", lambda: First(nn.GRU(16, 6, batch_first=True, bidirectional=True)), (TOKENS,)),
        Operator("RNN", lambda: First(nn.RNN(16, 12, batch_first=True)), (TOKENS,)),
        Operator("LSTMCell", lambda: nn.LSTMCell(8, 6), (CLASSES,)),
        Operator("GRUCell", lambda: nn.GRUCell(8, 6), (CLASSES,)),
        Operator("Embedding", lambda: nn.Embedding(20, 6), ((1, 10),), {0: 20}),
        Operator(
            "EmbeddingBag, mean",
            lambda: nn.EmbeddingBag(20, 6),
            ((2, 10),),
            {0: 20},
            fails={"openvino": BAG, "tflite": BAG_TFLITE},
        ),
    ),
    "Shapes and indices": (
        Operator("reshape, permute, flatten", of(lambda x: x.permute(0, 2, 1, 3).reshape(1, 12, -1).flatten(1))),
        Operator("squeeze, unsqueeze, expand", of(lambda x: x.unsqueeze(2).expand(1, 3, 2, 12, 16).squeeze(0))),
        Operator("squeeze of an axis that is longer than 1", of(lambda x: x.squeeze(1).squeeze(0))),
        Operator(
            "split, chunk, cat, stack",
            of(lambda x: torch.stack([torch.cat(x.split(5, 2)[::-1], 2), x], 1).chunk(2, -1)[1]),
        ),
        Operator("slices with steps", of(lambda x: x[:, ::2, 1:-1:3, ::4])),
        Operator("roll", of(lambda x: torch.roll(x, (1, -2), (2, 3)))),
        Operator("flip, rot90", of(lambda x: torch.rot90(x.flip(3), 1, (2, 3)))),
        Operator("repeat, repeat_interleave", of(lambda x: x.repeat(1, 2, 1, 1).repeat_interleave(2, 3))),
        Operator("tril, triu", of(lambda x: x.tril(1) - x.triu(2))),
        Operator("gather", of(lambda x, i: x.gather(1, i)), ((2, 10), (2, 4)), {1: 10}),
        Operator("scatter", of(lambda x, i, v: x.scatter(1, i, v)), ((2, 10), (2, 1), (2, 1)), {1: 10}),
        Operator("scatter_add", of(lambda x, i, v: x.scatter_add(1, i, v)), ((2, 10), (2, 4), (2, 4)), {1: 10}),
        Operator("index_select, x[index]", of(lambda x, i: x.index_select(1, i) + x[:, i]), ((2, 10), (4,)), {1: 10}),
        Operator(
            "x[:, 2] = value", of(lambda x, v: x.index_put((torch.tensor([0]), torch.tensor([2])), v)), ((2, 10), (1,))
        ),
        Operator("masked_fill, where", of(lambda x: torch.where(x > 0, x, x.masked_fill(x < -1, 0.5)))),
        Operator("x[x > 0] (as many as there are)", of(lambda x: x[x > 0]), alone=True, fails={"tflite": COUNTED}),
        Operator("eye", of(lambda x: x + torch.eye(12, 16) @ torch.eye(16))),
        Operator("one_hot", of(lambda i: F.one_hot(i, 8).float()), ((2, 5),), {0: 8}),
        Operator(
            "arange, meshgrid",
            of(lambda x: x + torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")[1]),
        ),
    ),
    "Reductions": (
        Operator(
            "mean, sum, amax, amin",
            of(lambda x: x.mean((2, 3)) + x.sum((2, 3)) * 0.01 + x.amax((2, 3)) - x.amin((2, 3))),
        ),
        Operator("std, var", of(lambda x: x.std((2, 3)) + x.var((2, 3), unbiased=False))),
        Operator("median, kthvalue", of(lambda x: x.median(1)[0] + x.kthvalue(3, 1)[0]), ((2, 9),)),
        Operator("norm", of(lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, 1, dim=1))),
        Operator("prod", of(lambda x: x.prod(3)), uniform=True),
        Operator("logsumexp", of(lambda x: x.logsumexp(1))),
        Operator("cumsum", of(lambda x: x.cumsum(2))),
        Operator("cumprod", of(lambda x: x.cumprod(2)), uniform=True),
        Operator("argmax", of(lambda x: x.argmax(1))),
        Operator("max with indices", of(lambda x: x.max(1))),
        Operator("topk", of(lambda x: x.topk(3)), ((2, 10),)),
        Operator("topk, values alone", of(lambda x: x.topk(3)[0]), ((2, 10),)),
        Operator("bucketize", of(lambda x: torch.bucketize(x, torch.linspace(-2, 2, 9)))),
        Operator("sort", of(lambda x: x.sort(1)), ((2, 10),)),
        Operator("sort, values alone", of(lambda x: x.sort(1)[0]), ((2, 10),)),
        Operator("any, all, comparisons", of(lambda x: ((x > 0).any(1) & (x < 2).all(1)).float())),
        Operator("cdist", of(lambda a, b: torch.cdist(a, b)), ((1, 5, 8), (1, 7, 8)), tolerance=1e-4),
        Operator("cosine_similarity", of(lambda a, b: F.cosine_similarity(a, b)), (CLASSES, CLASSES)),
        Operator(
            "fft.rfft",
            of(lambda x: torch.fft.rfft(x).abs()),
            (SERIES,),
            tolerance=1e-4,
            fails={"openvino": FOURIER_1D, "tflite": FOURIER_TFLITE},
        ),
        Operator(
            "fft.fft2",
            of(lambda x: torch.fft.fft2(x).abs()),
            tolerance=1e-3,
            fails={"openvino": FOURIER_2D, "tflite": COMPLEX},
        ),
        Operator(
            "linalg.inv",
            of(lambda x: torch.linalg.inv(x + 4 * torch.eye(5))),
            ((1, 5, 5),),
            fails={"onnx": INVERSE, "openvino": INVERSE, "tflite": INVERSE_TFLITE},
        ),
    ),
    "Control flow": (
        Operator("a loop over a size", of(lambda x: sum((x[:, :, i] for i in range(x.shape[2])), torch.zeros(1)))),
        Operator("torch.cond", Cond, alone=True, fails={"tflite": BRANCH}),
        Operator("if on a value", of(lambda x: x + 1 if x.sum() > 0 else x * 2), fails=dict.fromkeys(FORMATS, VALUES)),
        Operator("dropout (in evaluation mode)", lambda: nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5))),
        Operator(
            "half-precision inside (engines keep more digits)", of(lambda x: (x.half() * 2).float()), tolerance=5e-3
        ),
        Operator("float64 inside", of(lambda x: (x.double() * math.pi).float())),
    ),
}


HEAD = """# What converts

Every row is a small module that is converted to each format, run in its engine and compared with PyTorch, by
`tests/exporters/test_operators.py`. {counts}

This page is written by `python tests/exporters/operators.py` from the table that the tests hold to: what is said to
work has to, and what is said to fail has to fail for that reason.
"""


def document() -> str:
    """The table as Markdown."""
    rows = [operator for group in TABLE.values() for operator in group]
    works = {f: sum(f not in operator.fails for operator in rows) for f in FORMATS}
    counts = "Of {} rows, {} work in ONNX Runtime, {} in OpenVINO and {} in TFLite (LiteRT).".format(
        len(rows), *(works[f] for f in FORMATS)
    )
    parts = [HEAD.format(counts=counts)]
    for group, operators in TABLE.items():
        parts.append(f"## {group}\n\n| | {' | '.join(ENGINES[f] for f in FORMATS)} |\n| --- | --- | --- | --- |")
        parts[-1] += "".join(f"\n| {operator.name} | {' | '.join(_cell(operator))} |" for operator in operators) + "\n"
    reasons: dict[Fails, list[str]] = {}
    for operator in rows:
        for format, fails in operator.fails.items():
            reasons.setdefault(fails, []).append(f"{operator.name} ({ENGINES[format]})")
    parts.append("## Why not, and what to use instead\n")
    parts += [f"**{'; '.join(names)}**: {fails.why} {fails.instead}\n" for fails, names in reasons.items()]
    return "\n".join(parts)


def _cell(operator: Operator) -> list[str]:
    return ["no" if format in operator.fails else "yes" for format in FORMATS]


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
