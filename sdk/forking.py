"""Forks: what an engine holds is neither used nor freed in a child, where the engine's threads are missing."""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from typing import Any

_USED: dict[str, int] = {}  # by engine: the process that used it first


def keep_unfreed(thing: Any) -> None:
    """Let forked children of this process keep `thing` for ever.

    An engine's destructor waits for threads that a fork does not take along: garbage collection, or the end of the
    child, would hang (tried with ONNX Runtime 1.31 and OpenVINO 2026.4).
    """
    _living().add(thing)


def used(engine: str) -> None:
    """Note that this process uses an engine that cannot work in forks of it: they lack its threads, and it waits for them.

    (PyTorch 2.13, whose OpenMP hangs; OpenVINO 2026.4, where compiling a network on two threads hung in half of the tries.)
    """
    _USED.setdefault(engine, os.getpid())


def stranded(engine: str) -> bool:
    """Whether this is a fork of a process that used the engine; with "auto", any such engine."""
    users = _USED.values() if engine == "auto" else [_USED[engine]] if engine in _USED else []
    return any(user != os.getpid() for user in users)


@cache
def _living() -> weakref.WeakSet[Any]:
    living: weakref.WeakSet[Any] = weakref.WeakSet()

    def keep() -> None:
        for thing in list(living):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=keep)
    return living
