"""Classifier: what is on a picture, as labels with probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, InputError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.task import Task
from edgekit.tensors import Array


class ClassifySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels` in the order of the logits; `height` and `width` of the image that the network takes."""

    labels: tuple[str, ...]
    height: int
    width: int


class Label(NamedTuple):
    """One answer: its name, and its probability (0…1) by the network's own softmax."""

    name: str
    probability: float


class Classifier(Task):
    """Call it with an image: uint8 height × width × (RGB, RGBA or grey) → the likeliest labels, best first.

    The middle of the image, as large as the network's aspect allows, is shrunk with an antialiased
    bicubic kernel to the network's size. Thread-safe.
    """

    name = "classify"
    Settings = ClassifySettings

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        self._session()  # errors come here, not with the first image

    def __call__(self, image: UInt8, top_k: int = 5) -> list[Label]:
        """The `top_k` likeliest labels.

        Raises:
            ImageError: not an image array. InputError: top_k below 1.
        """
        if top_k < 1:
            raise InputError(f"got top_k={top_k}: expected 1 or more")
        logits = self.logits(image)
        exponentials = np.exp(logits - logits.max())
        probabilities = exponentials / exponentials.sum()
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Label(self.settings.labels[i], float(probabilities[i])) for i in order]

    def logits(self, image: UInt8) -> npt.NDArray[np.float32]:
        """The network's own output for one image: float32, one value a label.

        Raises:
            EngineError: the model gives NaN.
        """
        session, inputs = self.example(image)
        result: npt.NDArray[np.float32] = session.run(inputs)[session.outputs[0].name][0]
        if np.isnan(result).any():
            raise EngineError(
                f"{self.bundle.name} gave NaN: try precision='fp32', or `edgekit verify {self.bundle.name}`"
            )
        return result

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The session, and the image as it gets it."""
        session = self._session()
        source = session.inputs[0]
        return session, {source.name: images.to_tensor(self.prepared(image), source)}

    def prepared(self, image: UInt8) -> UInt8:
        """The image as the network sees it: its middle, at the network's size."""
        image = images.as_uint8(image)[:, :, :3]
        height, width = self.settings.height, self.settings.width
        factor = min(image.shape[0] / height, image.shape[1] / width)
        rows, columns = max(1, round(height * factor)), max(1, round(width * factor))
        top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
        middle = image[top : top + rows, left : left + columns]
        if middle.shape[:2] == (height, width):
            return np.ascontiguousarray(middle)
        shrunk: UInt8 = images.resize_bicubic(middle, height, width)
        return shrunk
