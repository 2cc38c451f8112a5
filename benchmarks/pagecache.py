"""How much of a bundle's files lies in memory before a load, and how to put it out: a load is cold or it is not."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import InputError


def drop(paths: Sequence[Path]) -> None:
    """Ask the system to forget the clean pages of these files; those that a process has mapped stay.

    Raises:
        InputError: this system has no such call. OSError: there is no such file.
    """
    if not hasattr(os, "posix_fadvise"):
        raise InputError("this system cannot be asked to forget the pages of files: leave --drop-cache out")
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not written yet is not forgotten
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached(paths: Sequence[Path]) -> float | None:
    """The part of these files' pages that lies in memory, 0…1, by mincore(2); None where the system does not tell."""
    if not hasattr(os, "posix_fadvise"):  # Linux tells; what has no such call has another mincore, or none
        return None
    counts = [_pages(path) for path in paths if path.stat().st_size]
    total = sum(all_ for _, all_ in counts)
    return sum(held for held, _ in counts) / total if total else None


def _pages(path: Path) -> tuple[int, int]:
    """(pages in memory, all pages) of a file."""
    size = path.stat().st_size
    count = -(-size // mmap.PAGESIZE)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as mapped:
        held = (ctypes.c_ubyte * count)()
        anchor = ctypes.c_char.from_buffer(mapped)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), held)
        finally:
            del anchor
    return (0 if failed else sum(page & 1 for page in held)), count
