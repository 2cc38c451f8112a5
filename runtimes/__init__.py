"""One file an engine; each is found by name through edgekit.registry and passes tests/runtimes/contract.py.

Their options are here too: `from edgekit.runtimes import OpenVinoOptions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit import registry

if TYPE_CHECKING:
    from edgekit.runtimes.litert import LiteRtOptions
    from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
    from edgekit.runtimes.openvino_ import OpenVinoOptions
    from edgekit.runtimes.torch_ import TorchOptions

_OPTIONS = {
    "LiteRtOptions": "litert",
    "OnnxRuntimeOptions": "onnxruntime_",
    "OpenVinoOptions": "openvino_",
    "TorchOptions": "torch_",
}


def __getattr__(name: str) -> Any:
    """Loaded on first use: no engine's file is read for another's."""
    if name in _OPTIONS:
        return registry.load(f"edgekit.runtimes.{_OPTIONS[name]}", name, f"edgekit.runtimes.{name}")
    raise AttributeError(f"module 'edgekit.runtimes' has no attribute '{name}'")


__all__ = ["LiteRtOptions", "OnnxRuntimeOptions", "OpenVinoOptions", "TorchOptions"]
