"""A small network with every kind of layer that weights schemes know, exported once for the tests of a process."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit import bundle as bundles
from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.exporters import export
from edgekit.exporters.sources import Source, from_module
from edgekit.exporters.writing import ExportOptions
from edgekit.manifest import Variant
from edgekit.quantization.schemes.scheme import Job, Scheme

FORMATS = ("onnx", "openvino", "tflite")
LAYERS = ["head", "table", "up", "down", "odd", "conv"]  # in the order they run; the first two share their weight
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


class Mixed(nn.Module):
    """An embedding tied to the last product, products with rows of 64, 128 and 40 numbers, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 50, bias=False)
        self.table = nn.Embedding(50, 64)
        self.table.weight = self.head.weight
        self.up, self.down, self.odd = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(40, 64)
        self.conv = nn.Conv2d(4, 64, 3, padding=1)

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        x = self.table(tokens)
        x = x + self.down(F.gelu(self.up(x))) + self.odd(other)
        x = x + self.conv(x.view(1, 4, 8, 8)).mean((2, 3))
        return self.head(x)


class Convolutions(nn.Module):
    """Nothing but convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 3, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.body(image)
        return result


@functools.cache
def mixed() -> tuple[Bundle, Source]:
    """The exported network in three formats, and its source."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    arrays = (random.integers(0, 50, (4,)).astype(np.int32), random.standard_normal((4, 40)).astype(np.float32))
    source = from_module(Mixed().eval(), arrays)
    return export(source, _folder("mixed")), source


@functools.cache
def convolutions() -> tuple[Bundle, Source]:
    """The same of Convolutions, in ONNX."""
    torch.manual_seed(0)
    image = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    source = from_module(Convolutions().eval(), (image,))
    return export(source, _folder("convolutions"), options=ExportOptions(formats=("onnx",))), source


def job(
    bundle: Bundle, source: Source | None, keep_float: tuple[str, ...] = (), corrected: Source | None = None
) -> Job:
    return Job("model", bundle.component(), bundle.folder, source, corrected, (), keep_float)


def scheme(precision: str, job: Job) -> Scheme:
    made: Scheme = registry.find("schemes", precision)(job)
    return made


def written(precision: str, job: Job, place: Path) -> dict[str, Variant]:
    """The files of three formats in `place`, by format."""
    place.mkdir(parents=True, exist_ok=True)
    made = scheme(precision, job)
    return {format: made.write(format, place, ExportOptions())[0] for format in FORMATS}


def completed(bundle: Bundle, made: Mapping[str, Variant], place: Path) -> Bundle:
    """The bundle at `place`, where new files lie, with these variants."""
    bundle.copy_files(place)
    component = bundle.component()
    changed = msgspec.structs.replace(component, variants=(*component.variants, *made.values()))
    bundles.write(place, msgspec.structs.replace(bundle.manifest, components={"model": changed}))
    return Bundle.open(place)


def _folder(name: str) -> Path:
    place = tempfile.TemporaryDirectory(prefix="edgekit-tests-")
    _KEPT.append(place)  # gone with the process
    return Path(place.name, name)
