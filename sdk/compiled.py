"""Compiled networks, kept in the user's cache so that the second load need not compile.

A file is used only if it is whole (it carries its SHA-256), belongs to this user, and nobody else may write to it or to
its folder: engines parse such files without much suspicion. Whoever may write there may decide what a network answers.
Nothing that goes wrong here is an error: the network is compiled as if there were no cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from edgekit.bundle import cache_folder, sha256

MAGIC = b"edgekit compiled 1\n"
DIGEST = 32
LARGEST = 2**28  # bytes of one network
LIMIT = 2**29  # bytes of all; what was not used longest goes first
OTHERS = stat.S_IWGRP | stat.S_IWOTH
_KEEPING = ContextVar("keeping", default=True)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """For networks that are opened once, as trials are, and loads that are to be measured cold: no default cache."""
    token = _KEEPING.set(False)
    try:
        yield
    finally:
        _KEEPING.reset(token)


class Shelf:
    """A folder of compiled networks by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, asked: bool | str) -> Shelf | None:
        """What an option asks for: True the user's cache, a folder, False none."""
        return None if asked is False or (asked is True and not _KEEPING.get()) else cls.at(asked)

    @classmethod
    def at(cls, asked: bool | str) -> Shelf:
        return cls(cache_folder() / "compiled" if isinstance(asked, bool) else Path(asked))

    def read(self, key: str) -> bytes | None:
        """The network of this key; None where there is none that can be trusted."""
        path = self.folder / key
        try:
            if not _ours(self.folder.lstat()):
                return None
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
            with open(handle, "rb") as file:
                facts = os.fstat(handle)
                if not (stat.S_ISREG(facts.st_mode) and _ours(facts) and facts.st_size <= LARGEST + 2**10):
                    return None
                head, data = file.read(len(MAGIC) + DIGEST), file.read()
        except OSError:
            return None
        if head != MAGIC + hashlib.sha256(data).digest():
            self.drop(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def write(self, key: str, *parts: bytes | memoryview) -> None:
        """Keep a network, in parts or one: whole or not at all, whatever else writes it at the same time."""
        if sum(len(part) for part in parts) > LARGEST:
            return
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _ours(self.folder.lstat()):
                return
            handle, partial = tempfile.mkstemp(prefix=".", dir=self.folder)  # which only this user may read
            try:
                with open(handle, "wb") as file:
                    file.write(MAGIC + digest.digest())
                    file.writelines(parts)
                os.replace(partial, self.folder / key)  # noqa: PTH105  # both are strings of the same folder
            finally:
                Path(partial).unlink(missing_ok=True)
            self._bound()

    def place(self, key: str) -> Path | None:
        """Where an engine that reads and writes its own file may keep it; None where others may write there too."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._bound()
            path = self.folder / key
            if _ours(self.folder.lstat()) and (not path.exists() or _ours(path.lstat())):
                return path
        return None

    def drop(self, key: str) -> None:
        """Forget a network that its engine did not take."""
        with contextlib.suppress(OSError):
            (self.folder / key).unlink(missing_ok=True)

    def _bound(self) -> None:
        kept = sorted((p for p in self.folder.iterdir()), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        total = 0
        for path in kept:
            total += path.stat().st_size
            if total > LIMIT:
                path.unlink(missing_ok=True)


def key_of(files: Iterable[Path], about: object, hashes: Iterable[str] = ()) -> str:
    """Names a compiled network by the bytes it was made of, and all else that it depends on.

    `hashes` are the files' SHA-256, where they are known; left out, the files are read.
    """
    digest = hashlib.sha256(repr(about).encode())
    for found in hashes or map(sha256, files):
        digest.update(bytes.fromhex(found))
    return digest.hexdigest()[:40]


def _ours(facts: os.stat_result) -> bool:
    """Whether this user alone may write to it, where the system knows of users."""
    return not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & OTHERS)
