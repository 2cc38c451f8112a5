"""Shelf: large weights lie in a mapped file while a model is exported, so that they need not be in memory all along.

An engine that is compared with PyTorch holds the weights once or twice itself. While it does, those of PyTorch
are put to rest: their pages leave the process, and come back from the file when PyTorch runs again.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LARGE_BYTES = 2**29  # of a module's weights, from which a shelf is worth its writing
PART_BYTES = 2**16  # of one storage; smaller ones stay where they are


@contextlib.contextmanager
def shelved(modules: Iterable[nn.Module], folder: Path) -> Iterator[None]:
    """Keep the large weights of these modules in files in `folder` for the block; values and sharing stay the same.

    Nothing is done for small models, nor where the system cannot release mapped pages.
    """
    tensors = [t for module in modules for t in _tensors(module)]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    if sys.platform != "linux" or sum(sizes.values()) < LARGE_BYTES:
        yield
        return
    with tempfile.TemporaryDirectory(prefix=".weights-", dir=folder, ignore_cleanup_errors=True) as place:
        _move(tensors, lambda index, old: _mapped(Path(place, str(index)), old))
        try:
            yield
        finally:
            _release(tensors)
            _move(tensors, lambda index, old: _copied(old))


def rest(module: nn.Module) -> None:
    """Let a module's shelved weights, and what engines have freed, leave memory; the next use reads the file.

    The C library keeps freed memory otherwise: 0.9 of the 1.0 GB that a closed ONNX Runtime session had held.
    """
    if _release(list(_tensors(module))):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
        if trim is not None:
            trim(0)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module whose storage can be another: on the CPU, dense, of no class of their own."""
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu" and tensor.layout == torch.strided:
            yield tensor


def _move(tensors: list[Tensor], renewed: Callable[[int, torch.UntypedStorage], torch.UntypedStorage]) -> None:
    """Give each storage a new one, one after the other: never are two copies of all there.

    None is left out, as one small tensor of a file of weights that is mapped whole keeps all of it.
    """
    by_storage: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    for index, sharing in enumerate(by_storage.values()):
        storage = renewed(index, sharing[0].untyped_storage())
        for tensor in sharing:
            view = torch.empty(0, dtype=tensor.dtype)
            tensor.data = view.set_(storage, tensor.storage_offset(), tensor.size(), tensor.stride())


def _mapped(path: Path, old: torch.UntypedStorage) -> torch.UntypedStorage:
    """A copy in a mapped file, none of it in memory; a small one in memory."""
    if old.nbytes() < PART_BYTES:
        return _copied(old)
    with open(path, "wb") as file:
        file.truncate(old.nbytes())
    storage: Any = torch.UntypedStorage.from_file(str(path), True, old.nbytes())
    storage.copy_(old)
    _drop(storage)
    mapped: torch.UntypedStorage = storage
    return mapped


def _copied(old: torch.UntypedStorage) -> torch.UntypedStorage:
    storage = torch.empty(old.nbytes(), dtype=torch.uint8).untyped_storage()
    storage.copy_(old)
    return storage


def _release(tensors: list[Tensor]) -> int:
    """Drop the pages of storages in files that are shared with the mapping; how many there are."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    mapped = [storage for storage in storages.values() if storage.filename is not None]
    for storage in mapped:
        _drop(storage)
    return len(mapped)


def _drop(storage: torch.UntypedStorage) -> None:
    """What was written stays in the file: the mapping is shared with it."""
    whole = storage.nbytes() // mmap.PAGESIZE * mmap.PAGESIZE
    ctypes.CDLL(None).madvise(ctypes.c_void_p(storage.data_ptr()), ctypes.c_size_t(whole), mmap.MADV_DONTNEED)
