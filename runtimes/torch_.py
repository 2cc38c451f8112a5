"""PyTorch: the reference that every export is compared with, and the GPU engine of the host."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit import forking, registry
from edgekit.errors import DeviceUnavailable, EngineError, NotInstalled
from edgekit.machine import processor
from edgekit.session import Device, Model, Placement, Runtime, Session
from edgekit.tensors import Array, TensorSpec


@dataclass(frozen=True)
class TorchOptions:
    """`compile`: run through torch.compile (needs a C++ compiler; the first run takes long)."""

    compile: bool = False


class TorchRuntime(Runtime):
    """Runs a zoo network whose weights lie in the bundle as safetensors."""

    name = "torch"
    formats = ("torch",)
    extra = "export"
    options = TorchOptions

    def version(self) -> str:
        return str(_engine().__version__)

    def devices(self) -> list[Device]:
        torch = _engine()
        rows = [Device(self.name, "cpu", processor(), ("fp32",))]
        for index in range(torch.cuda.device_count()):
            rows.append(
                Device(self.name, f"gpu:{index}" if index else "gpu", torch.cuda.get_device_name(index), ("fp32",))
            )
        if torch.backends.mps.is_available():
            rows.append(Device(self.name, "gpu", "Apple GPU (MPS)", ("fp32",)))
        return rows if len(rows) > 1 else [*rows, *_absent(torch)]

    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        _engine()
        if model.family is None:
            raise EngineError(f"torch cannot open '{model.path.name}': a lone weights file does not say its network")
        module = load_module(model.family, dict(model.settings), model.path)
        return TorchSession(module, model.inputs, model.outputs, device, threads, options)


class TorchSession(Session):
    """An nn.Module in evaluation mode, called with copies of the caller's arrays: it may work in place."""

    def __init__(
        self,
        module: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        device: str = "cpu",
        threads: int | None = None,
        options: TorchOptions = TorchOptions(),
    ) -> None:
        super().__init__()
        forking.used("torch")
        self._torch = _engine()
        self._target = _target(self._torch, device)
        self._requested, self._threads = device, threads
        self._module = module.eval().to(self._target)
        self._call = self._torch.compile(self._module) if options.compile else self._module
        self.inputs, self.outputs = inputs, outputs

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        torch = self._torch
        before = torch.get_num_threads()
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode(), _exact(torch, self._target):
                tensors = [torch.from_numpy(a.copy()).to(self._target) for a in arrays]
                results = self._call(*tensors)
        except RuntimeError as error:
            raise EngineError(f"torch failed: {str(error).splitlines()[0]}") from error
        finally:
            torch.set_num_threads(before)
        results = results if isinstance(results, (tuple, list)) else (results,)
        return [np.ascontiguousarray(r.cpu().numpy()) for r in results]

    def placement(self) -> Placement:
        self._refuse_closed()
        parameters = list(self._module.parameters())
        place = parameters[0].device if parameters else self._target
        kind, index = place.type, f":{place.index}" if place.index else ""
        operators = {f"{kind.upper()} {type(m).__name__}": 0 for m in self._module.modules() if not list(m.children())}
        for module in self._module.modules():
            if not list(module.children()):
                operators[f"{kind.upper()} {type(module).__name__}"] += 1
        return Placement(
            runtime="torch",
            version=str(self._torch.__version__),
            requested=self._requested,
            device={"cuda": "gpu", "mps": "gpu"}.get(kind, kind) + index,
            precision="fp16" if parameters and parameters[0].dtype == self._torch.float16 else "fp32",
            threads=self._threads or self._torch.get_num_threads(),
            operators=operators,
            why=self.why,
        )

    def _close(self) -> None:
        self._module = self._call = None


def load_module(family: str, settings: dict[str, Any], weights: Any) -> Any:
    """Build a zoo network and fill it from a safetensors file; nothing is unpickled.

    Raises:
        NotInstalled: safetensors is missing. EngineError: the file is not of this network.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise NotInstalled.named("torch", "safetensors", "export") from error
    module = registry.find("families", family)(**settings)
    try:
        module.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise EngineError(f"'{weights}' does not hold the weights of {family} {settings}: {error}") from error
    return module.eval()


def _absent(torch: Any) -> list[Device]:
    """The GPUs that PyTorch knows, where it has none."""
    built = torch.version.cuda or torch.version.hip
    why = "it finds no GPU, or no driver for it" if built else "this build has neither CUDA nor ROCm"
    remedy = "needs a GPU with its driver" if built else "needs a build of https://pytorch.org for your GPU"
    cuda = Device("torch", "gpu", "NVIDIA CUDA, AMD ROCm", ("fp32",), False, why, remedy=remedy)
    apple = "it finds no Apple GPU" if platform.system() == "Darwin" else "for macOS alone"
    return [cuda, Device("torch", "gpu", "Apple GPU (MPS)", ("fp32",), False, apple)]


def _exact(torch: Any, target: Any) -> AbstractContextManager[Any]:
    """Keep cuDNN from rounding convolutions to TF32, as it does by default on NVIDIA GPUs: fp32 means fp32."""
    if target.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # type: ignore[no-any-return]


def _target(torch: Any, device: str) -> Any:
    kind, _, index = device.partition(":")
    if kind == "cpu" and index in ("", "0"):
        return torch.device("cpu")
    if kind == "gpu" and torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count():
        return torch.device("cuda", int(index or 0))
    if kind == "gpu" and torch.backends.mps.is_available():
        return torch.device("mps")
    raise DeviceUnavailable(f"torch has no {device} here: use device='cpu', or a PyTorch build for your GPU")


def _engine() -> Any:
    try:
        import torch
    except ImportError as error:
        raise NotInstalled.named("torch", "torch", "export") from error
    return torch
