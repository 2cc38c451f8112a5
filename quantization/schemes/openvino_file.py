"""An OpenVINO .xml → int8 by NNCF, told to quantize the same as everywhere: layers, by the least and largest value."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import openvino

from edgekit.errors import NotInstalled
from edgekit.exporters.quiet import quiet
from edgekit.quantization.schemes.float_file import FloatFile, Inputs
from edgekit.quantization.schemes.scheme import Layer
from edgekit.tensors import Array

CONVOLUTIONS = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
)
LAYERS = (*CONVOLUTIONS, "MatMul")
UNKNOWN = ("LSTMSequence", "GRUSequence", "RNNSequence", "LSTMCell", "GRUCell", "RNNCell", "DeformableConvolution")
CHANGED = ("Convert", "Reshape", "Transpose", "Unsqueeze", "Multiply", "Subtract")  # weights on their way to a layer


class OpenVinoFile(FloatFile):
    """Layers are those with constant weights: a product of two activations, as in attention, stays float."""

    tool = "NNCF"

    def layers(self) -> list[Layer]:
        found = []
        for node in self._model.get_ordered_ops():
            kind = node.get_type_name()
            if kind in LAYERS and _constant(node, 1):
                found.append(Layer(node.get_friendly_name()))
            elif kind in UNKNOWN:
                found.append(Layer(node.get_friendly_name(), kept=f"NNCF knows no int8 {kind}"))
        return found

    def weights(self) -> dict[str, Array]:
        nodes = {node.get_friendly_name(): node for node in self._model.get_ordered_ops()}
        return {x.name: _source(nodes[x.name], 1).data for x in self.layers() if not x.kept}

    def quantize(self, inputs: Inputs, keep: Collection[str], folder: Path, stem: str) -> tuple[str, ...]:
        nncf = imported()
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        convolves = any(node.get_type_name() in CONVOLUTIONS for node in self._model.get_ops())
        with quiet():
            try:
                made = nncf.quantize(
                    self._model,
                    nncf.Dataset([list(arrays) for arrays in inputs]),
                    subset_size=len(inputs),
                    preset=nncf.QuantizationPreset.MIXED,
                    # SmoothQuant: 3 dB for transformers, and the ruin of a diffusion network of convolutions
                    model_type=None if convolves else nncf.ModelType.TRANSFORMER,
                    ignored_scope=nncf.IgnoredScope(names=self._ignored(keep), validate=False),
                    advanced_parameters=AdvancedQuantizationParameters(
                        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
                    ),
                )
                openvino.save_model(made, folder / f"{stem}.xml", compress_to_fp16=False)
            except Exception as error:  # of NNCF and, from C++, of OpenVINO
                raise self.refused(error) from error
        return f"{stem}.xml", f"{stem}.bin"

    @cached_property
    def _model(self) -> Any:
        return openvino.Core().read_model(self.path)

    def _ignored(self, keep: Collection[str]) -> list[str]:
        """All but the layers that are to be int8."""
        wanted = {layer.name for layer in self.layers() if not layer.kept and layer.name not in keep}
        names = {n.get_friendly_name(): n.get_type_name() for n in self._model.get_ordered_ops()}
        return [n for n, kind in names.items() if n not in wanted and kind not in ("Constant", "Parameter", "Result")]


def imported() -> Any:
    """NNCF, which reports each use to its maker over the network unless told before it is first imported.

    Raises:
        NotInstalled.
    """
    os.environ.setdefault("NNCF_CI", "1")
    try:
        with quiet():
            import nncf
    except ImportError as error:
        raise NotInstalled.named("int8 of an OpenVINO file", "nncf", "export") from error
    return nncf


def _constant(node: Any, place: int) -> bool:
    """Whether an input is made of constants alone."""
    return bool(_source(node, place).get_type_name() == "Constant")


def _source(node: Any, place: int) -> Any:
    """The node that an input's values come from, but for a change of their form."""
    source = node.input_value(place).get_node()
    while source.get_type_name() in CHANGED:
        source = source.input_value(0).get_node()
    return source
