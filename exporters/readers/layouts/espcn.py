"""ESPCN: convolutions at the small size, then one pixel shuffle; in the four forms that weights are published in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.exporters.readers.layouts.layout import Layout, Settings, Shapes, Use, upscaling, whole_root
from edgekit.exporters.readers.layouts.luma import LumaNet


@dataclass(frozen=True)
class Form:
    """One way of writing it: names of the convolutions, what follows each but the last, and what follows that."""

    convolutions: tuple[str, ...]
    between: str
    last: str
    brightness: str


FORMS = {
    "pytorch-examples": Form(("conv1", "conv2", "conv3", "conv4"), "relu", "none", "full"),
    "leftthomas": Form(("conv1", "conv2", "conv3"), "tanh", "sigmoid", "full"),
    "yjn870": Form(("first_part.0", "first_part.2", "last_part.0"), "tanh", "none", "studio"),
    "lornatang": Form(("feature_maps.0", "feature_maps.2", "sub_pixel.0"), "tanh", "clamp", "studio"),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "clamp": lambda x: x.clamp(0.0, 1.0),
}


class EspcnNet(LumaNet):
    """As LumaNet: `channels` 1 (Y) or 3 (RGB); `widths` and `kernels` of the convolutions, "64-32" and "5-3-3"."""

    def __init__(self, form: str, scale: int, channels: int, widths: str, kernels: str) -> None:
        super().__init__(scale, channels, FORMS[form].brightness)
        self.form = FORMS[form]
        planes = [channels, *map(int, widths.split("-")), channels * scale**2]
        self.kernels = [int(k) for k in kernels.split("-")]
        for index, name in enumerate(self.form.convolutions):
            kernel = self.kernels[index]
            convolution = nn.Conv2d(planes[index], planes[index + 1], kernel, padding=kernel // 2)
            folder, _, number = name.partition(".")
            if number:
                self._sequence(folder).add_module(number, convolution)
            else:
                self.add_module(folder, convolution)

    def _sequence(self, name: str) -> nn.Module:
        if not hasattr(self, name):
            self.add_module(name, nn.Module())
        return self.get_submodule(name)

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on; bicubic enlargement looks at 2."""
        return max(2, sum(k // 2 for k in self.kernels))

    def enlarge(self, planes: Tensor) -> Tensor:
        x = planes
        for name in self.form.convolutions[:-1]:
            x = FUNCTIONS[self.form.between](self.get_submodule(name)(x))
        x = self.get_submodule(self.form.convolutions[-1])(x)
        return FUNCTIONS[self.form.last](F.pixel_shuffle(x, self.scale))


def settings(shapes: Shapes, asked: Mapping[str, object], name: str) -> Settings | None:
    """The form from the names; widths, kernels and scale from the shapes."""
    for form, facts in FORMS.items():
        weights = [shapes.get(f"{c}.weight", ()) for c in facts.convolutions]
        keys = {f"{c}.{part}" for c in facts.convolutions for part in ("weight", "bias")}
        if set(shapes) != keys or any(len(w) != 4 or w[2] != w[3] for w in weights):
            continue
        channels = weights[0][1]
        scale = whole_root(weights[-1][0] // channels) if channels in (1, 3) else None
        if scale is None:
            return None
        widths, kernels = "-".join(str(w[0]) for w in weights[:-1]), "-".join(str(w[2]) for w in weights)
        return {"form": form, "scale": scale, "channels": channels, "widths": widths, "kernels": kernels}
    return None


def use(net: nn.Module) -> Use:
    assert isinstance(net, EspcnNet)
    return upscaling(net.scale, net.halo)


ESPCN = Layout(
    title="ESPCN",
    family="espcn",
    keys="conv1 … conv4 (pytorch/examples), conv1 … conv3, first_part.0, or feature_maps.0",
    paper="Shi et al. 2016, Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel CNN",
    repository="https://github.com/pytorch/examples/tree/main/super_resolution",
    settings=settings,
    use=use,
)
