"""ONNX Runtime's execution providers as facts: where each runs, what brings it, and what makes its arithmetic exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVERYWHERE = ("Linux", "Windows", "Darwin")
X86 = ("x86_64", "AMD64")
FLOATS = ("fp32", "fp16")
WEIGHTS = ("int8-dynamic", "int8-weights", "int4-weights")
OPENVINO_F32 = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}, "GPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
OPENVINO_F16 = OPENVINO_F32.replace("f32", "f16")


@dataclass(frozen=True, eq=False)
class Provider:
    """One provider × device.

    `name` is ONNX Runtime's, `option` what OnnxRuntimeOptions calls it. `plugin` is the module of a package that brings
    it as a library beside any onnxruntime wheel. `settings` always go to the provider; `exact` and `half` where float
    operators compute in 32 or 16 bits, and one that is None it cannot do. `index` is the setting that picks "gpu:1",
    and its form. `simulated_on` names the processors where the package holds a simulator of the device.
    """

    name: str
    option: str
    device: str
    title: str
    precisions: tuple[str, ...]
    install: str
    systems: tuple[str, ...] = EVERYWHERE
    plugin: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    exact: Mapping[str, str] | None = field(default_factory=dict)
    half: Mapping[str, str] | None = None
    index: tuple[str, str] | None = None
    needs: str = ""  # of the machine, beside the package
    library: str = ""  # of the wheel, which loads those of the vendor in its turn, if it can
    preload: str = ""  # the engine's function that finds the vendor's libraries in packages
    fixed_sizes: bool = False
    simulated_on: tuple[str, ...] = ()
    simulator: Mapping[str, str] = field(default_factory=dict)
    compiles: bool = False  # the whole network, ahead of time if asked
    vulkan: bool = False  # whether it draws on Vulkan's adapters, where the system has no other interface


CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]', in place of onnxruntime"
OPENVINO = "pip install onnxruntime-ep-openvino"

# Of several for one device the first that works is taken, unless the options name another.
PROVIDERS = (
    Provider(
        "CPUExecutionProvider",
        "cpu",
        "cpu",
        "",
        ("fp32", "int8", *WEIGHTS),
        "pip install 'edgekit[onnx]'",
    ),
    Provider(
        "OpenVINOExecutionProvider",
        "openvino",
        "cpu",
        "OpenVINO inside ONNX Runtime",
        ("fp32", "int8"),
        OPENVINO,
        ("Linux", "Windows"),
        plugin="onnxruntime_ep_openvino",
        exact={"load_config": OPENVINO_F32},
        half={"load_config": OPENVINO_F16},
        compiles=True,
    ),
    Provider(
        "CUDAExecutionProvider",
        "cuda",
        "gpu",
        "NVIDIA CUDA",
        FLOATS,
        CUDA,
        ("Linux", "Windows"),
        exact={"use_tf32": "0"},
        index=("device_id", "{}"),
        needs="an NVIDIA GPU with its driver, CUDA and cuDNN of the versions the wheel was built with",
        library="onnxruntime_providers_cuda",
        preload="preload_dlls",
    ),
    Provider(
        "TensorrtExecutionProvider",
        "tensorrt",
        "gpu",
        "NVIDIA TensorRT",
        (*FLOATS, "int8"),
        f"{CUDA}; pip install tensorrt",
        ("Linux", "Windows"),
        half={"trt_fp16_enable": "1"},
        compiles=True,
        index=("device_id", "{}"),
        needs="an NVIDIA GPU with its driver, CUDA, cuDNN and TensorRT",
        library="onnxruntime_providers_tensorrt",
        preload="preload_dlls",
    ),
    Provider(
        "MIGraphXExecutionProvider",
        "migraphx",
        "gpu",
        "AMD MIGraphX",
        FLOATS,
        "pip install onnxruntime-migraphx, in place of onnxruntime",
        ("Linux",),
        half={"migraphx_fp16_enable": "1"},
        index=("device_id", "{}"),
        needs="an AMD GPU with ROCm and MIGraphX",
        library="onnxruntime_providers_migraphx",
    ),
    Provider(
        "DmlExecutionProvider",
        "directml",
        "gpu",
        "DirectML",
        FLOATS,
        "pip install onnxruntime-directml, in place of onnxruntime",
        ("Windows",),
        index=("device_id", "{}"),
        needs="a GPU with a Direct3D 12 driver",
    ),
    Provider(
        "CoreMLExecutionProvider",
        "coreml",
        "gpu",
        "Apple Core ML on the GPU",
        FLOATS,
        "pip install 'edgekit[onnx]'",
        ("Darwin",),
        settings={"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},
        half={"AllowLowPrecisionAccumulationOnGPU": "1"},
    ),
    Provider(
        "OpenVINOExecutionProvider",
        "openvino",
        "gpu",
        "OpenVINO inside ONNX Runtime",
        (*FLOATS, "int8"),
        OPENVINO,
        ("Linux", "Windows"),
        plugin="onnxruntime_ep_openvino",
        exact={"load_config": OPENVINO_F32},
        half={"load_config": OPENVINO_F16},
        compiles=True,
        needs="an Intel GPU with its compute runtime",
    ),
    Provider(
        "WebGpuExecutionProvider",
        "webgpu",
        "gpu",
        "WebGPU",
        FLOATS,
        "pip install onnxruntime-ep-webgpu, or onnxruntime-webgpu in place of onnxruntime",
        plugin="onnxruntime_ep_webgpu",
        needs="a GPU with a driver for Vulkan, Direct3D 12 or Metal",
        vulkan=True,
    ),
    Provider(
        "QNNExecutionProvider",
        "qnn",
        "npu",
        "Qualcomm Hexagon (HTP)",
        ("int8", "fp16"),
        "pip install onnxruntime-qnn",
        ("Linux", "Windows"),
        plugin="onnxruntime_qnn",
        settings={"backend_type": "htp"},
        exact=None,
        half={},
        needs="a Snapdragon with a Hexagon NPU",
        fixed_sizes=True,
        compiles=True,
        simulated_on=X86,
        simulator={"soc_model": "57", "htp_arch": "75"},  # Snapdragon 8 Gen 3
    ),
    Provider(
        "CoreMLExecutionProvider",
        "coreml",
        "npu",
        "Apple Neural Engine",
        ("fp16",),
        "pip install 'edgekit[onnx]'",
        ("Darwin",),
        settings={"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndNeuralEngine"},
        exact=None,
        half={},
        fixed_sizes=True,
    ),
    Provider(
        "OpenVINOExecutionProvider",
        "openvino",
        "npu",
        "OpenVINO inside ONNX Runtime",
        ("fp16", "int8"),
        OPENVINO,
        ("Linux", "Windows"),
        plugin="onnxruntime_ep_openvino",
        exact=None,
        half={},
        needs="an Intel NPU with its driver",
        fixed_sizes=True,
        compiles=True,
    ),
    Provider(
        "VitisAIExecutionProvider",
        "vitisai",
        "npu",
        "AMD Ryzen AI",
        ("int8",),
        "AMD's Ryzen AI Software, which brings an onnxruntime of its own",
        ("Windows",),
        exact=None,
        half={},
        needs="a Ryzen processor with an NPU",
        fixed_sizes=True,
        compiles=True,
    ),
)


def serving(device: str, option: str = "") -> tuple[Provider, ...]:
    """The providers of a kind of device ("cpu", "gpu", "npu"), best first, or the one that the options name."""
    return tuple(p for p in PROVIDERS if p.device == device and option in ("", p.option))


def names() -> tuple[str, ...]:
    """What OnnxRuntimeOptions may name."""
    return tuple(dict.fromkeys(p.option for p in PROVIDERS))
