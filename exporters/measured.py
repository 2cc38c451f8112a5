"""What a network tells of the task that runs it: scale, reach and sizes are measured, so that nobody need know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from edgekit import registry
from edgekit.errors import InputError
from edgekit.exporters.sources import Source
from edgekit.manifest import Task
from edgekit.tensors import Array, TensorSpec

SIDES = (192, 384, 768)  # pixels of the images that reach is measured on, until one is large enough
STEPS = (1, 2, 4, 8, 16, 32, 64)
TILE = 256  # pixels a side
EDGE = 8  # pixels around such an image that are changed


def completed(task: Task, sources: Mapping[str, Source]) -> Task:
    """The task with the settings that the networks themselves tell, where the caller left them out.

    Raises:
        InputError: settings are missing or wrong; names the first, and those that the task has.
    """
    kind = registry.find("tasks", task.name)
    measure = MEASURED.get(task.name)
    settings = dict(task.settings)
    if measure is not None:
        settings = {**measure(sources, settings), **settings}
    try:
        msgspec.convert(settings, kind.Settings)
    except msgspec.ValidationError as error:
        names = ", ".join(field.name for field in msgspec.structs.fields(kind.Settings))
        raise InputError(f"the settings of task '{task.name}' are wrong: {error}; it has {names}") from error
    return Task(task.name, settings)


def _enlarging(sources: Mapping[str, Source], given: Mapping[str, Any]) -> dict[str, Any]:
    return {"scale": scale(_only(sources, "upscale")), **_reaching(sources, given)}


def _reaching(sources: Mapping[str, Source], given: Mapping[str, Any]) -> dict[str, Any]:
    source = _only(sources, "stylize")
    found = {"step": given.get("step") or step(source)}
    return found if "halo" in given else found | {"halo": reach(source, found["step"])}


def _classified(sources: Mapping[str, Source], given: Mapping[str, Any]) -> dict[str, Any]:
    return _size(_only(sources, "classify").inputs[0])


def _generated(sources: Mapping[str, Source], given: Mapping[str, Any]) -> dict[str, Any]:
    inputs = _only(sources, "generate").inputs
    latent = next((s for s in inputs if s.name == "latent"), inputs[0])
    found: dict[str, Any] = {"latent": latent.shape[1]} if len(latent.shape) > 1 else {}
    label = next((s for s in inputs if s.name == "label" and len(s.shape) == 2), None)
    if label is not None and isinstance(label.shape[1], int):
        found["labels"] = [str(index) for index in range(label.shape[1])]
    return found


def _encoded(sources: Mapping[str, Source], given: Mapping[str, Any]) -> dict[str, Any]:
    if not {"encoder", "decoder"} <= set(sources):
        raise InputError(f"got the components {', '.join(sources)}: task 'autoencode' needs 'encoder' and 'decoder'")
    codes = sources["decoder"].inputs[0].shape
    return {"latent": codes[-1], **_size(sources["encoder"].inputs[0])}


MEASURED: dict[str, Callable[[Mapping[str, Source], Mapping[str, Any]], dict[str, Any]]] = {
    "upscale": _enlarging,
    "stylize": _reaching,
    "classify": _classified,
    "generate": _generated,
    "autoencode": _encoded,
}


def tiles(source: Source) -> list[dict[str, int]]:
    """The size of the tiles that files of fixed sizes are made for, where none is named: none for fixed networks."""
    free = {size for spec in source.inputs for size in spec.shape if isinstance(size, str)}
    return [{"height": TILE, "width": TILE}] if free == {"height", "width"} else []


def scale(source: Source) -> int:
    """How many times as large as its input a network's image is.

    Raises:
        InputError: not a whole number, or not the same in height and width.
    """
    given, made = _image(source, 64).shape, source.run([_image(source, 64)])[0].shape
    axes = _image_axes(source.inputs[0]), _image_axes(source.outputs[0])
    pairs = [(made[b], given[a]) for a, b in zip(*axes, strict=True)]
    factors = {large // small if large % small == 0 else 0 for large, small in pairs}
    if len(factors) != 1 or 0 in factors:
        raise InputError(f"the network makes an image of {made} of one of {given}: expected a whole enlargement")
    return factors.pop()


def step(source: Source) -> int:
    """What the sizes that a network takes are multiples of: the least of STEPS whose result has the right size."""
    factor = scale(source)
    if not _free(source):
        return 1
    for candidate in STEPS:
        image = _image(source, STEPS[-1] + candidate)
        try:
            made = source.run([image])[0]
        except Exception:  # what a module raises of a size that it cannot take is its own
            continue
        wanted = [image.shape[axis] * factor for axis in _image_axes(source.inputs[0])]
        if [made.shape[axis] for axis in _image_axes(source.outputs[0])] == wanted:
            return candidate
    raise InputError(f"the network takes images of no size tried, up to multiples of {STEPS[-1]}")


def reach(source: Source, multiple: int = 1) -> int | None:
    """Input pixels around an output pixel that it depends on; None where that is the whole image.

    The outermost pixels of a random image are changed: as far as one bit of the result changes with them, so
    far does the network look. Edges at every place of its cells of `multiple` pixels are tried.
    """
    sides = [-(-side // multiple) * multiple for side in SIDES] if _free(source) else [0]
    for side in sides:
        image = _image(source, side)
        width = min(image.shape[axis] for axis in _image_axes(source.inputs[0]))
        found = max(_changed(source, image, EDGE + shift) for shift in range(multiple))
        if found < width // 2 - EDGE - multiple:
            return found
    return None


def _changed(source: Source, image: Array, edge: int) -> int:
    """How far into the image the result changes, in input pixels, when `edge` pixels around it do."""
    rows, columns = _image_axes(source.inputs[0])
    inside: list[slice] = [slice(None)] * image.ndim
    inside[rows] = inside[columns] = slice(edge, -edge)
    other = np.random.default_rng(1).random(image.shape, np.float32) * np.float32(_span(source.inputs[0]))
    other[tuple(inside)] = image[tuple(inside)]
    one, two = (source.run([x])[0].astype(np.float64) for x in (image, other))
    rows, columns = _image_axes(source.outputs[0])
    changed = (one != two).any(axis=tuple(a for a in range(one.ndim) if a not in (rows, columns)))
    if not changed.any():
        return 0
    depth = _depths(*changed.shape)[changed].max() + 1
    factor = one.shape[rows] / image.shape[_image_axes(source.inputs[0])[0]]
    return max(0, int(np.ceil(depth / factor)) - edge)


def _depths(height: int, width: int) -> Array:
    """How many pixels each lies from the nearest end of the image."""
    y, x = np.minimum(np.arange(height), np.arange(height)[::-1]), np.minimum(np.arange(width), np.arange(width)[::-1])
    return np.minimum(y[:, None], x[None, :])


def _image(source: Source, side: int) -> Array:
    """A random image as the network takes it, `side` pixels high and wide where that is free."""
    spec = source.inputs[0]
    shape = tuple(size if isinstance(size, int) else side for size in spec.shape)
    low = spec.range[0] if spec.range else 0.0
    return low + np.random.default_rng(0).random(shape, np.float32) * np.float32(_span(spec))


def _span(spec: TensorSpec) -> float:
    return spec.range[1] - spec.range[0] if spec.range else 1.0


def _free(source: Source) -> bool:
    return any(isinstance(size, str) for size in source.inputs[0].shape)


def _size(spec: TensorSpec) -> dict[str, Any]:
    """Height and width of an image input, where they are fixed."""
    if spec.layout is None:
        return {}
    rows, columns = _image_axes(spec)
    found = {"height": spec.shape[rows], "width": spec.shape[columns]}
    return {name: size for name, size in found.items() if isinstance(size, int)}


def _image_axes(spec: TensorSpec) -> tuple[int, int]:
    """The axes of height and width.

    Raises:
        InputError: it is no image.
    """
    if spec.layout is None:
        raise InputError(f"{spec.name} is {spec}: expected an image, NCHW or NHWC; state its layout")
    return spec.layout.index("H"), spec.layout.index("W")


def _only(sources: Mapping[str, Source], task: str) -> Source:
    """The one component of a task that runs one.

    Raises:
        InputError.
    """
    if "model" not in sources:
        raise InputError(f"got the components {', '.join(sources)}: task '{task}' needs one of the name 'model'")
    return sources["model"]
