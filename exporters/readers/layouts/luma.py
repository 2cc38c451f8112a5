"""LumaNet: upscalers that were trained on brightness alone, run on colour pictures."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from edgekit.exporters.readers.layouts.layout import enlarged

# Weights of R, G, B and the offset of Y, all for values in 0…1; and what a step of Y is worth in R, G and B.
BRIGHTNESS = {
    "full": ((0.299, 0.587, 0.114), 0.0, 1.0),  # JPEG (BT.601, 0…255), as Pillow converts
    "studio": ((65.481 / 255, 128.553 / 255, 24.966 / 255), 16.0 / 255, 255.0 / 219.0),  # 16…235, as MATLAB does
}


class LumaNet(nn.Module):
    """RGB batch × 3 × height × width in 0…1 → batch × 3 × scale·height × scale·width.

    `enlarge` is the published network. Where it takes one channel, it enlarges Y, and Cb and Cr are enlarged
    bicubically. As colours are linear in Y, Cb and Cr, that is the picture enlarged bicubically, with the network's Y in
    the place of its own: no Cb or Cr has to be made.
    """

    def __init__(self, scale: int, channels: int, brightness: str) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        weights, self.offset, self.gain = BRIGHTNESS[brightness]
        self.register_buffer("weights", torch.tensor(weights).view(1, 3, 1, 1), persistent=False)

    @abstractmethod
    def enlarge(self, planes: Tensor) -> Tensor:
        """batch × channels × height × width in 0…1 → the same, `scale` times as large."""

    def forward(self, image: Tensor) -> Tensor:
        if self.channels == 3:
            return self.enlarge(image)
        large = enlarged(image, self.scale)
        return large + self.gain * (self.enlarge(self.luma(image)) - self.luma(large))

    def luma(self, image: Tensor) -> Tensor:
        """Y of an RGB image: batch × 1 × height × width."""
        weights = self.weights
        assert isinstance(weights, Tensor)
        return (image * weights).sum(1, keepdim=True) + self.offset
