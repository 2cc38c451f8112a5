"""Serves one peer from any environment: opened once, then run when told, answered in JSON lines on stdout.

Run by its path, `python served.py FILE CLASS`, as a peer's environment has no edgekit. It imports nothing but the
standard library; the class of that file takes the settings of "open", any other command is a method of it.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from typing import Any, TextIO


def main(path: str, name: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print
    peer: Any = None
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        try:
            if do == "open":
                began = time.perf_counter()
                peer = runpy.run_path(path)[name](**command)
                told = {"load_s": time.perf_counter() - began, "versions": versions(peer.packages)}
                _answer(answers, {**told, **getattr(peer, "opened", {})})
            else:
                began = time.process_time()
                answer = getattr(peer, do)(**command)
                _answer(answers, {**answer, "processor_s": time.process_time() - began})
        except Exception as error:  # whatever a peer raises is a row of the report
            _answer(answers, {"error": f"{type(error).__name__}: {last_line(error)}"})


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    if not packages:
        return {}
    from importlib.metadata import PackageNotFoundError, version  # slow to import: not in what is timed

    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def last_line(error: Exception) -> str:
    """What an error says in the end, where engines name the cause."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [""])[-1][:300]


def _answer(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
