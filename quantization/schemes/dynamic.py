"""Dynamic int8: products of int8 weights with inputs that are rounded as they come; needs no calibration."""

from __future__ import annotations

from edgekit.quantization.schemes.compressed import Compressed
from edgekit.quantization.schemes.rounding import DYNAMIC, STORED, Form
from edgekit.quantization.schemes.weight_files import Constant

CONVOLUTION = "a convolution: with inputs rounded as they come it is slower than in float, many times over"


class Dynamic(Compressed):
    """Linear layers and other products with weights; embeddings are stored in int8, convolutions stay float."""

    precision = "int8-dynamic"
    instead = "use int8, which is calibrated beforehand, or int8-weights"

    def form(self, constant: Constant, last: bool) -> Form | str:
        if constant.kind == "convolution":
            return CONVOLUTION
        return DYNAMIC if constant.kind == "linear" else STORED
