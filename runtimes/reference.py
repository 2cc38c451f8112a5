"""A NumPy double of an engine, for tests: a JSON file states an affine function, enlarged by repetition."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from edgekit.errors import DeviceUnavailable, EngineError
from edgekit.session import Device, Model, Placement, Runtime, Session
from edgekit.tensors import Array, TensorSpec


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """output = scale · input + offset, each pixel repeated.

    `fail` raises it, `delay_s` takes that long; an input that begins with `crash_at` crashes the process.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scale: float = 1.0
    offset: float = 0.0
    repeat: int = 1
    fail: str = ""
    delay_s: float = 0.0
    crash_at: float | None = None


@dataclass(frozen=True)
class ReferenceOptions:
    """The double has no options."""


class ReferenceRuntime(Runtime):
    """Runs .json files that hold a Function."""

    name = "reference"
    formats = ("reference",)
    extra = "dev"
    options = ReferenceOptions

    def version(self) -> str:
        return np.__version__

    def devices(self) -> list[Device]:
        return [Device(self.name, "cpu", "NumPy double, for tests", ("fp32",))]

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        if device != "cpu":
            raise DeviceUnavailable(f"reference runs on the cpu: got device='{device}'; use device='cpu'")
        try:
            function = msgspec.json.decode(model.path.read_bytes(), type=Function)
        except msgspec.DecodeError as error:
            raise EngineError(f"reference cannot open '{model.path.name}': {error}") from error
        return ReferenceSession(function, model)


class ReferenceSession(Session):
    """Computes a Function."""

    def __init__(self, function: Function, model: Model) -> None:
        super().__init__()
        self._function: Function | None = function
        self.inputs = model.inputs or function.inputs
        self.outputs = model.outputs or function.outputs

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        assert self._function is not None
        function, (array,) = self._function, arrays
        time.sleep(function.delay_s)
        if function.crash_at is not None and array.flat[0] == function.crash_at:
            print("about to crash", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if function.fail:
            raise EngineError(f"reference failed: {function.fail}")
        result = (array * function.scale + function.offset).astype(array.dtype)
        spatial = (1, 2) if self.inputs[0].layout == "NHWC" else (2, 3)
        for axis in spatial if function.repeat > 1 else ():
            result = result.repeat(function.repeat, axis=axis)
        return [result]

    def placement(self) -> Placement:
        self._refuse_closed()
        return Placement("reference", np.__version__, "cpu", "cpu", "fp32", 1, {"CPU affine": 1}, self.why)

    def _close(self) -> None:
        self._function = None
