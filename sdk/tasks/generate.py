"""ImageGenerator: new images of a class, drawn from a seed or from latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.tasks.drawing import (
    Float32,
    Label,
    between,
    chosen,
    counted,
    drawn,
    latents_of,
    one_hot_of,
    picture,
    way,
)
from edgekit.tasks.task import Task
from edgekit.tensors import Array


class GenerateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`latent`: length of the vector an image is made from; `labels` in the order of the one-hot input, none where
    the network has no such input.
    """

    latent: Annotated[int, Meta(ge=1, le=65536)]
    labels: tuple[str, ...] = ()


class ImageGenerator(Task):
    """Call it, or `.sample`, to draw images: a list of uint8 height × width × RGB. Thread-safe.

    An image is decided by its label and its latent, a vector of N(0, 1) numbers that the seed draws. It is the
    same on one engine bit for bit. Of digits-gan, engines agree to 1 of 255 levels in fp32, and in int8 to
    0.1 levels on average and 25 at single pixels.
    """

    name = "generate"
    Settings = GenerateSettings
    draws = "one image"

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        self._check()
        self._session()  # errors come here, not with the first image

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; none where the network draws whatever it was trained on."""
        names: tuple[str, ...] = self.settings.labels
        return names

    def __call__(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
    ) -> list[UInt8]:
        """As `sample`."""
        return self.sample(n, labels, seed, steps)

    def sample(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        latents: Array | None = None,
    ) -> list[UInt8]:
        """Draw `n` images.

        Args:
            n: how many; None takes as many as `labels` or `latents` are given, else one.
            labels: None takes the classes in turn; or one label for all, or one for each image, by index or name.
            seed: None draws fresh numbers; the first images of a seed are the same whatever `n` is.
            steps: there for scripts that also use samplers of many steps; a generator makes its images in one.
            latents: float n × latent, in the place of a seed.

        Raises:
            InputError: n beyond 1 to 10,000, an unknown label, another number of labels than n, steps above 1,
                or latents of another shape. EngineError: the model gives NaN.
        """
        return list(self.stream(n, labels, seed, steps, latents=latents))

    def stream(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        latents: Array | None = None,
    ) -> Iterator[UInt8]:
        """The images of `sample` one by one, as they are made; arguments are checked at once."""
        if steps not in (None, 1):
            raise InputError(f"got steps={steps}: {self.bundle.name} makes an image in one step; leave steps out")
        if latents is not None and seed is not None:
            raise InputError(f"got seed={seed} and latents: give one of them, as a seed only draws latents")
        n = counted(n, labels, latents)
        classes = self._classes(labels, n)
        codes = drawn(n, self.settings.latent, seed) if latents is None else self._given(latents, n)
        return (self._image(code, self._one_hot(c)) for code, c in zip(codes, classes, strict=True))

    def interpolate(
        self, start: int | Array, end: int | Array, n: int = 8, label: Label | tuple[Label, Label] | None = None
    ) -> list[UInt8]:
        """`n` images on the way from one latent to another, along the sphere that such vectors lie near.

        Args:
            start, end: each a seed, whose first latent is taken, or a latent: float, `settings.latent` numbers.
            n: how many, both ends included; at least 2.
            label: a class, or two to go from the one to the other; None is the first there is.

        Raises:
            InputError: n beyond 2 to 10,000, an unknown label, a latent of another shape.
        """
        places = way(n)
        if label is None and self.labels:
            label = 0
        pair = label if isinstance(label, tuple) or label is None else (label, label)
        hot = [self._one_hot(c) for c in self._classes(pair, 2)]
        first, last = (
            drawn(1, self.settings.latent, e)[0] if isinstance(e, int | np.integer) else self._given(e, 1)[0]
            for e in (start, end)
        )
        return [self._image(between(first, last, at), (1 - at) * hot[0] + at * hot[1]) for at in places]

    def once(self, image: UInt8) -> UInt8:
        """One image of seed 0 and the first class, as a benchmark times it."""
        return self.sample(1, 0 if self.labels else None, seed=0)[0]

    def _image(self, latent: Float32, one_hot: Float32) -> UInt8:
        target = self._session().outputs[0]
        return picture(self._answer(self._inputs(latent, one_hot))[target.name], target)

    def _inputs(self, latent: Float32, one_hot: Float32) -> dict[str, Array]:
        shaped = latent.reshape(self._latent_shape())
        return {"latent": shaped, "label": one_hot.astype(np.float32)} if self.labels else {"latent": shaped}

    def _latent_shape(self) -> tuple[int, ...]:
        """1 × latent, or 1 × latent × 1 × 1 where the network begins with a transposed convolution."""
        shape = next(spec.shape for spec in self._session().inputs if spec.name == "latent")
        return tuple(int(size) for size in shape)

    def _classes(self, labels: Label | Sequence[Label] | None, n: int) -> list[int]:
        """As `chosen`; a network without classes takes no labels.

        Raises:
            InputError.
        """
        if self.labels:
            return chosen(labels, n, self.labels)
        if labels is not None:
            raise InputError(f"got labels={labels!r}: {self.bundle.name} knows no classes; leave labels out")
        return [0] * n

    def _one_hot(self, index: int) -> Float32:
        return one_hot_of(index, len(self.labels)) if self.labels else np.zeros((1, 0), np.float32)

    def _check(self) -> None:
        """Refuse settings that do not fit the graph.

        Raises:
            ManifestError.
        """
        wanted = {"latent": (1, self.settings.latent)}
        if self.labels:
            wanted["label"] = (1, len(self.labels))
        given = {
            spec.name: spec.shape[:2] if spec.shape[2:] == (1, 1) else spec.shape
            for spec in self.bundle.component().inputs
        }
        if given != wanted:
            raise ManifestError(
                f"{self.bundle.name}: the settings of task 'generate' need inputs of the shapes {wanted}, "
                f"the graph has {given}: export the bundle again"
            )

    def _given(self, latents: Array, n: int) -> Float32:
        return latents_of(latents, n, self.settings.latent)
