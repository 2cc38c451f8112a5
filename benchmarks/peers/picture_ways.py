"""Ways from one picture to another, uint8 height × width × RGB both: edgekit's, and those that its users would take else.

A plain file, which a Python without edgekit can run: each way imports what it stands on, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[Any], Any]


def edgekit_(bundle: str, runtime: str = "auto", precision: str = "auto", threads: int | None = None) -> Call:
    """`edgekit.load`, nothing more."""
    import edgekit

    task: Call = edgekit.load(bundle, runtime, precision=precision, threads=threads)
    return task


def opencv(interpolation: str, scale: int) -> Call:
    """cv2.resize: "cubic" or "lanczos4"."""
    import cv2

    how = {"cubic": cv2.INTER_CUBIC, "lanczos4": cv2.INTER_LANCZOS4}[interpolation]
    return lambda image: cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def pytorch(family: str, settings: dict[str, Any], path: str, threads: int, compiled: bool = False) -> Call:
    """A bundle's own network in PyTorch: float32, channels last, which is the faster layout here."""
    import torch

    from edgekit.runtimes.torch_ import load_module

    torch.set_num_threads(threads)
    net = load_module(family, settings, path).to(memory_format=torch.channels_last)
    run = torch.compile(net) if compiled else net

    def call(image: Any) -> Any:
        with torch.inference_mode():
            given = torch.from_numpy(image).permute(2, 0, 1)[None].float().div_(255)
            made = run(given.contiguous(memory_format=torch.channels_last))
            result: Any = made[0].mul(255).round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
        return result

    return call


def onnxruntime_(path: str, threads: int) -> Call:
    """An .onnx file in ONNX Runtime as its documentation has it, with NumPy before and after."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: after(session.run(None, {name: before(image)})[0])


def openvino_(path: str, threads: int) -> Call:
    """A file in OpenVINO as its documentation has it, in its own default precision, with NumPy before and after."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: after(compiled(before(image))[0])


def ncnn_(param: str, model: str, threads: int, half: bool) -> Call:
    """A network that pnnx converted, from uint8 height × width × RGB to the same; `half`: its own default, bf16 or fp16."""
    import ncnn  # type: ignore[import-not-found]

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_storage = net.opt.use_fp16_packed = net.opt.use_fp16_arithmetic = half
    net.opt.use_bf16_storage = half
    net.load_param(param)
    net.load_model(model)

    def call(image: Any) -> Any:
        height, width = image.shape[:2]
        given = ncnn.Mat.from_pixels(np.ascontiguousarray(image), ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        given.substract_mean_normalize([], [1 / 255] * 3)
        extractor = net.create_extractor()
        extractor.input("in0", given)
        _, made = extractor.extract("out0")
        tensor = np.array(made).transpose(1, 2, 0)
        return np.ascontiguousarray((tensor * 255).round().clip(0, 255).astype(np.uint8))

    return call


def before(image: Any) -> Any:
    """1 × 3 × height × width, float32 in 0…1."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)


def after(tensor: Any) -> Any:
    result: Any = np.ascontiguousarray((tensor[0].transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8))
    return result
