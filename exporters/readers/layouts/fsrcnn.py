"""FSRCNN: thin convolutions at the small size, then one transposed convolution; in both forms it is published in."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from edgekit.errors import InputError
from edgekit.exporters.readers.layouts.layout import Layout, Settings, Shapes, Use, upscaling
from edgekit.exporters.readers.layouts.luma import LumaNet

FORMS = ("yjn870", "lornatang")
LARGEST = 8  # scale


class FsrcnnNet(LumaNet):
    """As LumaNet, on Y in studio range: `wide` channels around `maps` convolutions of `thin` ones."""

    def __init__(self, form: str, scale: int, channels: int = 1, wide: int = 56, thin: int = 12, maps: int = 4) -> None:
        super().__init__(scale, channels, "studio")
        first = _pair(channels, wide, 5)
        shrink, expand = _pair(wide, thin, 1), _pair(thin, wide, 1)
        mapping = [layer for _ in range(maps) for layer in _pair(thin, thin, 3)]
        tail = nn.ConvTranspose2d(wide, channels, 9, scale, padding=4, output_padding=scale - 1)
        parts: dict[str, nn.Module]
        if form == "yjn870":
            middle = nn.Sequential(*shrink, *mapping, *expand)
            parts = {"first_part": nn.Sequential(*first), "mid_part": middle, "last_part": tail}
        else:
            named = {"feature_extraction": first, "shrink": shrink, "map": mapping, "expand": expand}
            parts = {**{name: nn.Sequential(*layers) for name, layers in named.items()}, "deconv": tail}
        self.maps, self.order = maps, tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on, the transposed 9×9 convolution included."""
        return 2 + self.maps + max(4 // self.scale, (self.scale + 3) // self.scale)

    def enlarge(self, planes: Tensor) -> Tensor:
        x = planes
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def _pair(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.PReLU(outputs)]


def settings(shapes: Shapes, asked: Mapping[str, object], name: str) -> Settings | None:
    """Widths from the shapes; the scale from what is stated or from the file's name, as no shape tells it."""
    form, tail = ("yjn870", "last_part") if "mid_part.0.weight" in shapes else ("lornatang", "deconv")
    first = shapes.get("first_part.0.weight" if form == "yjn870" else "feature_extraction.0.weight", ())
    thin = shapes.get("mid_part.0.weight" if form == "yjn870" else "shrink.0.weight", ())
    if len(first) != 4 or len(thin) != 4 or shapes.get(f"{tail}.weight", ())[2:] != (9, 9) or first[1] not in (1, 3):
        return None
    middle = [k for k in shapes if re.fullmatch(r"(mid_part|map)\.\d+\.weight", k) and len(shapes[k]) == 4]
    maps = len(middle) - 2 if form == "yjn870" else len(middle)
    scale = asked.get("scale", _named_scale(name))
    if scale is None:
        raise InputError(
            f"'{name}' is an FSRCNN, whose weights are of the same shapes at every scale: state it (--setting scale=2)"
        )
    if isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= LARGEST:
        raise InputError(f"got scale={scale!r} for '{name}': expected a whole number from 1 to {LARGEST}")
    return {
        "form": form, "scale": scale, "channels": first[1], "wide": first[0], "thin": thin[0], "maps": maps,
    }  # fmt: skip


def _named_scale(name: str) -> int | None:
    """2 for "fsrcnn_x2.pth", "fsrcnn-x2-T91.pth.tar" or "2x.pth"; None where the name says nothing."""
    found = re.findall(r"(?<![a-z0-9])(?:x([2-8])|([2-8])x)(?![a-z0-9])", name.lower())
    scales = {int(a or b) for a, b in found}
    return scales.pop() if len(scales) == 1 else None


def use(net: nn.Module) -> Use:
    assert isinstance(net, FsrcnnNet)
    return upscaling(net.scale, net.halo)


FSRCNN = Layout(
    title="FSRCNN",
    family="fsrcnn",
    keys="first_part.0 … mid_part.0 … last_part, or feature_extraction.0 … map.0 … deconv",
    paper="Dong et al. 2016, Accelerating the Super-Resolution Convolutional Neural Network",
    repository="https://github.com/yjn870/FSRCNN-pytorch",
    settings=settings,
    use=use,
)
