"""Memory that two processes share: arrays lie in a file without a name, and only their places are told."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edgekit.errors import EngineError
from edgekit.tensors import Array

ALIGNMENT = 64  # a cache line, and what the widest vector loads like
STEP = 2**16  # bytes by which it grows, a multiple of every page size


class Place(NamedTuple):
    """Where an array lies: bytes from the start, dtype as NumPy writes it, shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


class Arena:
    """A file of memory, by a descriptor that a child process inherits. It grows and never shrinks.

    A view of an array stays good when it grows: old and new mappings are the same pages.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        """A new one, or one that was inherited."""
        self.descriptor = _fresh() if descriptor is None else descriptor
        self._map: mmap.mmap | None = None
        self.close = weakref.finalize(self, os.close, self.descriptor)

    def places(self, arrays: Sequence[Array], start: int = 0) -> list[Place]:
        """Places for arrays from `start` on, one after another, and room for them.

        Raises:
            EngineError: the system has no room for so much.
        """
        places = []
        for array in arrays:
            start = -(-start // ALIGNMENT) * ALIGNMENT
            places.append(Place(start, array.dtype.str, array.shape))
            start += array.nbytes
        self._reserve(start)
        return places

    def array(self, place: Place) -> Array:
        """The array at a place, not copied."""
        size = place.offset + int(np.prod(place.shape, dtype=np.int64)) * np.dtype(place.dtype).itemsize
        if self._map is None or size > len(self._map):
            self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return np.ndarray(place.shape, place.dtype, self._map, place.offset)

    def _reserve(self, size: int) -> None:
        have = os.fstat(self.descriptor).st_size
        wanted = max(1, -(-size // STEP)) * STEP
        if wanted <= have:
            return
        try:
            if hasattr(os, "posix_fallocate"):  # a file that is only lengthened kills who writes where there is no room
                os.posix_fallocate(self.descriptor, 0, wanted)
            else:
                os.ftruncate(self.descriptor, wanted)
        except OSError as error:
            raise EngineError(
                f"no {wanted / 2**20:.0f} MiB of memory to share with the engine's process ({error.strerror}): "
                "use isolate=False, or smaller inputs"
            ) from error


def end(places: Sequence[Place]) -> int:
    """Where the last of them ends, in bytes from the start."""
    if not places:
        return 0
    offset, dtype, shape = places[-1]
    return offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _fresh() -> int:
    if hasattr(os, "memfd_create"):  # in memory, and not within the bounds of /dev/shm, which are narrow in containers
        return os.memfd_create("edgekit")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
