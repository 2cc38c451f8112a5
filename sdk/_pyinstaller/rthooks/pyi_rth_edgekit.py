"""Runs first in a frozen program: one that an isolated session started is its worker, and nothing of the program runs."""

from __future__ import annotations

import sys


def _work() -> None:
    if sys.argv[1:2] != ["--edgekit-module"]:  # edgekit.isolation.process.FLAG, which is not imported for a look
        return
    import importlib

    name = sys.argv[2]
    if name == "edgekit.isolation.worker":
        sys.argv = [name, *sys.argv[3:]]
        importlib.import_module(name).main()
    sys.exit(2)


_work()
