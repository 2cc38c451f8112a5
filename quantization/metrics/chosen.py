"""Which metric a bundle is measured by: its task's own, or the one that the caller names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8, middle, photos
from edgekit.quantization import calibration
from edgekit.quantization.metrics.generated import AutoencoderPsnr
from edgekit.quantization.metrics.labels import TopOneAccuracy
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.metrics.outputs import Custom, OutputNoise
from edgekit.quantization.metrics.pictures import StyleSsim, UpscalePsnr
from edgekit.quantization.metrics.text import NatsPerChar

LIMIT = 64  # photos that a metric looks at
CHARACTERS = 4_000  # of a text

OWN = {"upscale": "psnr", "classify": "accuracy", "autoencode": "psnr", "stylize": "ssim", "write": "nats"}


def metric_of(name: str, bundle: Bundle, data: Path) -> Metric:
    """The metric of this name on validation data, which should not be the calibration's.

    Args:
        name: "auto" (the task's own: PSNR, accuracy, SSIM or nats, else "snr"), "accuracy" (a folder or .zip with
            a folder of images for each label), "psnr", "ssim" (photos), "nats" (a text), "snr" (whatever
            calibrates the bundle: noise at the outputs in percent), or "package.module:function" for a function
            of (bundle, runtime, precision) that returns a float, higher is better unless it has the attribute
            `higher_is_better = False`.

    Raises:
        InputError: an unknown name, or one that does not fit the task or the data.
    """
    task = bundle.manifest.task.name if bundle.manifest.task else ""
    if ":" in name:
        return _custom(name, data)
    picked = OWN.get(task, "snr") if name == "auto" else name
    if picked not in MADE:
        raise InputError(f"no metric '{name}': expected auto, {', '.join(MADE)}, or package.module:function")
    tasks, make = MADE[picked]
    if tasks and task not in tasks:
        raise InputError(f"metric '{picked}' is of task {' or '.join(tasks)}: {bundle.name} is of '{task or 'none'}'")
    return make(bundle, data)


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
    for path, image in photos(data):
        folder = Path(path).parent.name
        if folder not in names and not folder.isdecimal():
            raise InputError(f"'{path}' lies in no folder of a label: expected {', '.join(names[:8]) or '0, 1, …'}")
        images.append(image)
        labels.append(names.index(folder) if folder in names else int(folder))
    return TopOneAccuracy(images, np.array(labels), f"{data.stem}, {len(images)} images")


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


def _custom(reference: str, data: Path) -> Metric:
    place, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cannot find the metric '{reference}': {error}") from error
    return Custom(function, name, str(data.name), getattr(function, "higher_is_better", True))


def _photos(data: Path) -> list[UInt8]:
    return [image for _, image in islice(photos(data), LIMIT)]


MADE: dict[str, tuple[tuple[str, ...], Callable[[Bundle, Path], Metric]]] = {
    "accuracy": (("classify",), _accuracy),
    "psnr": (("upscale", "autoencode"), _psnr),
    "ssim": (("stylize", "upscale"), _ssim),
    "nats": (("write",), _nats),
    "snr": ((), _noise),
}
