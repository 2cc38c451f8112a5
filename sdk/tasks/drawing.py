"""Drawing: what tasks that make images of a class share: counts, labels, seeds and latents, checked before the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from edgekit import images
from edgekit.errors import InputError
from edgekit.images import UInt8
from edgekit.tensors import Array, TensorSpec

Float32 = npt.NDArray[np.float32]
Label = int | str
LIMIT = 10_000  # images of one call
LISTED = 12  # classes that an error names


def counted(n: int | None, labels: Label | Sequence[Label] | None, latents: Array | None = None, rank: int = 1) -> int:
    """How many images are asked for: `n`, else as many as there are latents or labels, else one.

    `rank` is the number of axes of one latent: what has no more of them counts as one.

    Raises:
        InputError: not 1 to 10,000, or latents whose rows differ in length.
    """
    if n is None and latents is not None:
        shape = array_of(latents).shape
        n = shape[0] if len(shape) > rank else 1
    elif n is None:
        n = len(labels) if _several(labels) else 1
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= LIMIT:
        raise InputError(f"got n={n!r}: expected 1 to {LIMIT} images")
    return int(n)


def chosen(labels: Label | Sequence[Label] | None, n: int, names: Sequence[str]) -> list[int]:
    """The class of each of `n` images, as an index: in turn for None, the same for one label.

    Raises:
        InputError: an unknown label, or another number of them than n.
    """
    if labels is None:
        return [i % len(names) for i in range(n)]
    if not _several(labels):
        return [_index(labels, names)] * n
    if len(labels) != n:
        raise InputError(f"got {len(labels)} labels for {n} images: give one for all, or one for each")
    return [_index(label, names) for label in labels]


def _several(labels: object) -> TypeGuard[Sequence[Label]]:
    """Whether these are labels, in a list or an array, and not one alone."""
    return not isinstance(labels, str) and hasattr(labels, "__len__") and getattr(labels, "ndim", 1) > 0


def _index(label: object, names: Sequence[str]) -> int:
    given = label
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, str) and label.isdecimal() and len(label) < 10:  # an index, as the command line hands it on
        label = int(label)
    if isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(names):
        return int(label)
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    listed = f"{', '.join(names[:LISTED])}{more}"
    raise InputError(f"no class {given!r}: expected one of {listed}, or an index 0 to {len(names) - 1}")


def one_hot_of(index: int, count: int) -> Float32:
    """1 × count: 1 at the index, 0 elsewhere."""
    row = np.zeros((1, count), np.float32)
    row[0, index] = 1.0
    return row


def check_seed(seed: int | None) -> None:
    """Refuse what cannot be a seed.

    Raises:
        InputError: not None or a whole number from 0.
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
        raise InputError(f"got seed={seed!r}: expected a whole number from 0, or None for fresh numbers")


def drawn(n: int, size: int, seed: int | None) -> Float32:
    """n × size numbers from N(0, 1).

    Raises:
        InputError: the seed is not None or a whole number from 0.
    """
    check_seed(seed)
    return np.random.default_rng(seed).standard_normal((n, size), np.float32)


def array_of(latents: object) -> Array:
    """Latents that a caller gave, as an array of whatever type.

    Raises:
        InputError: rows of different lengths, or what else no array can be made of.
    """
    try:
        return np.asarray(latents)
    except (TypeError, ValueError) as error:
        raise InputError("latents are no array of numbers: expected rows of floats, all of one length") from error


def latents_of(latents: Array, n: int, size: int) -> Float32:
    """Latents that a caller gave, as float32 n × size.

    Raises:
        InputError: another shape, no numbers, or NaN.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array = np.atleast_2d(np.asarray(latents, np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(f"latents are no array of numbers: expected float {n} × {size}") from error
    if array.shape != (n, size):
        shape = " × ".join(str(d) for d in np.shape(latents)) or "one number"
        raise InputError(f"got latents of {shape}: expected float {n} × {size}, a row for each image")
    if not np.isfinite(array).all():
        raise InputError("latents hold NaN or infinity: expected numbers like those of N(0, 1)")
    return array


def way(n: int) -> npt.NDArray[np.float64]:
    """`n` places from 0 to 1, both included.

    Raises:
        InputError: n beyond 2 to 10,000.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= LIMIT:
        raise InputError(f"got n={n!r}: expected 2 to {LIMIT} images, both ends included")
    return np.linspace(0.0, 1.0, n)


def between(start: Float32, end: Float32, at: float) -> Float32:
    """The point `at` (0…1) of the way from one vector to the other by angle and by length (Shoemake 1985)."""
    lengths = float(np.linalg.norm(start)), float(np.linalg.norm(end))
    cosine = float(start @ end) / max(lengths[0] * lengths[1], 1e-12)
    angle = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    if np.sin(angle) < 1e-3:  # along one line: there is no arc to follow
        return np.asarray((1 - at) * start + at * end, np.float32)
    a, b = np.sin((1 - at) * angle) / np.sin(angle), np.sin(at * angle) / np.sin(angle)
    return np.asarray(a * start + b * end, np.float32)


def picture(tensor: Array, spec: TensorSpec) -> UInt8:
    """The first image of a batch as uint8 height × width × RGB; grey is repeated."""
    return images.as_uint8(images.from_tensor(tensor, spec))
