"""A runtime of another package, whole and small: .onnx files on ONNX's own reference evaluator, which is plain NumPy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.runtimes.external_data import require_inside
from edgekit.session import Device, Model, Placement, Runtime, Session, agreed
from edgekit.tensors import Array, TensorSpec, dtype_named


@dataclass(frozen=True)
class OnnxReferenceOptions:
    """`verbose`: 0 says nothing, 10 prints every result, as onnx.reference.ReferenceEvaluator has it."""

    verbose: int = 0


class OnnxReferenceRuntime(Runtime):
    """Its `name` is that of the entry point."""

    name = "onnx-reference"
    formats = ("onnx",)
    extra = ""
    options = OnnxReferenceOptions

    def version(self) -> str:
        return str(_engine().__version__)

    def devices(self) -> list[Device]:
        _engine()
        return [Device(self.name, "cpu", "NumPy", ("fp32",))]

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        _engine()
        from onnx.reference import ReferenceEvaluator

        if device != "cpu":
            raise DeviceUnavailable(f"onnx-reference runs on the cpu: got device='{device}'; use device='cpu'")
        require_inside(model.path, model.files)
        try:
            evaluator = ReferenceEvaluator(str(model.path), verbose=options.verbose)
            return OnnxReferenceSession(evaluator, model)
        except Exception as error:  # of protobuf, of onnx, or of NumPy
            raise EngineError(f"onnx-reference cannot open '{model.path.name}': {error}") from error


class OnnxReferenceSession(Session):
    """One evaluator, used by one caller at a time, as `_serial` says where nothing else is said."""

    def __init__(self, evaluator: Any, model: Model) -> None:
        super().__init__()
        self._engine, self._model = evaluator, model
        graph = evaluator.proto_.graph
        if not graph.output:
            raise EngineError("it has no outputs")
        self.inputs = agreed(model.inputs, tuple(_spec(i) for i in graph.input), model.path)
        self.outputs = agreed(model.outputs, tuple(_spec(o) for o in graph.output), model.path)
        self._input_names = [i.name for i in graph.input]

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        try:
            results = self._engine.run(None, dict(zip(self._input_names, arrays, strict=True)))
        except Exception as error:
            raise EngineError(f"onnx-reference failed in '{self._model.path.name}': {error}") from error
        return [np.array(result) for result in results]  # its own: an operator may hand its input on

    def placement(self) -> Placement:
        self._refuse_closed()
        operators = Counter(f"CPU {node.op_type}" for node in self._engine.proto_.graph.node)
        version = OnnxReferenceRuntime().version()
        return Placement("onnx-reference", version, "cpu", "cpu", "fp32", None, dict(operators), self.why)

    def _close(self) -> None:
        self._engine = None


def _engine() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise NotInstalled("onnx-reference needs the package 'onnx': pip install edgekit-onnx-reference") from error
    return onnx


def _spec(value: Any) -> TensorSpec:
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type
    dims = (d.dim_value or d.dim_param or f"{value.name}_dim{i}" for i, d in enumerate(kind.shape.dim))
    return TensorSpec(value.name, dtype_named(tensor_dtype_to_np_dtype(kind.elem_type).name), tuple(dims))
