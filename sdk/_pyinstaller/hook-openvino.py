"""PyInstaller's hook for OpenVINO: the libraries that it opens by name at run time. All of them, unless a spec file says

Analysis(…, hooksconfig={"openvino": {"devices": ["cpu"], "formats": ["ir", "onnx"]}})
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PyInstaller.utils.hooks import get_hook_config

# bridges to frameworks, which a program that uses them imports itself
excludedimports = ["torch", "torchvision", "tensorflow", "jax", "paddle", "onnx", "nncf", "transformers", "compressed_tensors", "optimum", "PIL"]  # fmt: skip


def hook(hook_api: Any) -> None:
    """Add the chosen plugins and readers, and what they all need."""
    devices = get_hook_config(hook_api, "openvino", "devices")
    formats = get_hook_config(hook_api, "openvino", "formats")
    spec = find_spec("openvino")
    assert spec is not None and spec.submodule_search_locations  # the program imports it
    libraries = Path(spec.submodule_search_locations[0], "libs")
    found = [path for path in libraries.iterdir() if ".so" in path.name or path.suffix in (".dll", ".dylib")]
    left_out = {path for path in found if _unwanted(path, devices, formats)}
    hook_api.add_binaries([(str(path), "openvino/libs") for path in found if path not in left_out])
    if devices is None or "gpu" in devices:  # the kernels' tuned settings
        hook_api.add_datas([(str(path), "openvino/libs") for path in libraries.glob("cache.json")])


def _unwanted(path: Path, devices: list[str] | None, formats: list[str] | None) -> bool:
    name = path.name.split(".")[0].removeprefix("lib").removeprefix("openvino_")
    if name.startswith("intel_"):
        return devices is not None and name.removeprefix("intel_").removesuffix("_plugin") not in devices
    if name.endswith("_frontend"):
        return formats is not None and name.removesuffix("_frontend") not in formats
    return False
