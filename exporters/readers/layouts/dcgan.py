"""DCGAN's generator as in pytorch/examples: transposed convolutions from a latent vector to a picture."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from torch import Tensor, nn

from edgekit.exporters.readers.layouts.layout import Layout, Settings, Shapes, Use, generating

MOST = 9  # layers, each twice as large as the one before: a side of 1024


class DcganGenerator(nn.Module):
    """latent batch × latent of N(0, 1) → batch × channels × side × side in −1…1.

    `widths` are the channels between the layers, "512-256-128-64". The sides are 4, 8, 16, …; a last layer with a
    kernel of 1 keeps the side, but for `cut` pixels that it takes off each end (32 → 28 for MNIST).
    """

    def __init__(
        self, latent: int = 100, widths: str = "512-256-128-64", channels: int = 3, last: int = 4, cut: int = 0
    ) -> None:
        super().__init__()
        self.latent, self.channels = latent, channels
        planes = [latent, *map(int, widths.split("-")), channels]
        count = len(planes) - 1
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(planes)):
            if index == count - 1 and last == 1:
                layers += [nn.ConvTranspose2d(inputs, outputs, 1, padding=cut, bias=False), nn.Tanh()]
                continue
            stride, padding = (2, 1) if index else (1, 0)
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False))
            layers += [nn.Tanh()] if index == count - 1 else [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.main = nn.Sequential(*layers)
        self.side = 4 * 2 ** (count - 1) if last == 4 else 4 * 2 ** (count - 2) - 2 * cut

    def forward(self, latent: Tensor) -> Tensor:
        result: Tensor = self.main(latent.view(-1, self.latent, 1, 1))
        return result


def settings(shapes: Shapes, asked: Mapping[str, object], name: str) -> Settings | None:
    """Latent, widths and channels; a kernel of 1 at the end is the common change of side 32 for MNIST (28) or CIFAR."""
    layers = {
        int(m[1]): shapes[k]
        for k in shapes
        if (m := re.fullmatch(r"main\.(\d{1,4})\.weight", k)) and len(shapes[k]) == 4
    }
    order = sorted(layers)
    known = all(re.fullmatch(r"main\.\d+\.(weight|bias|running_(mean|var)|num_batches_tracked)", k) for k in shapes)
    if (
        not known
        or not 2 <= len(order) <= MOST
        or order != list(range(0, 3 * len(order), 3))
        or "main.1.running_mean" not in shapes
    ):
        return None
    weights = [layers[index] for index in order]
    last = weights[-1][2]
    if any(w[2:] != (4, 4) for w in weights[:-1]) or last not in (1, 4):
        return None
    channels = weights[-1][1]
    cut = 2 if last == 1 and channels == 1 else 0
    widths = "-".join(str(w[1]) for w in weights[:-1])
    return {"latent": weights[0][0], "widths": widths, "channels": channels, "last": last, "cut": cut}


def use(net: nn.Module) -> Use:
    assert isinstance(net, DcganGenerator)
    return generating(net.latent, (1, net.channels, net.side, net.side))


DCGAN = Layout(
    title="DCGAN generator",
    family="dcgan",
    keys="main.0.weight, main.1.weight, main.1.running_mean, main.3.weight, …",
    paper="Radford et al. 2016, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
    repository="https://github.com/pytorch/examples/tree/main/dcgan",
    settings=settings,
    use=use,
)
