"""Judge: a classifier that looks at made-up pictures, and what it sees in them before it names a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8
from edgekit.tasks import load
from edgekit.tasks.classify import Classifier

LAYERS = ("Gemm", "MatMul", "Conv")
BY_CHANNELS = {1: "digits-cnn", 3: "cifar-cnn"}  # classifiers that ship


def judge_of(bundle: Bundle) -> str:
    """The classifier that ships for the pictures that a bundle makes: of the same classes, else of as many channels.

    Raises:
        InputError: its pictures are like those of none.
    """
    labels = set(_labels(bundle))
    for name in BY_CHANNELS.values():
        if labels and labels <= set(_labels(Bundle.open(name))):
            return name
    channels = _channels(bundle)
    if channels not in BY_CHANNELS:
        raise InputError(
            f"no classifier that ships knows what {bundle.name} draws: name a bundle of one (frechet@PATH)"
        )
    return BY_CHANNELS[channels]


class Judge:
    """The features of pictures: what goes into a classifier's last layer, averaged over the image where it has one.

    It runs as ONNX in fp32; a context manager.

    Raises:
        InputError: no classifier, without an fp32 .onnx file, or without a layer before the last.
    """

    def __init__(self, source: str | Bundle) -> None:
        bundle = Bundle.open(source) if isinstance(source, str) else source
        task = load(bundle, "onnxruntime", precision="fp32")
        if not isinstance(task, Classifier):
            task.close()
            raise InputError(f"{bundle.name} judges nothing: expected a bundle of task 'classify'")
        self.name, self._task, self._session = bundle.name, task, _before_last(bundle)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def features(self, images: Sequence[UInt8]) -> npt.NDArray[np.float32]:
        """count × size, of uint8 images height × width × (1 or 3)."""
        (given,), (wanted,) = self._session.get_inputs(), self._session.get_outputs()
        rows = []
        for image in images:
            _, arrays = self._task.example(image)
            (seen,) = self._session.run([wanted.name], {given.name: next(iter(arrays.values()))})
            rows.append(seen.mean(axis=(2, 3)).reshape(-1) if seen.ndim == 4 else seen.reshape(-1))
        return np.stack(rows).astype(np.float32)


def _before_last(bundle: Bundle) -> Any:
    """A session that gives what the classifier's last layer is given."""
    import onnx
    import onnxruntime

    variant = next((v for v in bundle.component().variants if (v.format, v.precision) == ("onnx", "fp32")), None)
    if variant is None:
        raise InputError(f"{bundle.name} has no fp32 .onnx file to judge with: export it to onnx")
    model = onnx.load(bundle.model_path(variant))
    held = {tensor.name for tensor in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in LAYERS and any(name in held for name in n.input)]
    if len(layers) < 2:
        raise InputError(f"{bundle.name} has {len(layers)} layers: there are no features before its last")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(layers[-1].input[0]))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _labels(bundle: Bundle) -> tuple[str, ...]:
    task = bundle.manifest.task
    return tuple(task.settings.get("labels", ())) if task else ()


def _channels(bundle: Bundle) -> int:
    """Channels of the pictures: of the last image output, 0 where there is none."""
    outputs = [s.in_layout("NCHW") for c in bundle.manifest.components.values() for s in c.outputs if s.layout]
    channels = outputs[-1].shape[1] if outputs else 0
    return channels if isinstance(channels, int) else 0
