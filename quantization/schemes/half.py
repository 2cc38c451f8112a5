"""fp16: weights stored in half precision, half the size; computed in what the engine and its device compute in."""

from __future__ import annotations

from edgekit.quantization.schemes.compressed import Compressed
from edgekit.quantization.schemes.rounding import HALF, Form
from edgekit.quantization.schemes.weight_files import Constant

LARGEST = 65_504.0  # a float16


class Half(Compressed):
    """Every weight in float16, but such as lie beyond its range."""

    precision = "fp16"

    def form(self, constant: Constant, last: bool) -> Form | str:
        return HALF if constant.largest <= LARGEST else f"it holds {constant.largest:,.0f}, beyond float16's 65,504"
