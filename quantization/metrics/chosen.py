"""Which metric a bundle is measured by: its task's own, or the one that the caller names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, middle, photos
from edgekit.quantization import calibration
from edgekit.quantization.metrics.brightness import BrightnessShift
from edgekit.quantization.metrics.generated import AutoencoderPsnr, Frechet, Recognised
from edgekit.quantization.metrics.judge import judge_of
from edgekit.quantization.metrics.labels import TopOneAccuracy
from edgekit.quantization.metrics.made import DRAWING, MAKING, Request
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.metrics.outputs import Custom, OutputNoise
from edgekit.quantization.metrics.pictures import StyleSsim, UpscalePsnr
from edgekit.quantization.metrics.text import NatsPerChar

LIMIT = 64  # photos that a metric looks at
LABELLED = 10_000  # images whose label is asked for: ImageNet's 50,000 say little more, and take five times as long
CHARACTERS = 4_000  # of a text
SEEDED = ("generate", "diffuse")  # tasks that need nothing to draw
SAMPLES = 64  # whose brightness is compared
REAL = 1_000  # images that samples are compared with, half as many samples
RECOGNISED = 500

OWN = {"upscale": "psnr", "classify": "accuracy", "autoencode": "psnr", "stylize": "ssim", "write": "nats"}


def metric_of(name: str, bundle: Bundle, data: Path | None) -> Metric:
    """The metric of this name on validation data, which should not be the calibration's.

    Args:
        name: "auto" (the task's own: PSNR, accuracy, SSIM or nats, else "snr"), "accuracy" (a folder or .zip with
            a folder of images for each label), "psnr", "ssim" (photos), "nats" (a text), "snr" (whatever
            calibrates the bundle: noise at the outputs in percent), "brightness" (photos; nothing where the task
            draws), "frechet" (real images of what is drawn), "recognised" (nothing), the last two by a classifier
            that ships, or by your own as "frechet@BUNDLE"; or "package.module:function" for a function of (bundle,
            runtime, precision) that returns a float, higher is better unless it has the attribute
            `higher_is_better = False`.
        data: where the photos or the text lie; None where none are needed.

    Raises:
        InputError: an unknown name, or one that does not fit the task or the data.
    """
    task = bundle.manifest.task.name if bundle.manifest.task else ""
    if ":" in name:
        return _custom(name, data)
    picked, _, judge = (OWN.get(task, "snr") if name == "auto" else name).partition("@")
    if picked not in MADE or (judge and picked not in JUDGED):
        raise InputError(
            f"no metric '{name}': expected auto, {', '.join(MADE)}, {', '.join(f'{j}@BUNDLE' for j in JUDGED)}, or "
            "package.module:function"
        )
    tasks, make = MADE[picked]
    if tasks and task not in tasks:
        raise InputError(f"metric '{picked}' is of task {' or '.join(tasks)}: {bundle.name} is of '{task or 'none'}'")
    if data is None and not (picked == "recognised" or (picked == "brightness" and task in SEEDED)):
        raise InputError(f"got the metric '{picked}' without validation data: name photos, a text or arrays")
    if picked in JUDGED:
        return JUDGED[picked](data or Path(), judge or judge_of(bundle))
    return make(bundle, data or Path())


def _psnr(bundle: Bundle, data: Path) -> Metric:
    assert bundle.manifest.task is not None
    if bundle.manifest.task.name == "upscale":
        return UpscalePsnr.of_photos(data, bundle.manifest.task.settings["scale"], limit=LIMIT)
    settings = bundle.manifest.task.settings
    found = [middle(photo, settings["height"], settings["width"]) for photo in _photos(data)]
    return AutoencoderPsnr(found, f"{data.stem}, {len(found)} images")


def _accuracy(bundle: Bundle, data: Path) -> Metric:
    """Images in a folder for each label, of the label's name or number."""
    assert bundle.manifest.task is not None
    names = list(bundle.manifest.task.settings.get("labels", ()))
    images, labels = [], []
    for path, image in photos(data, LABELLED):
        folder = Path(path).parent.name
        if folder not in names and not folder.isdecimal():
            raise InputError(f"'{path}' lies in no folder of a label: expected {', '.join(names[:8]) or '0, 1, …'}")
        images.append(image)
        labels.append(names.index(folder) if folder in names else int(folder))
    return TopOneAccuracy(images, np.array(labels), f"{data.stem}, {len(images):,} images")


def _ssim(bundle: Bundle, data: Path) -> Metric:
    found = _photos(data)
    return StyleSsim(found, f"{data.stem}, {len(found)} images, against fp32")


def _nats(bundle: Bundle, data: Path) -> Metric:
    try:
        text = data.read_text(encoding="utf-8")[:CHARACTERS]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"'{data}' is no text to score: {error}") from error
    return NatsPerChar(text, f"{data.name}, {len(text):,} characters")


def _noise(bundle: Bundle, data: Path) -> Metric:
    found = calibration.from_path(bundle, data, 16)
    return OutputNoise(found, f"{data.name}, {max(map(len, found.values()))} inputs, against fp32")


def _brightness(bundle: Bundle, data: Path) -> Metric:
    assert bundle.manifest.task is not None
    drawn = bundle.manifest.task.name in SEEDED
    request = Request(count=SAMPLES) if drawn else Request(photos=_shown(bundle, data))
    return BrightnessShift(request, f"{'' if drawn else data.stem + ', '}{request}, against fp32")


def _judged(bundle: Bundle, data: Path) -> Metric:
    raise InputError(f"{bundle.name} has no judge")  # metric_of asks JUDGED


def _shown(bundle: Bundle, data: Path) -> list[UInt8]:
    """Photos as the task takes them: an autoencoder those of its size."""
    assert bundle.manifest.task is not None
    settings, found = bundle.manifest.task.settings, _photos(data)
    if bundle.manifest.task.name != "autoencode":
        return found
    return [middle(photo, settings["height"], settings["width"]) for photo in found]


def _some(data: Path, count: int) -> list[UInt8]:
    """Some of very many images, spread over all of them: archives have theirs sorted by class."""
    random, kept = np.random.default_rng(0), list[UInt8]()
    for index, (_, image) in enumerate(photos(data)):
        if index < count:
            kept.append(image)
        elif (place := int(random.integers(index + 1))) < count:
            kept[place] = image
    return kept


def _custom(reference: str, data: Path | None) -> Metric:
    place, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot find the metric '{reference}': {error}") from error
    return Custom(
        function, name, data.name if data else "the caller's own", getattr(function, "higher_is_better", True)
    )


def _photos(data: Path) -> list[UInt8]:
    return [image for _, image in photos(data, LIMIT)]


MADE: dict[str, tuple[tuple[str, ...], Callable[[Bundle, Path], Metric]]] = {
    "accuracy": (("classify",), _accuracy),
    "psnr": (("upscale", "autoencode"), _psnr),
    "ssim": (("stylize", "upscale"), _ssim),
    "nats": (("write",), _nats),
    "snr": ((), _noise),
    "brightness": (MAKING, _brightness),
    "frechet": (DRAWING, _judged),
    "recognised": (DRAWING, _judged),
}
JUDGED: dict[str, Callable[[Path, str], Metric]] = {
    "frechet": lambda data, judge: Frechet(_some(data, REAL), Request(count=REAL // 2), judge, data.stem),
    "recognised": lambda data, judge: Recognised(RECOGNISED, judge=judge),
}
