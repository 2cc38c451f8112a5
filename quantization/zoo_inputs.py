"""Zoo inputs: calibration without data of one's own, from what ships: a photo, and what the zoo's bundles draw."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekit import bundle as bundles
from edgekit.bundle import Bundle
from edgekit.errors import QuantizationError
from edgekit.images import UInt8, middle, read_image, resize_bicubic, to_tensor
from edgekit.quantization.calibration import COUNT, SIDE, Calibration, checked, drawn, draws_itself, recorded
from edgekit.tasks import load

ZOOMS = (1.0, 0.75, 0.5)  # of the photo that crops are taken of: coarser and finer detail
LIGHTS = ((1.0, 0, 255), (0.6, 0, 255), (1.7, 0, 255), (1.0, 0, 128), (1.0, 110, 255))  # gamma, black, white
DRAWERS = ("generate", "diffuse")  # the tasks that draw pictures, the quicker first


def shipped(bundle: Bundle, count: int = COUNT) -> dict[str, Calibration]:
    """Inputs of every component, from what ships with edgekit.

    What draws by itself, as generators and writers do, draws. Pictures for a network of classes come from the zoo's
    generator of the same classes, where there is one; else they are crops of the photo that ships, in several sizes
    and lights. That is a stop-gap: real data of one's own show more (docs/quantization.md has the difference).

    Raises:
        QuantizationError: nothing that ships is like what the bundle takes.
    """
    task = bundle.manifest.task
    if draws_itself(bundle):
        found = drawn(bundle, count)
    elif task is None:
        found = {bundle.main: _fitted(bundle, count)}
    elif (maker := drawer(bundle)) is not None:
        found = recorded(bundle, _drawn_by(maker, count), count)
    else:
        found = recorded(bundle, crops(count), count)
    return {name: checked(inputs, bundle.component(name).inputs) for name, inputs in found.items()}


def drawer(bundle: Bundle) -> Bundle | None:
    """The zoo's bundle that draws pictures of the classes that a bundle is of."""
    labels = _labels(bundle)
    others = [Bundle.open(name) for name in bundles.shipped()]
    for task in DRAWERS:
        for other in others:
            if other.manifest.task and other.manifest.task.name == task and labels and _labels(other) == labels:
                return other
    return None


def crops(count: int, side: int = SIDE) -> Iterator[UInt8]:
    """Crops of the photo that ships, mirrored and turned, each size in each light: uint8 RGB, side × side."""
    photo = read_image(_photo())[:, :, :3]
    random = np.random.default_rng(0)
    for index in range(count):
        zoom, light = ZOOMS[index % len(ZOOMS)], LIGHTS[index % len(LIGHTS)]
        sides = [max(side, round(n * zoom)) for n in photo.shape[:2]]
        scaled = photo if zoom == 1.0 else resize_bicubic(photo, *sides)
        y, x = (int(random.integers(n - side + 1)) for n in scaled.shape[:2])
        part = np.rot90(scaled[y : y + side, x : x + side], int(random.integers(4)))
        yield _lit(part[:, ::-1] if random.random() < 0.5 else part, *light)


def _photo() -> Path:
    """Where the photo lies: found, not imported, for demos stand on this package."""
    found = importlib.util.find_spec("edgekit.demos")
    places = list(found.submodule_search_locations or []) if found else []
    photo = next((p for place in places if (p := Path(place, "photos", "astronaut.jpg")).is_file()), None)
    if photo is None:
        raise QuantizationError(
            "the photo that ships with edgekit is missing: name real inputs, or install edgekit anew"
        )
    return photo


def _lit(image: UInt8, gamma: float, black: int, white: int) -> UInt8:
    """The image darker or brighter, or with less contrast."""
    levels = black + (white - black) * (np.arange(256) / 255.0) ** gamma
    table: UInt8 = np.rint(levels).astype(np.uint8)
    return np.ascontiguousarray(table[image])


def _drawn_by(maker: Bundle, count: int) -> list[UInt8]:
    """As many pictures, of every class in turn."""
    with load(maker, precision="fp32") as task:
        made: list[UInt8] = task.sample(count, seed=0)
    return made


def _fitted(bundle: Bundle, count: int) -> Calibration:
    """Crops for a network without a task that takes one image.

    Raises:
        QuantizationError: it takes something else.
    """
    inputs = bundle.component(bundle.main).inputs
    spec = inputs[0]
    if len(inputs) != 1 or spec.layout is None or spec.in_layout("NCHW").shape[1] != 3:
        taken = ", ".join(f"{s.name}: {s}" for s in inputs)
        raise QuantizationError(f"nothing that ships is like what {bundle.name} takes ({taken}): name real inputs")
    _, _, height, width = spec.in_layout("NCHW").shape
    sizes = [n if isinstance(n, int) else SIDE for n in (height, width)]
    return [(to_tensor(middle(crop, *sizes), spec),) for crop in crops(count)]


def _labels(bundle: Bundle) -> tuple[str, ...]:
    task = bundle.manifest.task
    return tuple(task.settings.get("labels", ())) if task else ()
