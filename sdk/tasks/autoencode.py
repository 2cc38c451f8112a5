"""Autoencoder: an image to a short code and back, new images from codes, and how strange an image is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.drawing import Float32, Label, chosen, counted, drawn, latents_of, picture, way
from edgekit.tasks.task import Task
from edgekit.tensors import Array

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
FINITE = Meta(ge=-1e6, le=1e6)


class Gaussian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the codes of a class lie: their mean, and the lower triangle of the Cholesky factor, row by row."""

    mean: tuple[Annotated[float, FINITE], ...]
    cholesky: tuple[Annotated[float, FINITE], ...]


class AutoencodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`latent`: length of a code; `height` and `width` of the image that the network takes; `labels` of the
    `gaussians` that codes are drawn from, N(0, I) where there are none; `noise`: mean squared error of a
    reconstruction of familiar images, in 0…1.
    """

    latent: Annotated[int, Meta(ge=1, le=1024)]
    height: Annotated[int, Meta(ge=1, le=4096)]
    width: Annotated[int, Meta(ge=1, le=4096)]
    noise: Annotated[float, Meta(gt=0, le=1)] = 0.01
    labels: tuple[str, ...] = ()
    gaussians: tuple[Gaussian, ...] = ()


class Autoencoder(Task):
    """Call it with an image, uint8 height × width × (RGB, RGBA or grey) → its reconstruction, uint8 RGB.

    The middle of the image is shrunk to the network's size, and made grey where the network takes grey.
    Components: `encoder` and `decoder`. Seeded samples are the same on one engine bit for bit. Of digits-vae,
    engines agree to 1 of 255 levels in fp32, and in int8 to 0.1 levels on average and 25 at single pixels.
    Thread-safe.
    """

    name = "autoencode"
    Settings = AutoencodeSettings
    components = ("encoder", "decoder")

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        self._check()
        self._means, self._factors = self._gaussians()
        self._inverses = np.linalg.inv(self._factors)
        for component in self.components:
            self._session(component=component)  # errors come here, not with the first image

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes that `sample` draws; none where it draws from N(0, I)."""
        names: tuple[str, ...] = self.settings.labels
        return names

    def __call__(self, image: UInt8) -> UInt8:
        """As `reconstruct`."""
        return self.reconstruct(image)

    def encode(self, image: UInt8) -> Float32:
        """The code of an image: float32, `settings.latent` numbers, the mean of the encoder's distribution.

        Raises:
            ImageError: not an image array. EngineError: the model gives NaN.
        """
        session, inputs = self.example(image)
        code: Float32 = self._answer(inputs, "encoder")[session.outputs[0].name][0]
        return code

    def decode(self, latent: Array) -> UInt8:
        """The image of a code: uint8 height × width × RGB.

        Raises:
            InputError: not `settings.latent` finite numbers. EngineError: the model gives NaN.
        """
        session = self._session(component="decoder")
        tensor = self._decoded(latents_of(latent, 1, self.settings.latent))
        return picture(tensor, session.outputs[0])

    def reconstruct(self, image: UInt8) -> UInt8:
        """What the code keeps of an image, at the network's size: uint8 height × width × RGB."""
        return self.decode(self.encode(image))

    def sample(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        temperature: float = 0.8,
    ) -> list[UInt8]:
        """Draw `n` new images, each from the Gaussian of its class.

        Args:
            n: how many; None takes as many as there are labels, else one.
            labels: None takes the classes in turn, where there are any; or one label for all, or one for each image,
                by index or name.
            seed: None draws fresh numbers; the first images of a seed are the same whatever `n` is.
            steps: there for scripts that also use samplers of many steps; a decoder makes its images in one.
            temperature: scale of the deviations from the mean; 0 gives the mean of the class.

        Raises:
            InputError: n beyond 1 to 10,000, an unknown label, another number of labels than n, steps above 1,
                a temperature beyond 0 to 10. EngineError: the model gives NaN.
        """
        return list(self.stream(n, labels, seed, steps, temperature))

    def stream(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        temperature: float = 0.8,
    ) -> Iterator[UInt8]:
        """The images of `sample` one by one, as they are made; arguments are checked at once."""
        if steps not in (None, 1):
            raise InputError(f"got steps={steps}: {self.bundle.name} makes an image in one step; leave steps out")
        number = isinstance(temperature, int | float | np.integer | np.floating) and not isinstance(temperature, bool)
        if not number or not 0.0 <= temperature <= 10.0:  # also refuses NaN
            raise InputError(f"got temperature={temperature!r}: expected 0 (the mean of the class) to 10; 0.8 is usual")
        n = counted(n, labels)
        if labels is not None and not self.labels:
            raise InputError(f"got labels={labels!r}: {self.bundle.name} knows no classes; leave labels out")
        classes, codes = chosen(labels, n, self.labels or ("",)), drawn(n, self.settings.latent, seed)
        pairs = zip(classes, codes, strict=True)
        return (self.decode(self._means[c] + temperature * self._factors[c] @ z) for c, z in pairs)

    def interpolate(self, image_a: UInt8, image_b: UInt8, n: int = 8) -> list[UInt8]:
        """`n` images on the straight way from the code of one image to that of another, both ends included.

        Raises:
            InputError: n beyond 2 to 10,000. ImageError: not an image array.
        """
        places = way(n)
        start, end = self.encode(image_a), self.encode(image_b)
        return [self.decode((1 - at) * start + at * end) for at in places]

    def anomaly_score(self, image: UInt8) -> float:
        """How strange an image is to the network, higher is stranger: ‖x − x̂‖² / 2σ² + ½ min_c d_c².

        The first term is the squared error of the reconstruction over twice the `noise` σ² of familiar
        images, the second the squared Mahalanobis distance of the code to the nearest class: together the
        negative logarithm of the likelihood of pixels and code, without its constants. Familiar images
        score around (pixels + latent) / 2.
        """
        session, inputs = self.example(image)
        code: Float32 = self._answer(inputs, "encoder")[session.outputs[0].name][0]
        again = self._decoded(code[None])
        error = again.astype(np.float64).ravel() - inputs[session.inputs[0].name].ravel()
        distances = np.einsum("cij,cj->ci", self._inverses, code - self._means)
        return float(error @ error / (2 * self.settings.noise) + 0.5 * (distances**2).sum(axis=1).min())

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The encoder's session, and the image as it gets it."""
        session = self._session(component="encoder")
        source = session.inputs[0]
        return session, {source.name: images.to_tensor(self.prepared(image), source)}

    def prepared(self, image: UInt8) -> UInt8:
        """The image as the network sees it: its middle at the network's size, height × width × (1 or 3)."""
        image = images.middle(images.as_uint8(image)[:, :, :3], self.settings.height, self.settings.width)
        source = self.bundle.component("encoder").inputs[0]
        if source.in_layout("NCHW").shape[1] == 3:
            return image
        return np.asarray(np.rint(image @ LUMA), np.uint8)[:, :, None]

    def info(self) -> dict[str, Any]:
        """Name, task, settings without the numbers of the Gaussians, and what runs where and why."""
        return {**super().info(), "gaussians": f"{len(self._means)} of {self.settings.latent} dimensions"}

    def _decoded(self, latent: Float32) -> Array:
        session = self._session(component="decoder")
        return self._answer({session.inputs[0].name: latent}, "decoder")[session.outputs[0].name]

    def _check(self) -> None:
        """Refuse settings that do not fit the graphs.

        Raises:
            ManifestError.
        """
        encoder, decoder = (self.bundle.component(name) for name in self.components)
        code, size = (1, self.settings.latent), (self.settings.height, self.settings.width)
        image, again = (s.in_layout("NCHW").shape for s in (encoder.inputs[0], decoder.outputs[0]))
        if image not in ((1, 1, *size), (1, 3, *size)) or again != image:
            raise ManifestError(
                f"{self.bundle.name}: the settings of task 'autoencode' have images of {size[0]} × {size[1]}, the encoder "
                f"takes {encoder.inputs[0]} and the decoder gives {decoder.outputs[0]}: export the bundle again"
            )
        if not code == encoder.outputs[0].shape == decoder.inputs[0].shape:
            raise ManifestError(
                f"{self.bundle.name}: the settings of task 'autoencode' have codes of {code[1]} numbers, the encoder gives "
                f"{encoder.outputs[0]} and the decoder takes {decoder.inputs[0]}: export the bundle again"
            )

    def _gaussians(self) -> tuple[Float32, Float32]:
        """Means, classes × latent, and lower Cholesky factors, classes × latent × latent, of the settings.

        Raises:
            ManifestError: their number or lengths are not those of the labels and the latent.
        """
        given, size = self.settings.gaussians, self.settings.latent
        if not given and not self.labels:
            return np.zeros((1, size), np.float32), np.eye(size, dtype=np.float32)[None]
        triangle = size * (size + 1) // 2
        lengths = {(len(g.mean), len(g.cholesky)) for g in given}
        if len(given) != len(self.labels) or lengths != {(size, triangle)}:
            raise ManifestError(
                f"{self.bundle.name}: the settings have {len(given)} Gaussians of (mean, cholesky) {sorted(lengths)}: "
                f"expected {len(self.labels)} of ({size}, {triangle}); export the bundle again"
            )
        factors = np.zeros((len(given), size, size), np.float32)
        factors[:, *np.tril_indices(size)] = [g.cholesky for g in given]
        if not (np.diagonal(factors, axis1=1, axis2=2) > 0).all():
            raise ManifestError(f"{self.bundle.name}: a Cholesky factor's diagonal is not positive: export it again")
        return np.array([g.mean for g in given], np.float32), factors
