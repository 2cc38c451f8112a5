"""edgekit: bring trained PyTorch models to small machines, and run them there through one small API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.opening import devices, open_session
from edgekit.tasks import load

if TYPE_CHECKING:
    from edgekit.benchmarks import measure, tune
    from edgekit.exporters import export
    from edgekit.quantization import quantize

__version__ = "0.1.0"
__all__ = ["Bundle", "EdgekitError", "devices", "export", "load", "measure", "open_session", "quantize", "tune"]

_HOST = {
    "export": "edgekit.exporters",
    "quantize": "edgekit.quantization",
    "measure": "edgekit.benchmarks",
    "tune": "edgekit.benchmarks",
}


def __getattr__(name: str) -> Any:
    """The host's verbs load on first use: a device never imports what they need."""
    if name in _HOST:
        return registry.load(_HOST[name], name, f"edgekit.{name}")
    raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
