"""OpenVinoSession: a network that OpenVINO has compiled, and one request to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.errors import EngineError, NotInstalled
from edgekit.flight import Flight
from edgekit.runtimes import openvino_borders, openvino_graph
from edgekit.runtimes.openvino_flight import RequestFlight
from edgekit.session import Model, Placement, Session, agreed
from edgekit.tensors import Array

GROUP_SIZE = "DYNAMIC_QUANTIZATION_GROUP_SIZE"


class OpenVinoSession(Session):
    """One compiled model and one infer request, used by one caller at a time."""

    def __init__(
        self, compiled: Any, specs: openvino_borders.Specs, model: Model, device: str, besides: str = ""
    ) -> None:
        super().__init__()
        self._besides = besides  # what is to be said of how it runs
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._tensor = engine().Tensor
        self._model, self._device = model, device
        self.inputs = agreed(model.inputs, specs[0], model.path)
        self.outputs = agreed(model.outputs, specs[1], model.path)
        self._stateful = bool(self._request.query_state())
        self.streams = 1 if self._stateful else int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        request = self._request
        try:
            self._hand(request, arrays)
            results = list(request.infer(share_outputs=True).values())  # which otherwise are copied, for nobody
        except Exception as error:
            raise self._failed(error) from error
        return [result.copy() for result in results] if copy else results

    def _hand(self, request: Any, arrays: list[Array]) -> None:
        """Hand over the arrays themselves; OpenVINO takes those that cannot be written to as copies alone."""
        for index, array in enumerate(arrays):
            request.set_input_tensor(index, self._tensor(array, shared_memory=array.flags.writeable))

    def _flight(self, room: int) -> Flight:
        if self._stateful:  # each request has states of its own: one alone goes on where the last run ended
            return super()._flight(room)
        try:
            requests = [self._compiled.create_infer_request() for _ in range(room)]
        except Exception as error:
            raise EngineError(f"openvino cannot run '{self._model.path.name}': {reason(error)}") from error
        return RequestFlight(requests, self._feed, self._take)

    def _feed(self, request: Any, inputs: Mapping[str, Array]) -> list[Array]:
        arrays = self._checked(inputs)
        try:
            self._hand(request, arrays)
        except Exception as error:
            raise self._failed(error) from error
        return arrays

    def _take(self, request: Any) -> dict[str, Array]:
        try:
            request.wait()
            return {spec.name: request.get_output_tensor(i).data.copy() for i, spec in enumerate(self.outputs)}
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> EngineError:
        return EngineError(f"openvino failed in '{self._model.path.name}': {reason(error)}")

    def placement(self) -> Placement:
        with self._lock:
            self._refuse_closed()
            units = self._compiled.get_property("EXECUTION_DEVICES")
            graph = openvino_graph.read(self._compiled, units)
            rounds = "CPU" in units and int(self._compiled.get_property(GROUP_SIZE)) > 0
            hint = str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
            threads = self._compiled.get_property("INFERENCE_NUM_THREADS") if "CPU" in units else None
        floating = {"f32": "fp32", "f16": "fp16"}.get(hint, hint)
        return Placement(
            runtime="openvino",
            version=version(),
            requested=self._device,
            device="+".join(unit.lower().replace(".", ":") for unit in units),
            precision=openvino_graph.precision(graph.products, rounds) or floating,
            threads=threads,
            operators=graph.operators,
            why=self.why + self._besides,
            inserted=graph.inserted,
        )

    def _close(self) -> None:
        self._request = self._compiled = None


def engine() -> Any:
    """The module openvino.

    Raises:
        NotInstalled.
    """
    try:
        import openvino
    except ImportError as error:
        raise NotInstalled.named("openvino", "openvino", "openvino") from error
    return openvino


def version() -> str:
    """The engine's version, as its packages are numbered."""
    return str(engine().__version__).split("-")[0]


def reason(error: Exception) -> str:
    """What an error of C++ says in the end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
