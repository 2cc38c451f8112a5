"""fast-neural-style's TransformerNet: a residual network with instance norms that paints a photo in one style."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.exporters.readers.layouts.layout import Layout, Settings, Shapes, Use, enlarged, stylizing


class TransformerNet(nn.Module):
    """RGB batch × 3 × height × width in 0…1, both multiples of 4 → the same shape, not clamped.

    The published network works on 0…255: it is scaled on the way in and out. Its norms take their statistics
    from the whole picture, so that it cannot be cut into tiles.
    """

    def __init__(self, thin: int = 32, middle: int = 64, wide: int = 128, blocks: int = 5, kernel: int = 9) -> None:
        super().__init__()
        self.blocks = blocks
        downs = ((3, thin, kernel, 1), (thin, middle, 3, 2), (middle, wide, 3, 2))
        ups = ((wide, middle, 3, 1), (middle, thin, 3, 1), (thin, 3, kernel, 1))
        for index, (inputs, outputs, size, stride) in enumerate(downs, start=1):
            self.add_module(f"conv{index}", Padded(inputs, outputs, size, stride))
            self.add_module(f"in{index}", nn.InstanceNorm2d(outputs, affine=True))
        for index in range(1, blocks + 1):
            self.add_module(f"res{index}", Residual(wide))
        for index, (inputs, outputs, size, stride) in enumerate(ups, start=1):
            self.add_module(f"deconv{index}", Padded(inputs, outputs, size, stride))
            if index < 3:
                self.add_module(f"in{index + 3}", nn.InstanceNorm2d(outputs, affine=True))

    def forward(self, image: Tensor) -> Tensor:
        layer = self.get_submodule
        x = image * 255.0
        for index in (1, 2, 3):
            x = F.relu(layer(f"in{index}")(layer(f"conv{index}")(x)))
        for index in range(1, self.blocks + 1):
            x = layer(f"res{index}")(x)
        for index in (1, 2):
            x = layer(f"deconv{index}")(enlarged(x, 2, "nearest"))
            x = F.relu(layer(f"in{index + 3}")(x))
        result: Tensor = layer("deconv3")(x)
        return result / 255.0


class Padded(nn.Module):
    """A convolution on the picture and its reflection around it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)
        self.around = [kernel // 2] * 4

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv2d(F.pad(x, self.around, mode="reflect"))
        return result


class Residual(nn.Module):
    """Two convolutions with norms, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Padded(channels, channels, 3, 1), Padded(channels, channels, 3, 1)
        self.in1, self.in2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.in2(self.conv2(F.relu(self.in1(self.conv1(x)))))
        return x + inner


def settings(shapes: Shapes, asked: Mapping[str, object], name: str) -> Settings | None:
    """Widths, residual blocks and the size of the first kernel."""
    weights = [shapes.get(f"{layer}.conv2d.weight", ()) for layer in ("conv1", "conv2", "conv3", "deconv3")]
    if any(len(w) != 4 for w in weights) or "in1.weight" not in shapes or weights[0][1] != 3:
        return None
    blocks = len([key for key in shapes if re.fullmatch(r"res\d+\.conv1\.conv2d\.weight", key)])
    thin, middle, wide = (w[0] for w in weights[:3])
    return {"thin": thin, "middle": middle, "wide": wide, "blocks": blocks, "kernel": weights[0][2]}


def use(net: nn.Module) -> Use:
    assert isinstance(net, TransformerNet)
    return stylizing(step=4)


TRANSFORMER_NET = Layout(
    title="fast-neural-style (TransformerNet)",
    family="transformer_net",
    keys="conv1.conv2d.weight, in1.weight, res1.conv1.conv2d.weight, …, deconv3.conv2d.weight",
    paper="Johnson et al. 2016, Perceptual Losses for Real-Time Style Transfer; Ulyanov et al. 2016, Instance Normalization",
    repository="https://github.com/pytorch/examples/tree/main/fast_neural_style",
    settings=settings,
    use=use,
    ignored=re.compile(r"(.*\.)?in\d+\.(running_(mean|var)|num_batches_tracked)"),  # of files from before PyTorch 0.4
)
