"""One file an engine; each is found by name through edgekit.registry and passes tests/runtimes/contract.py.

Their options are here too: `from edgekit.runtimes import OpenVinoOptions`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    if name not in _OPTIONS:
        raise AttributeError(f"edgekit.runtimes has no '{name}'")
    return getattr(importlib.import_module(f"edgekit.runtimes.{_OPTIONS[name]}"), name)


__all__ = ["LiteRtOptions", "OnnxRuntimeOptions", "OpenVinoOptions", "TorchOptions"]
