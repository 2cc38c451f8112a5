"""Classifier: what is on a picture, as labels with probabilities."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.task import Task
from edgekit.tensors import Array


class ClassifySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels` in the order of the logits, their numbers where there are none; `height` and `width` of the image
    that the network takes.
    """

    height: Annotated[int, Meta(ge=1, le=4096)]
    width: Annotated[int, Meta(ge=1, le=4096)]
    labels: tuple[str, ...] = ()


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
        self._check()
        count = self.bundle.component().outputs[0].shape[-1]
        self.labels: tuple[str, ...] = self.settings.labels or tuple(map(str, range(int(count))))
        self._session()  # errors come here, not with the first image

    def __call__(self, image: UInt8, top_k: int = 5) -> list[Label]:
        """The `top_k` likeliest labels.

        Raises:
            ImageError: not an image array. InputError: top_k is no whole number from 1.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int | np.integer) or top_k < 1:
            raise InputError(f"got top_k={top_k!r}: expected a whole number, 1 or more")
        logits = self.logits(image)
        exponentials = np.exp(logits - logits.max())
        probabilities = exponentials / exponentials.sum()
        order = np.argsort(-probabilities, kind="stable")[:top_k]
        return [Label(self.labels[i], float(probabilities[i])) for i in order]

    def logits(self, image: UInt8) -> npt.NDArray[np.float32]:
        """The network's own output for one image: float32, one value a label.

        Raises:
            EngineError: the model gives NaN or infinity.
        """
        session, inputs = self.example(image)
        result: npt.NDArray[np.float32] = session.run(inputs)[session.outputs[0].name][0]
        self._require_finite(result, session.outputs[0].name)
        return result

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The session, and the image as it gets it."""
        session = self._session()
        source = session.inputs[0]
        return session, {source.name: images.to_tensor(self.prepared(image), source)}

    def prepared(self, image: UInt8) -> UInt8:
        """The image as the network sees it: its middle, at the network's size."""
        return images.middle(images.as_uint8(image)[:, :, :3], self.settings.height, self.settings.width)

    def _check(self) -> None:
        """Refuse settings that do not fit the graph.

        Raises:
            ManifestError.
        """
        component, settings = self.bundle.component(), self.settings
        image, logits = component.inputs[0], component.outputs[0]
        shape, expected = image.in_layout("NCHW").shape, (1, 3, settings.height, settings.width)
        if len(shape) != 4 or any(
            isinstance(size, int) and size != given for size, given in zip(shape, expected, strict=True)
        ):
            raise ManifestError(
                f"{self.bundle.name}: the settings of task 'classify' have images of {settings.height} × "
                f"{settings.width}, the graph takes {image}: export the bundle again"
            )
        classes = logits.shape[-1] if len(logits.shape) == 2 else None
        if not isinstance(classes, int) or len(settings.labels) not in (0, classes):
            raise ManifestError(
                f"{self.bundle.name}: the settings of task 'classify' have {len(settings.labels)} labels, "
                f"the graph gives {logits}: export the bundle again"
            )
