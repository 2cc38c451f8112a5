"""Published networks in their own words and names, small, to hold the layouts of edgekit against."""

from __future__ import annotations

import itertools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def compact(scale: int = 4, channels: int = 8, convs: int = 3) -> dict[str, Tensor]:
    """State dict of Real-ESRGAN's SRVGGNetCompact: convolution and PReLU in turn, numbered through."""
    state = OrderedDict()
    for index in range(convs + 1):
        state[f"body.{2 * index}.weight"] = 0.1 * torch.randn(channels, channels if index else 3, 3, 3)
        state[f"body.{2 * index}.bias"] = 0.1 * torch.randn(channels)
        state[f"body.{2 * index + 1}.weight"] = 0.25 * torch.rand(channels)
    state[f"body.{2 * convs + 2}.weight"] = 0.1 * torch.randn(3 * scale**2, channels, 3, 3)
    state[f"body.{2 * convs + 2}.bias"] = 0.1 * torch.randn(3 * scale**2)
    return state


def run_compact(state: dict[str, Tensor], image: Tensor, scale: int = 4) -> Tensor:
    x, last = image, max(int(key.split(".")[1]) for key in state)
    for index in range(0, last, 2):
        x = F.conv2d(x, state[f"body.{index}.weight"], state[f"body.{index}.bias"], padding=1)
        x = F.prelu(x, state[f"body.{index + 1}.weight"])
    x = F.conv2d(x, state[f"body.{last}.weight"], state[f"body.{last}.bias"], padding=1)
    return F.pixel_shuffle(x, scale) + image.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


class ExamplesEspcn(nn.Module):
    """Y → Y, as super_resolution of pytorch/examples."""

    brightness = "full"

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 6, 3, padding=1)
        self.conv4 = nn.Conv2d(6, scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, y: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(y))))
        return F.pixel_shuffle(self.conv4(torch.relu(self.conv3(x))), self.scale)


class ThreeConvEspcn(nn.Module):
    """Y → Y with tanh and a sigmoid at the end, as leftthomas/ESPCN."""

    brightness = "full"

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 5, padding=2)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.conv3 = nn.Conv2d(6, scale**2, 3, padding=1)
        self.scale = scale

    def forward(self, y: Tensor) -> Tensor:
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(y))))
        return torch.sigmoid(F.pixel_shuffle(self.conv3(x), self.scale))


class PartsEspcn(nn.Module):
    """Y → Y in two Sequentials, as yjn870/ESPCN-pytorch ("first_part") and Lornatang's ("feature_maps", clamped)."""

    brightness = "studio"

    def __init__(self, scale: int, names: tuple[str, str] = ("first_part", "last_part"), clamp: bool = False) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.Tanh(), nn.Conv2d(8, 6, 3, padding=1), nn.Tanh())
        last = nn.Sequential(nn.Conv2d(6, scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.add_module(names[0], first)
        self.add_module(names[1], last)
        self.clamp = clamp

    def forward(self, y: Tensor) -> Tensor:
        first, last = self.children()
        x: Tensor = last(first(y))
        return x.clamp(0.0, 1.0) if self.clamp else x


class PartsFsrcnn(nn.Module):
    """Y → Y, as yjn870/FSRCNN-pytorch."""

    brightness = "studio"

    def __init__(self, scale: int, wide: int = 8, thin: int = 4, maps: int = 2) -> None:
        super().__init__()
        self.first_part = nn.Sequential(nn.Conv2d(1, wide, 5, padding=2), nn.PReLU(wide))
        layers: list[nn.Module] = [nn.Conv2d(wide, thin, 1), nn.PReLU(thin)]
        for _ in range(maps):
            layers += [nn.Conv2d(thin, thin, 3, padding=1), nn.PReLU(thin)]
        self.mid_part = nn.Sequential(*layers, nn.Conv2d(thin, wide, 1), nn.PReLU(wide))
        self.last_part = nn.ConvTranspose2d(wide, 1, 9, scale, 4, scale - 1)

    def forward(self, y: Tensor) -> Tensor:
        result: Tensor = self.last_part(self.mid_part(self.first_part(y)))
        return result


class NamedFsrcnn(nn.Module):
    """Y → Y, as Lornatang/FSRCNN-PyTorch."""

    brightness = "studio"

    def __init__(self, scale: int, wide: int = 8, thin: int = 4, maps: int = 2) -> None:
        super().__init__()
        self.feature_extraction = nn.Sequential(nn.Conv2d(1, wide, 5, padding=2), nn.PReLU(wide))
        self.shrink = nn.Sequential(nn.Conv2d(wide, thin, 1), nn.PReLU(thin))
        layers = [m for _ in range(maps) for m in (nn.Conv2d(thin, thin, 3, padding=1), nn.PReLU(thin))]
        self.map = nn.Sequential(*layers)
        self.expand = nn.Sequential(nn.Conv2d(thin, wide, 1), nn.PReLU(wide))
        self.deconv = nn.ConvTranspose2d(wide, 1, 9, scale, 4, scale - 1)

    def forward(self, y: Tensor) -> Tensor:
        result: Tensor = self.deconv(self.expand(self.map(self.shrink(self.feature_extraction(y)))))
        return result


def coloured(net: nn.Module, image: Tensor, scale: int) -> Tensor:
    """RGB by way of YCbCr: Y through the network, Cb and Cr enlarged bicubically, and back."""
    full = net.brightness == "full"  # type: ignore[operator]
    if full:
        rows = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
        offset = [0.0, 0.5, 0.5]
    else:
        rows = [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
        rows = [[v / 255 for v in row] for row in rows]
        offset = [16 / 255, 128 / 255, 128 / 255]
    matrix, shift = torch.tensor(rows, dtype=torch.float64), torch.tensor(offset, dtype=torch.float64)[:, None, None]
    planes = torch.einsum("ij,jhw->ihw", matrix, image[0].double()) + shift
    chroma = F.interpolate(planes[None, 1:], scale_factor=scale, mode="bicubic")[0]
    luma = net(planes[None, :1].float())[0].double()
    back = torch.einsum("ij,jhw->ihw", matrix.inverse(), torch.cat([luma, chroma]) - shift)
    return back[None].float()


class Painter(nn.Module):
    """RGB in 0…255 → 0…255, as TransformerNet of pytorch/examples' fast_neural_style."""

    def __init__(self, thin: int = 4, middle: int = 6, wide: int = 8) -> None:
        super().__init__()
        self.conv1, self.in1 = Conv(3, thin, 9, 1), nn.InstanceNorm2d(thin, affine=True)
        self.conv2, self.in2 = Conv(thin, middle, 3, 2), nn.InstanceNorm2d(middle, affine=True)
        self.conv3, self.in3 = Conv(middle, wide, 3, 2), nn.InstanceNorm2d(wide, affine=True)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (Block(wide) for _ in range(5))
        self.deconv1, self.in4 = Conv(wide, middle, 3, 1), nn.InstanceNorm2d(middle, affine=True)
        self.deconv2, self.in5 = Conv(middle, thin, 3, 1), nn.InstanceNorm2d(thin, affine=True)
        self.deconv3 = Conv(thin, 3, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.in1(self.conv1(x)))
        x = torch.relu(self.in2(self.conv2(x)))
        x = torch.relu(self.in3(self.conv3(x)))
        x = self.res5(self.res4(self.res3(self.res2(self.res1(x)))))
        twice = nn.UpsamplingNearest2d(scale_factor=2)
        x = torch.relu(self.in4(self.deconv1(twice(x))))
        x = torch.relu(self.in5(self.deconv2(twice(x))))
        result: Tensor = self.deconv3(x)
        return result


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.reflection_pad, self.conv2d = nn.ReflectionPad2d(kernel // 2), nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv2d(self.reflection_pad(x))
        return result


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.in1 = Conv(width, width, 3, 1), nn.InstanceNorm2d(width, affine=True)
        self.conv2, self.in2 = Conv(width, width, 3, 1), nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.in2(self.conv2(torch.relu(self.in1(self.conv1(x))))) + x
        return result


class Dcgan(nn.Module):
    """latent batch × 12 × 1 × 1 → −1…1, as the generator of pytorch/examples' dcgan; `last` 1 as its MNIST variant."""

    def __init__(self, width: int = 4, channels: int = 3, last: tuple[int, int, int] = (4, 2, 1)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        planes = [12, 8 * width, 4 * width, 2 * width, width]
        for index, (inputs, outputs) in enumerate(itertools.pairwise(planes)):
            stride, padding = (2, 1) if index else (1, 0)
            layers += [
                nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)
            ]  # fmt: skip
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, *last, bias=False), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        result: Tensor = self.main(latent)
        return result


def trained(net: nn.Module) -> nn.Module:
    """With weights, norms and statistics that are not those of a fresh network."""
    for name, tensor in net.state_dict().items():
        if tensor.ndim >= 2:
            tensor.normal_(0.0, 1.0 / max(1, tensor[0].numel()) ** 0.5)
        elif tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if name.endswith(("running_var", "weight")) else tensor.normal_(0.0, 0.1)
    return net.eval()
