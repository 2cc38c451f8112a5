"""How `edgekit export` is told of a model: shapes, examples, free dimensions and settings, read from its options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit import images
from edgekit.errors import InputError
from edgekit.tensors import Array, Dtype, dtype_named

T = TypeVar("T")
DEFAULT_SIDE = 64  # of a free dimension that no bucket names
LARGEST_EXAMPLE = 256  # pixels a side of an example picture where a free dimension leaves its size open


@dataclass(frozen=True)
class Inputs:
    """A model's inputs, as `edgekit.export` takes them: none where the model says itself what it takes."""

    names: tuple[str, ...] = ()
    arrays: tuple[Array, ...] = ()
    dynamic: Mapping[str, Mapping[int, str]] | None = None


def inputs(
    shapes: Sequence[str],
    examples: Sequence[str],
    dynamic: Sequence[str],
    buckets: Sequence[Mapping[str, int]],
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Inputs:
    """What --input, --example and --dynamic say; where no example is named, seeded numbers in the input's range.

    Raises:
        InputError: a form that cannot be read, or a name without an input.
    """
    stated = dict(map(shape, shapes))
    files = pairs(examples, str)
    free = free_axes(dynamic)
    small = min(buckets, key=lambda b: int(np.prod(list(b.values())))) if buckets else {}
    random = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for name in dict.fromkeys((*stated, *files)):
        sizes, dtype = stated.get(name, ([], "float32"))
        free.setdefault(name, {}).update({i: d for i, d in enumerate(sizes) if isinstance(d, str)})
        if name in files:
            arrays[name] = example(Path(files[name]), sizes, small)
            scaled = Path(files[name]).suffix != ".npy"
        else:
            fixed = [d if isinstance(d, int) else small.get(d, DEFAULT_SIDE) for d in sizes]
            arrays[name] = _drawn(random, fixed, dtype)
            scaled = dtype.startswith("float")
        if ranges and name in ranges and scaled:
            low, high = ranges[name]
            arrays[name] = (low + (high - low) * arrays[name]).astype(arrays[name].dtype)
    if unknown := sorted(set(free) - set(arrays)):
        raise InputError(f"got --dynamic for {', '.join(unknown)}: name each input with --input or --example")
    return Inputs(tuple(arrays), tuple(arrays.values()), {name: axes for name, axes in free.items() if axes})


def shape(text: str) -> tuple[str, tuple[list[int | str], Dtype]]:
    """ "image=1x3xheightxwidth" → ("image", ([1, 3, "height", "width"], "float32")); ":int64" names a dtype."""
    name, _, described = text.partition("=")
    sizes, _, dtype = described.partition(":")
    parts = sizes.split("," if "," in sizes else "x")
    if not name or not all(re.fullmatch(r"\d+|[A-Za-z]\w*", part) for part in parts):
        raise InputError(
            f"got --input '{text}': expected NAME=SHAPE, such as image=1x3xheightxwidth, or with commas between the "
            "sizes where a name has an x: tokens=1,max_length"
        )
    return name, ([int(part) if part.isdecimal() else part for part in parts], dtype_named(dtype or "float32"))


def free_axes(texts: Sequence[str]) -> dict[str, dict[int, str]]:
    """ "image:2=height,3=width" → {"image": {2: "height", 3: "width"}}."""
    found: dict[str, dict[int, str]] = {}
    for text in texts:
        name, _, axes = text.partition(":")
        matches = [re.fullmatch(r"(\d+)=([A-Za-z_]\w*)", part) for part in axes.split(",")]
        if not name or not all(matches):
            raise InputError(f"got --dynamic '{text}': expected NAME:AXIS=DIMENSION, such as image:2=height,3=width")
        found.setdefault(name, {}).update({int(m[1]): m[2] for m in matches if m})
    return found


def example(path: Path, sizes: Sequence[int | str], bucket: Mapping[str, int]) -> Array:
    """A file's value: an array of a .npy, or a picture as float32 in 0…1, brought to the shape that is stated.

    Raises:
        InputError: it is neither, or a picture for what is no image.
    """
    if path.suffix == ".npy":
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"got the example '{path}': it is no array: {error}") from error
    photo = images.read_image(path)[:, :, :3]
    wanted = list(sizes) or [1, 3, "height", "width"]
    last = wanted[-1] in (1, 3)
    if len(wanted) != 4 or wanted[3 if last else 1] not in (1, 3):
        raise InputError(f"got the picture '{path}' for an input of {wanted}: expected 1 x 3 x height x width")
    rows, columns = wanted[1:3] if last else wanted[2:4]
    height, width = (
        size if isinstance(size, int) else bucket.get(size, min(side, LARGEST_EXAMPLE))
        for size, side in zip((rows, columns), photo.shape[:2], strict=True)
    )
    array = images.middle(photo, height, width).astype(np.float32) / 255.0
    if wanted[3 if last else 1] == 1:
        array = array.mean(axis=2, keepdims=True)
    return np.ascontiguousarray(array[None] if last else array.transpose(2, 0, 1)[None])


def pairs(texts: Sequence[str], read: Callable[[str], T]) -> dict[str, T]:
    """ "name=value" of each option → {name: read(value)}."""
    found = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not name or not equals:
            raise InputError(f"got '{text}': expected NAME=VALUE")
        found[name] = read(rest)
    return found


def value(text: str) -> Any:
    """A setting's value: JSON where it is some, the lines of a file after "@" (its content, where that is JSON), else text."""
    if text.startswith("@"):
        try:
            content = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"got '{text}': the file cannot be read: {error}") from error
        if text.endswith(".json"):
            return value(content)
        return [line for line in content.splitlines() if line.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def numbers(text: str) -> list[float]:
    """ "0.5,0.5,0.5" → [0.5, 0.5, 0.5]."""
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError:
        raise InputError(f"got '{text}': expected numbers with commas between them, such as 0.5,0.5,0.5") from None


def bounds(text: str) -> tuple[float, float]:
    """ "0,255" → (0.0, 255.0)."""
    found = numbers(text)
    if len(found) != 2 or not found[0] < found[1]:
        raise InputError(f"got the range '{text}': expected LOW,HIGH, such as 0,255 or -1,1")
    return found[0], found[1]


def layout(text: str) -> Any:
    """NCHW or NHWC."""
    if text not in ("NCHW", "NHWC"):
        raise InputError(f"got the layout '{text}': expected NCHW or NHWC")
    return text


def bundle_name(source: str) -> str:
    """The folder that a bundle gets where none is named: my_models.py:build → build, org/Name-1B → Name-1B."""
    place, colon, factory = source.rpartition(":")
    if colon and place and factory.isidentifier():
        return factory
    path = Path(source)
    name = path.stem if path.suffix and not path.is_dir() and path.is_file() else path.name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
    return f"{name}-edge" if path.is_dir() and path.absolute().parent == Path.cwd() else name


def _drawn(random: np.random.Generator, sizes: Sequence[int], dtype: Dtype) -> Array:
    """Seeded values: 0…1 for float dtypes, 0 and 1 for the others, which any index table has."""
    if dtype.startswith("float"):
        return random.random(sizes, np.float32).astype(dtype)
    return random.integers(0, 2, sizes).astype(dtype)
