"""DiffusionSampler: images of a class, made from noise in a few steps that can be watched and stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import images
from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.images import UInt8
from edgekit.schedulers import SAMPLERS, Float, Prediction, Schedule, check_steps
from edgekit.tasks.drawing import Label, array_of, check_seed, chosen, counted, drawn, one_hot_of
from edgekit.tasks.task import Task
from edgekit.tensors import Array, axes

FEW_STEPS = "few-steps"
DISTILLED = "few_steps"  # the component that goes without guidance, one evaluation a step
LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
MAX_GUIDANCE = 100.0
MAX_LATENT = 1e4  # far beyond what N(0, 1) gives, and far from what overflows


class DiffuseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`labels` in the order of the one-hot input; `prediction`, `start`: as `schedulers.Schedule` takes them.

    `steps` and `guidance` are what sampling takes by itself; `few_steps`: the steps that the component
    of this name was distilled for, 0 where there is none.
    """

    labels: Annotated[tuple[str, ...], Meta(min_length=1)]
    prediction: Prediction = "velocity"
    start: Annotated[float, Meta(ge=0.01, le=1)] = 0.996
    steps: Annotated[int, Meta(ge=1, le=1000)] = 10
    guidance: Annotated[float, Meta(ge=0, le=MAX_GUIDANCE)] = 2.0
    few_steps: Annotated[int, Meta(ge=0, le=1000)] = 0


class Step(NamedTuple):
    """What `stream` gives after a step: its number from 1, how many there are, and the image as it is expected."""

    number: int
    total: int
    image: UInt8


@dataclass(frozen=True)
class Plan:
    """How one call samples; `guidance` is None where the network is run once a step."""

    component: str
    scheduler: str
    times: tuple[float, ...]
    guidance: float | None
    eta: float


class DiffusionSampler(Task):
    """Call it, or `.sample`, to draw images: a list of uint8 height × width × RGB. Thread-safe.

    Schedulers:
        "dpm++2m": DPM-Solver++ of second order, deterministic; what is taken where none is named.
        "ddim": deterministic at eta 0; with eta up to 1, noise is added at every step.
        "few-steps": DDIM with the distilled component, for bundles that have one: `few_steps` steps or fewer,
            one run of the network each; guidance is baked in.
        "lcm": consistency sampling, with fresh noise at every step; with the distilled component where there is one.

    Guidance g runs the network twice a step, with and without the label, v₀ + g·(v − v₀); 1 runs it once,
    0 samples without a label. An image is decided by its label and its latent, the noise that the
    seed draws: the same on one engine bit for bit; engines agree in fp32 to 1 of 255 levels where no noise is added.

    The bundle's `model` takes "sample" (1 × channels × height × width, α·x₀ + σ·ε with x₀ in −1…1), "time"
    (1 value in 0…1) and "label" (1 × classes, one-hot, or zeros for none), and gives one tensor like "sample".
    """

    name = "diffuse"
    Settings = DiffuseSettings
    draws = "one image"

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        settings = self.settings
        if settings.few_steps and DISTILLED not in bundle.manifest.components:
            raise ManifestError(
                f"{bundle.name} states few_steps={settings.few_steps}, but has no component '{DISTILLED}'"
            )
        self.schedule = Schedule(settings.prediction, settings.start)
        self.shape = self._image_shape()
        self._session()  # errors come here, not with the first image

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        names: tuple[str, ...] = self.settings.labels
        return names

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The names that `scheduler=` takes here."""
        return (*SAMPLERS, *([FEW_STEPS] if self.settings.few_steps else []))

    def __call__(
        self, n: int | None = None, labels: Label | Sequence[Label] | None = None, **options: Any
    ) -> list[UInt8]:
        """As `sample`."""
        return self.sample(n, labels, **options)

    def sample(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        guidance: float | None = None,
        scheduler: str = "dpm++2m",
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
    ) -> list[UInt8]:
        """Draw `n` images.

        Args:
            n: how many; None takes as many as `labels` or `latents` are given, else one.
            labels: None takes the classes in turn; or one label for all, or one for each image, by index or name.
            seed: None draws fresh noise; the first images of a seed are the same whatever `n` is.
            steps: 1 to 1000, or to the bundle's `few_steps`; None takes what the bundle recommends.
            guidance: 0 to 100; None takes what the bundle recommends.
            scheduler: one of `schedulers`.
            eta: 0 to 1, for "ddim".
            latents: float n × channels × height × width of N(0, 1), in the place of those that the seed draws.
            image: uint8 height × width × (RGB, RGBA or grey), to begin from it instead of from noise alone: its
                middle is shrunk to the network's size, and noised to `strength` (above 0, at most 1) of the way.

        Raises:
            InputError: an argument beyond what is said here. ImageError: `image` is none.
            EngineError: the model gives NaN.
        """
        made = self.images(
            n,
            labels,
            seed,
            steps,
            guidance=guidance,
            scheduler=scheduler,
            eta=eta,
            latents=latents,
            image=image,
            strength=strength,
        )
        return list(made)

    def images(
        self,
        n: int | None = None,
        labels: Label | Sequence[Label] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        *,
        guidance: float | None = None,
        scheduler: str = "dpm++2m",
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
    ) -> Iterator[UInt8]:
        """The images of `sample` one by one, as they are made; arguments are checked at once."""
        n = counted(n, labels, latents, len(self.shape))
        classes = chosen(labels, n, self.labels)
        plan = self._plan(scheduler, steps, guidance, eta, None if image is None else strength)
        noises = self._noises(n, seed, latents)
        begun = None if image is None else self._clean(image)
        walks = (
            self._walk(plan, noise, label, _random(seed, index), begun)
            for index, (noise, label) in enumerate(zip(noises, classes, strict=True))
        )
        return (list(walk)[-1].image for walk in walks)

    def stream(
        self,
        label: Label = 0,
        seed: int | None = None,
        steps: int | None = None,
        *,
        guidance: float | None = None,
        scheduler: str = "dpm++2m",
        eta: float = 0.0,
        latents: Array | None = None,
        image: UInt8 | None = None,
        strength: float = 0.6,
    ) -> Iterator[Step]:
        """One image, a `Step` after each step of its making; the last holds what `sample(1, …)` gives.

        The arguments are those of `sample`, and are checked at once. Break off whenever it is good enough.
        """
        (index,) = chosen([label], 1, self.labels)
        plan = self._plan(scheduler, steps, guidance, eta, None if image is None else strength)
        (noise,) = self._noises(1, seed, latents)
        return self._walk(plan, noise, index, _random(seed, 0), None if image is None else self._clean(image))

    def once(self, image: UInt8) -> Any:
        """One image with the recommended steps, of seed 0; `image` plays no part."""
        return self.sample(1, seed=0)

    def _walk(
        self, plan: Plan, noise: Float, label: int, random: np.random.Generator, begun: Float | None
    ) -> Iterator[Step]:
        sampler = SAMPLERS[plan.scheduler](self.schedule, plan.times, random, plan.eta)
        sample = noise if begun is None else self.schedule.noised(begun, noise, plan.times[0])
        one_hot = one_hot_of(label, len(self.labels))
        total = len(plan.times) - 1
        for index, time in enumerate(plan.times[:-1]):
            predicted = self._guided(plan, sample, time, one_hot)
            clean = np.clip(self.schedule.clean(sample, predicted, time), -1.0, 1.0)
            sample = sampler.step(index, sample, clean)
            yield Step(index + 1, total, _picture(clean if index + 1 < total else sample))

    def _guided(self, plan: Plan, sample: Float, time: float, one_hot: Float) -> Float:
        """The network's prediction under guidance (Ho & Salimans 2022)."""
        if plan.guidance in (None, 1.0):
            return self._predicted(plan.component, sample, time, one_hot)
        free = self._predicted(plan.component, sample, time, np.zeros_like(one_hot))
        if plan.guidance == 0.0:
            return free
        predicted = self._predicted(plan.component, sample, time, one_hot)
        return np.asarray(free + np.float32(plan.guidance or 0.0) * (predicted - free), np.float32)

    def _predicted(self, component: str, sample: Float, time: float, one_hot: Float) -> Float:
        session = self._session(component=component)
        layout = next(spec.layout for spec in session.inputs if spec.name == "sample")
        if layout == "NHWC":
            sample = np.ascontiguousarray(sample.transpose(axes("NCHW", "NHWC")))
        inputs = {"sample": sample, "time": np.array([time], np.float32), "label": one_hot}
        (predicted,) = self._answer(inputs, component).values()
        back = session.outputs[0].layout == "NHWC"
        return np.ascontiguousarray(predicted.transpose(axes("NHWC", "NCHW")) if back else predicted)

    def _plan(
        self, scheduler: str, steps: int | None, guidance: float | None, eta: float, strength: float | None
    ) -> Plan:
        """Check everything that says how to sample."""
        if scheduler not in self.schedulers:
            raise InputError(f"no scheduler {scheduler!r}: expected one of {', '.join(self.schedulers)}")
        if eta and scheduler != "ddim":
            raise InputError(f"got eta={eta} with '{scheduler}': only scheduler='ddim' takes it")
        _within("eta", eta, 0.0, 1.0)
        if scheduler in (FEW_STEPS, "lcm") and self.settings.few_steps:
            return self._few_steps(scheduler, steps, guidance, strength)
        guidance = self.settings.guidance if guidance is None else guidance
        _within("guidance", guidance, 0.0, MAX_GUIDANCE)
        start = self.schedule.start
        if strength is not None:
            _within("strength", strength, 0.001, 1.0)
            start *= strength
        times = self.schedule.times(self.settings.steps if steps is None else steps, start)
        return Plan("model", scheduler, tuple(times), float(guidance), float(eta))

    def _few_steps(self, scheduler: str, steps: int | None, guidance: float | None, strength: float | None) -> Plan:
        """The distilled network's own times, or some of them: it knows no others."""
        most = self.settings.few_steps
        if guidance is not None:
            raise InputError(
                f"got guidance={guidance} with '{scheduler}': the distilled network has its own; leave it out"
            )
        if strength is not None:
            raise InputError(f"got an image with '{scheduler}': begin from one with 'dpm++2m' or 'ddim'")
        steps = most if steps is None else steps
        check_steps(steps)
        if steps > most:
            raise InputError(f"got steps={steps} with '{scheduler}': {self.bundle.name} was distilled for 1 to {most}")
        times = self.schedule.times(most)
        picked = np.round(np.linspace(0, most, steps + 1)).astype(int)
        return Plan(DISTILLED, "lcm" if scheduler == "lcm" else "ddim", tuple(times[i] for i in picked), None, 0.0)

    def _noises(self, n: int, seed: int | None, latents: Array | None) -> list[Float]:
        check_seed(seed)  # also beside latents, where it decides what a sampler adds
        if latents is None:
            return list(drawn(n, math.prod(self.shape), seed).reshape(n, 1, *self.shape))
        array = array_of(latents)
        expected = " × ".join(str(size) for size in (n, *self.shape))
        if array.dtype.kind not in "fiu" or array.shape not in ((n, *self.shape), self.shape if n == 1 else None):
            given = " × ".join(str(size) for size in array.shape) or "one value"
            raise InputError(f"got latents of {array.dtype} {given}: expected float {expected}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InputError("latents hold NaN or infinity: expected numbers like those of N(0, 1)")
        if (largest := float(np.abs(array).max())) > MAX_LATENT:
            raise InputError(
                f"got latents of up to {largest:g}: expected numbers like those of N(0, 1), {MAX_LATENT:g} at most"
            )
        return list(array.reshape(n, 1, *self.shape))

    def _clean(self, image: UInt8) -> Float:
        """An image as the network knows them: 1 × channels × height × width in −1…1."""
        channels, height, width = self.shape
        small = images.middle(images.as_uint8(image)[:, :, :3], height, width).astype(np.float64)
        planes = (small @ LUMA)[None] if channels == 1 else small.transpose(2, 0, 1)
        return np.asarray(planes[None] / 127.5 - 1.0, np.float32)

    def _image_shape(self) -> tuple[int, int, int]:
        """channels, height, width."""
        component = self.bundle.component("model")
        specs = {spec.name: spec for spec in component.inputs}
        if set(specs) != {"sample", "time", "label"} or len(component.outputs) != 1:
            raise ManifestError(f"{self.bundle.name} takes {', '.join(specs)}: 'diffuse' needs sample, time and label")
        sample = specs["sample"]
        shape = tuple(d for d in sample.shape[1:] if isinstance(d, int))
        if sample.layout != "NCHW" or len(shape) != 3 or shape[0] not in (1, 3):
            raise ManifestError(
                f"{self.bundle.name}: sample is {sample}: expected 1 × (1 or 3) × height × width (NCHW)"
            )
        if specs["label"].shape != (1, len(self.labels)):
            raise ManifestError(f"{self.bundle.name}: label is {specs['label']}: expected 1 × {len(self.labels)}")
        return shape


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise InputError(f"got {name}={value!r}: expected a number from {low:g} to {high:g}")


def _random(seed: int | None, index: int) -> np.random.Generator:
    """Draws what a sampler adds to one image, apart from its latent."""
    return np.random.default_rng(None if seed is None else (seed, 1 + index))


def _picture(clean: Float) -> UInt8:
    """1 × channels × height × width in −1…1 → uint8 height × width × RGB, rounded; grey is repeated."""
    levels = np.clip((clean[0] + 1.0) * 127.5 + 0.5, 0.0, 255.0).astype(np.uint8)
    return images.as_uint8(levels.transpose(1, 2, 0))
