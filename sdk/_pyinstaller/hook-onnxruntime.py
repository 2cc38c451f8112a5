"""PyInstaller's hook for ONNX Runtime: its own libraries, without the PyTorch that a debug print of it asks for."""

from __future__ import annotations

from PyInstaller.utils.hooks import collect_dynamic_libs

binaries = collect_dynamic_libs("onnxruntime")
excludedimports = ["onnxruntime.transformers.machine_info"]  # 1.4 GB of PyTorch, where that is installed
