"""Forks: what an engine holds is neither used nor freed in a child, where the engine's threads are missing."""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from typing import Any

from edgekit.errors import DeviceUnavailable

_USED: dict[str, int] = {}  # by engine: the process that used it first


def keep_unfreed(thing: Any) -> None:
    """Let forked children of this process keep `thing` for ever.

    An engine's destructor waits for threads that a fork does not take along: garbage collection, or the end of the
    child, would hang (tried with ONNX Runtime 1.31 and OpenVINO 2026.4).
    """
    _living().add(thing)


class Stranded(DeviceUnavailable):
    """This is a fork of a process that used the engine."""


def require_own(engine: str) -> None:
    """Refuse an engine that this process's parent used; `open_session` opens it in a worker process then.

    Raises:
        Stranded.
    """
    if _USED.get(engine, os.getpid()) != os.getpid():
        raise Stranded(
            f"{engine}'s threads do not come along with a fork, and this process is one, of a process that had used it: "
            "start it with multiprocessing's 'spawn'"
        )


def used(engine: str) -> None:
    """Note, before it is, that this process uses an engine that cannot work in forks of it: they lack its threads, and it waits for them.

    (PyTorch 2.13, whose OpenMP hangs; OpenVINO 2026.4, where compiling a network on two threads hung in half of the tries.)

    Raises:
        Stranded: this is such a fork.
    """
    require_own(engine)
    _USED.setdefault(engine, os.getpid())


@cache
def _living() -> weakref.WeakSet[Any]:
    living: weakref.WeakSet[Any] = weakref.WeakSet()

    def keep() -> None:
        for thing in list(living):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=keep)
    return living
