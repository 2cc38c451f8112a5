"""Weights alone made small: int8 a channel, computed in float; int4 in groups."""

from __future__ import annotations

from edgekit.errors import QuantizationError
from edgekit.quantization.schemes.compressed import Compressed
from edgekit.quantization.schemes.rounding import DYNAMIC, GROUP, GROUPS, STORED, Form
from edgekit.quantization.schemes.weight_files import Constant


class Int8Weights(Compressed):
    """Every weight int8, with a scale for each output channel; all is computed in float, as in fp32."""

    precision = "int8-weights"

    def form(self, constant: Constant, last: bool) -> Form | str:
        return STORED


class Int4Weights(Compressed):
    """Weights of products int4, in groups of 32 that share a scale; the rest, and the last product, int8.

    The engines round what goes into these products to int8 as they run, which costs far less than the 4 bits.
    """

    precision = "int4-weights"
    instead = "it has no products with weights of rows that groups of 32 divide; use int8-weights"

    def form(self, constant: Constant, last: bool) -> Form | str:
        if constant.kind != "linear":
            return STORED
        return DYNAMIC if last or constant.shared or constant.inner % GROUP else GROUPS

    def _require_some(self) -> None:
        """A few int8 embeddings are not what was asked for either."""
        super()._require_some()
        if not any(one.form == GROUPS for one in self._decided):
            raise QuantizationError(f"no layer of '{self.job.name}' can be {self.precision}: {self.instead}")
