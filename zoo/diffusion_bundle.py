"""What a trained diffusion becomes: sources and calibration of its networks, metric, figures and sample sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle import Bundle
from edgekit.images import UInt8, sheet
from edgekit.manifest import Task
from edgekit.quantization.correction.qat import QatOptions
from edgekit.quantization.metrics.denoising import DenoisingError
from edgekit.quantization.metrics.generated import Recognised, frechet
from edgekit.quantization.metrics.metric import Metric
from edgekit.schedulers import Ddim, DpmSolver2M
from edgekit.tasks import load
from edgekit.tensors import Array, TensorSpec
from edgekit.zoo.diffusion import Recipe, noised
from edgekit.zoo.distillation import SCHEDULE, STEPS, denoise
from edgekit.zoo.judging import features
from edgekit.zoo.recipe import Trained
from edgekit.zoo.unet import UNet

if TYPE_CHECKING:  # the converters are imported where a bundle is made: a session of this network needs none
    from edgekit.exporters import Source

SAMPLING_STEPS = 10
PRACTISED = 16  # images a step of fine-tuning
KEEP_FLOAT = ("head", "tail", "embed*", "*modulation")  # where the picture enters and leaves, and products of a vector
FEW = {"scheduler": "few-steps"}
PAIRS = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8"), ("litert", "int8"))


def trained(nets: Mapping[str, UNet], data: Path, recipe: Recipe) -> Trained:
    """What `publish` needs of the networks `model` and, where there is one, `few_steps`."""
    grey, images = recipe.channels == 1, recipe.images()
    calibration = {name: calibrating(net, recipe, distilled=name != "model") for name, net in nets.items()}
    settings = {
        "labels": list(images.labels),
        "prediction": "velocity",
        "start": SCHEDULE.start,
        "steps": SAMPLING_STEPS,
        "guidance": recipe.guidance,
        "few_steps": STEPS if "few_steps" in nets else 0,
    }
    count = sum(p.numel() for p in nets["model"].parameters())
    also = f", and as much again distilled to {STEPS} steps" if "few_steps" in nets else ""
    return Trained(
        {name: net_source(net, recipe, calibration[name]) for name, net in nets.items()},
        Task("diffuse", settings),
        f"Class-conditional diffusion of {images.title}, {count:,} parameters{also}",
        images.about,
        calibration,
        Recognised(500) if grey else held_out(data, recipe),
        max_drop=1.0 if grey else 0.005,
        sheet=samples,
        figures=lambda bundle: figures(bundle, data, recipe),
        keep_float=[pattern if len(nets) == 1 else f"{name}/{pattern}" for name in nets for pattern in KEEP_FLOAT],
        stages=["few-steps"] if "few_steps" in nets else [],
        practice={"model": practising(data, recipe)},
        tuning=QatOptions(steps=400, learning_rate=3e-5, batch=PRACTISED),
    )


def practising(data: Path, recipe: Recipe) -> Callable[[int], list[tuple[Array, ...]]]:
    """Training images under noise, for each step of fine-tuning."""
    images, labels = recipe.images().load(data, "train")

    def noisy(step: int) -> list[tuple[Array, ...]]:
        random = np.random.default_rng((recipe.seed + 2, step))
        picked = random.integers(0, len(images), PRACTISED)
        sample, time, label, _velocity = noised(images[picked], labels[picked], random, recipe.drop_label)
        return [tuple(x[[i]].numpy() for x in (sample, time, label)) for i in range(PRACTISED)]

    return noisy


def net_source(net: UNet, recipe: Recipe, inputs: list[tuple[Array, ...]]) -> Source:
    """The network as `export` takes it."""
    from edgekit.exporters import Source

    shape = (1, recipe.channels, 32, 32)
    sample = TensorSpec("sample", "float32", shape, "NCHW")
    specs = (sample, TensorSpec("time", "float32", (1,)), TensorSpec("label", "float32", (1, 10)))
    predicted = TensorSpec("prediction", "float32", shape, "NCHW")
    probes = tuple(inputs[:: len(inputs) // 4][:4])
    return Source(net, specs, (predicted,), probes, "diffusion", recipe.sizes())


def calibrating(net: UNet, recipe: Recipe, distilled: bool, count: int = 200) -> list[tuple[Array, ...]]:
    """Inputs as sampling meets them: of every time, on the network's own way, with a label and without."""
    steps = STEPS if distilled else SAMPLING_STEPS
    each = count // steps if distilled else count // steps // 2
    random = np.random.default_rng(recipe.seed + 1)
    noise = random.standard_normal((each, recipe.channels, 32, 32), np.float32)
    label = np.eye(10, dtype=np.float32)[np.arange(each) % 10]
    sampler = (Ddim if distilled else DpmSolver2M)(SCHEDULE, SCHEDULE.times(steps), random)
    walk = denoise(net, sampler, noise, label, None if distilled else recipe.guidance)
    return [inputs for state, _, time in walk if time > 0 for inputs in _single(state, time, label, not distilled)]


def _single(state: Array, time: float, label: Array, unlabelled: bool) -> Iterator[tuple[Array, ...]]:
    when = np.array([time], np.float32)
    for index in range(len(state)):
        yield state[[index]], when, label[[index]]
        if unlabelled:
            yield state[[index]], when, np.zeros_like(label[[index]])


def held_out(data: Path, recipe: Recipe, count: int = 400) -> Metric:
    """Denoising of test images: of samples, the distances that a few hundred allow are too rough to see int8."""
    images, labels = recipe.images().load(data, "test")
    picked = np.linspace(0, len(images) - 1, count).astype(int)
    return DenoisingError(images[picked], labels[picked], f"{count} CIFAR-10 test images, evenly spread times")


def figures(bundle: Bundle, data: Path, recipe: Recipe, count: int = 1_000) -> dict[str, Any]:
    """How samples compare with real images, in the features of a classifier, and what it recognises on every engine.

    The distances of real images from others of the training set are the floor that samples could reach.
    """
    images, judge = recipe.images(), "digits-cnn" if recipe.channels == 1 else "cifar-cnn"
    seen, held = images.load(data, "train")[0], images.load(data, "test")[0]
    order = np.random.default_rng(0).permutation(len(seen))
    reference = features(judge, seen[order[:10_000]])
    near = {
        "train": features(judge, seen[order[-count:]]),
        "test": features(judge, held[:: len(held) // count][:count]),
    }
    found: dict[str, Any] = {
        "frechet_protocol": f"features of {judge}: {count:,} images against 10,000 of the training set",
        "frechet_floor": {name: round(frechet(values, reference), 4) for name, values in near.items()},
    }
    kinds = {
        "dpm++2m, 10 steps": {},
        **({"few-steps, 4 steps": FEW} if "few_steps" in bundle.manifest.components else {}),
    }
    for kind, options in kinds.items():
        found[kind] = {"recognised_percent": _recognised(bundle, judge, options)}
        for precision in ("fp32", "int8"):
            with load(bundle, "onnxruntime", precision=precision) as sampler:
                made = np.stack(sampler.sample(count, seed=1, **options))[..., : recipe.channels]
            found[kind][f"frechet_{precision}"] = round(frechet(features(judge, made), reference), 4)
    return found


def _recognised(bundle: Bundle, judge: str, options: Mapping[str, Any]) -> dict[str, float]:
    metric = Recognised(300, seed=2, judge=judge, options=options)
    return {f"{engine} {precision}": round(metric.value(bundle, engine, precision), 2) for engine, precision in PAIRS}


def samples(bundle: Bundle) -> UInt8:
    """Ten samples of each class in a row, in fp32; beside them ten of few steps, where the bundle has them."""
    with load(bundle, "onnxruntime", precision="fp32") as sampler:
        asked = [label for label in sampler.labels for _ in range(10)]
        made = [sampler.sample(100, asked, seed=0)]
        if sampler.settings.few_steps:
            made.append(sampler.sample(100, asked, seed=0, **FEW))
    rows = [image for row in range(0, 100, 10) for kind in made for image in kind[row : row + 10]]
    return sheet(rows, columns=10 * len(made))
