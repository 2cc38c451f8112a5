"""DiffusionSampler: images of a class or a prompt, made from noise in a few steps that can be watched and stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.schedulers import Float
from edgekit.session import Session
from edgekit.tasks.conditions import Classes, Condition, Prompts
from edgekit.tasks.drawing import Label, counted
from edgekit.tasks.guided import Guided
from edgekit.tasks.latents import Codes, Pixels, Shape, noises
from edgekit.tasks.sampling import DISTILLED, Asked, DiffuseSettings, Plan, plans
from edgekit.tasks.task import Task
from edgekit.tensors import Array
from edgekit.verify import answers


class Step(NamedTuple):
    """What `stream` gives after a step: its number from 1, how many there are, and the image as it is expected."""

    number: int
    total: int
    image: UInt8


@dataclass(frozen=True)
class Drawing:
    """One image to be made: how, from which noise, of what, and from which image where from one."""

    plan: Plan
    noise: Float
    subject: Any
    random: np.random.Generator
    begun: Float | None


class DiffusionSampler(Task):
    """Call it, or `.sample`, to draw images: a list of uint8 height × width × RGB. Thread-safe.

    Schedulers of the zoo's networks:
        "dpm++2m": DPM-Solver++ of second order, deterministic; what is taken where none is named.
        "ddim": deterministic at eta 0; with eta up to 1, noise is added at every step.
        "few-steps": DDIM with the distilled component, for bundles that have one: `few_steps` steps or fewer,
            one run of the network each; guidance is baked in.
        "lcm": consistency sampling, with fresh noise at every step; with the distilled component where there is one.

    Networks of diffusers take their own where none is named, and any of `edgekit.solvers.SOLVERS`.

    Guidance g runs the network twice a step, with and without the label or prompt, v₀ + g·(v − v₀); 1 runs it once,
    0 samples without it (Ho & Salimans 2022). An image is decided by its label or prompts and its latent, the noise
    that the seed draws: the same on one engine bit for bit; engines agree in fp32 to 1 of 255 levels where no noise
    is added.

    The bundle's `model` takes "sample" (1 × channels × height × width, NCHW), "time" (1 value) and one of: "label"
    (1 × classes, one-hot, or zeros for none), what its text encoders give ("text", "pooled", "mask"), or nothing;
    it gives one tensor like "sample". A network distilled with guidance takes "guidance" (1 value) and runs once.
    """

    name = "diffuse"
    Settings = DiffuseSettings
    draws = "one image"

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        settings: DiffuseSettings = self.settings
        if settings.few_steps and DISTILLED not in bundle.manifest.components:
            raise ManifestError(
                f"{bundle.name} states few_steps={settings.few_steps}, but has no component '{DISTILLED}'"
            )
        self._plans = plans(settings)
        self._network = Guided(bundle, settings, self._ran)
        self._latents = Pixels(bundle) if settings.latent is None else Codes(bundle, settings.latent, self._ran)
        self._condition: Condition = (
            Classes(settings.labels) if settings.prompt is None else Prompts(bundle, settings.prompt, self._ran)
        )
        self.shape = self._latents.shape(None, None)
        self._opened("model", dict(zip(("rows", "columns"), self.shape[1:], strict=True)))  # errors come here

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; none where it draws from prompts."""
        names: tuple[str, ...] = self.settings.labels
        return names

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The names that `scheduler=` takes here, the one that is taken by itself first."""
        return self._plans.schedulers

    def __call__(
        self,
        subject: int | str | Sequence[str] | None = None,
        labels: Label | Sequence[Label] | None = None,
        **options: Any,
    ) -> list[UInt8]:
        """As `sample`; the first argument may also be the prompt, or the label by its name."""
        if subject is None or isinstance(subject, int | np.integer):
            return self.sample(subject if subject is None else int(subject), labels, **options)
        if self.settings.prompt is not None:
            return self.sample(prompt=subject, labels=labels, **options)
        return self.sample(labels=subject if labels is None else labels, **options)

    def sample(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
    ) -> list[UInt8]:
        """Draw `n` images.

        Args:
            n: how many; None takes as many as prompts, `labels` or `latents` are given, else one.
            labels: None takes the classes in turn; or one label for all, or one for each image, by index or name.
            seed: None draws fresh noise; the first images of a seed are the same whatever `n` is.
            steps: 1 to 1000, or to the bundle's `few_steps`; None takes what the bundle recommends.
            prompt: what the images are to show, one for all, or one for each; `negative_prompt`: what they are not.
            guidance: 0 to 100; None takes what the bundle recommends.
            scheduler: one of `schedulers`; None takes the first.
            eta: 0 to 1, for "ddim".
            latents: float n × channels × height × width of N(0, 1), in the place of those that the seed draws.
            image: uint8 height × width × (RGB, RGBA or grey), to begin from it instead of from noise alone: its
                middle is shrunk to the network's size, and noised to `strength` (above 0, at most 1) of the way.
            height, width: of the images, where the bundle's sides are free.

        Raises:
            InputError: an argument beyond what is said here. ImageError: `image` is none.
            EngineError: the model gives NaN.
        """
        made = self.images(
            n,
            labels,
            seed,
            steps,
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance=guidance,
            scheduler=scheduler,
            eta=eta,
            latents=latents,
            image=image,
            strength=strength,
            height=height,
            width=width,
        )
        return list(made)

    def images(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
    ) -> Iterator[UInt8]:
        """The images of `sample` one by one, as they are made; arguments are checked at once."""
        asked = Asked(scheduler, steps, guidance, eta, None if image is None else strength)
        subject = self._subject(labels, prompt, negative_prompt)
        drawings = self._drawings(n, subject, asked, self._latents.shape(height, width), seed, latents, image)
        return (self._latents.picture(list(self._walk(drawing))[-1][2]) for drawing in drawings)

    def stream(
        self,
        subject: Label | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        negative_prompt: str | None = None,
        guidance: float | None = None,
        scheduler: str | None = None,
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
    ) -> Iterator[Step]:
        """One image, a `Step` after each step of its making; the last holds what `sample(1, …)` gives.

        `subject` is the prompt or the label, the first where None; the other arguments are those of `sample`,
        and are checked at once. Break off whenever it is good enough. Steps of a network that draws an
        autoencoder's codes show about what they stand for, one colour a code; the last is decoded.
        """
        asked = Asked(scheduler, steps, guidance, eta, None if image is None else strength)
        if self.settings.prompt is None:
            chosen = self._subject(0 if subject is None and self.labels else subject, None, negative_prompt)
        else:
            chosen = self._subject(None, subject, negative_prompt)
        (drawing,) = self._drawings(1, chosen, asked, self._latents.shape(height, width), seed, latents, image)
        return self._shown(drawing)

    def once(self, image: UInt8) -> Any:
        """One image with the recommended steps, of seed 0; `image` plays no part."""
        return self.sample(1, seed=0, prompt=None if self.settings.prompt is None else "a photo")

    def release(self, component: str = "text_encoder") -> None:
        """Free a component's memory; it is opened again when a prompt comes whose encoding is not kept.

        The encodings of the last 16 prompts are.
        """
        self.bundle.component(component)
        with self._lock:
            for key in [key for key in self._sessions if key[0] == component]:
                self._sessions.pop(key).close()

    def _subject(self, labels: Any, prompt: Any, negative: Any) -> Any:
        """What the condition reads.

        Raises:
            InputError: a prompt for a network of classes, or the other way round.
        """
        if self.settings.prompt is None:
            if prompt is not None or negative is not None:
                takes = f"labels ({', '.join(self.labels[:5])} …)" if self.labels else "neither prompt nor label"
                raise InputError(f"got a prompt: {self.bundle.name} takes {takes}")
            return labels
        if labels is not None:
            raise InputError(f"got labels={labels!r}: {self.bundle.name} draws from a prompt; say prompt='…'")
        return prompt, negative

    def _drawings(
        self,
        n: int | None,
        subject: Any,
        asked: Asked,
        shape: Shape,
        seed: int | None,
        latents: Array | None,
        image: UInt8 | None,
    ) -> list[Drawing]:
        """Everything checked, and the noise drawn."""
        if n is None and latents is None:
            n = self._condition.counted(subject)
        n = counted(n, None, latents, len(shape))
        subjects = self._condition.chosen(subject, n)
        plan = self._plans.plan(asked)
        drawn = noises(n, shape, seed, latents)
        begun = None if image is None else self._latents.encode(image, shape)
        pairs = enumerate(zip(drawn, subjects, strict=True))
        return [Drawing(plan, noise, each, _random(seed, index), begun) for index, (noise, each) in pairs]

    def _shown(self, drawing: Drawing) -> Iterator[Step]:
        for number, total, drawn in self._walk(drawing):
            show = self._latents.preview if number < total else self._latents.picture
            yield Step(number, total, show(drawn))

    def _walk(self, drawing: Drawing) -> Iterator[tuple[int, int, Float]]:
        """The steps of one image: number, how many there are, and x₀ as it is expected, at last as it is."""
        plan, walk = drawing.plan, drawing.plan.walk(drawing.random)
        sample = walk.begin(drawing.noise, drawing.begun)
        inputs = self._condition.inputs(drawing.subject)
        total = len(walk.times)
        for index, time in enumerate(walk.times):
            predicted = self._network.predicted(plan, walk.seen(index, sample), time, inputs)
            sample = walk.step(index, sample, predicted)
            yield index + 1, total, walk.clean if index + 1 < total else sample

    def _ran(self, inputs: Mapping[str, Array], component: str) -> dict[str, Array]:
        """A component's outputs by name, in the layout that the manifest states, whatever that of its file is."""
        described = self.bundle.component(component)
        arrays = [inputs[spec.name] for spec in described.inputs]
        shapes = [(spec.shape, array.shape) for spec, array in zip(described.inputs, arrays, strict=True)]
        pairs = [pair for both in shapes for pair in zip(*both, strict=True)]
        session = self._opened(component, {name: size for name, size in pairs if isinstance(name, str)})
        outputs = answers(session, arrays, described.inputs, described.outputs)
        named = {spec.name: output for spec, output in zip(described.outputs, outputs, strict=True)}
        for name, output in named.items():
            self._require_finite(output, name)
        return named

    def _opened(self, component: str, sizes: dict[str, int]) -> Session:
        """A component's session; for these sizes, where each file of the picked format has sizes of its own."""
        variants = self.bundle.component(component).variants
        fixed = any(variant.sizes for variant in variants if variant.format == self._picked.variant.format)
        return self._session(sizes if fixed else None, component)


def _random(seed: int | None, index: int) -> np.random.Generator:
    """Draws what a sampler adds to one image, apart from its latent."""
    return np.random.default_rng(None if seed is None else (seed, 1 + index))
