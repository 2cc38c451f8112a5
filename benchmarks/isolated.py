"""A process of its own for what is measured, spoken to in JSON lines: a crash or a hang of it is an answer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from edgekit.errors import EngineError

WORKER = (sys.executable, "-m", "edgekit.benchmarks.worker")


class Process:
    """A worker that answers in JSON lines. One that does not answer within `timeout_s` is killed."""

    def __init__(self, timeout_s: float, command: Sequence[str] = WORKER) -> None:
        self._timeout_s = timeout_s
        self._hung = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C is for the one who measures: what was measured is to be kept
        )

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Its answer to a command.

        Raises:
            EngineError: it died, or had to be killed; says with what last words.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        watchdog = threading.Timer(self._timeout_s, self._kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            raise EngineError(self._end())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what the dead process did not read cannot be flushed
                    stream.close()
        self._errors.close()

    def _kill(self) -> None:
        self._hung = True
        self._process.kill()

    def _end(self) -> str:
        code = self._process.wait()
        if self._hung:
            return f"the measured process did not answer for {self._timeout_s:g} s and was ended: {self._last_words()}"
        return f"the measured process died with exit code {code}: {self._last_words()}"

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"
