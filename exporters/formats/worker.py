"""Worker: one child process that runs a function of ours, for converters that are heavy, talkative or may crash.

The child starts at the first call, answers one call after another, and ends with this process. Calls and
answers are JSON, one to a line; files carry all that is large. What the child prints goes to a file, whose
last lines a failure shows.
"""

from __future__ import annotations

import atexit
import importlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any, NoReturn

import msgspec

from edgekit import errors
from edgekit.errors import EdgekitError, ExportError

BEAT_S = 5.0  # between two lines of progress
LOG_LINES = 12
SETTINGS = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class WorkerDied(ExportError):
    """The child crashed, was killed, or took too long (`slow`)."""

    def __init__(self, message: str, slow: bool = False) -> None:
        super().__init__(message)
        self.slow = slow


class Answer(msgspec.Struct, omit_defaults=True):
    """What a call gave, or the kind and message of the error that it raised."""

    value: Any = None
    error: str = ""
    message: str = ""


class Worker:
    """Calls "module:function" in a child process, with keyword arguments that JSON can hold.

    `title` names it in messages. Calls from several threads wait for one another.
    """

    def __init__(self, function: str, title: str) -> None:
        self.function, self.title = function, title
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id while it is alive."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def call(
        self,
        arguments: dict[str, Any],
        timeout_s: float,
        progress: Callable[[str], None] = lambda step: None,
    ) -> Any:
        """What the function returns.

        Raises:
            WorkerDied: it crashed, or took longer than `timeout_s`; the next call starts another child.
            EdgekitError: as the function raised it. ExportError: it raised anything else.
        """
        with self._lock:
            child, log = self._started()
            began = log.seek(0, os.SEEK_END)
            try:
                assert child.stdin is not None
                child.stdin.write(msgspec.json.encode(arguments) + b"\n")
                child.stdin.flush()
                line = self._awaited(timeout_s, progress)
            except BrokenPipeError:
                line = b""
            except BaseException:  # Ctrl-C too: nobody will read this answer
                self._stop()
                raise
            if not line:
                self._report_death(child, timeout_s, began)
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            kind = getattr(errors, answer.error, ExportError)
            raise (kind if isinstance(kind, type) and issubclass(kind, EdgekitError) else ExportError)(answer.message)
        return answer.value

    def stop(self) -> None:
        """End the child, and give its memory back; the next call starts another."""
        with self._lock:
            self._stop()

    def _started(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        if self.pid is None or self._log is None:
            self._stop()
            self._log = tempfile.TemporaryFile(prefix="edgekit-worker-")  # noqa: SIM115  # closed by _stop
            self._answers = queue.SimpleQueue()
            self._child = subprocess.Popen(
                [sys.executable, "-P", __file__, self.function],  # as a file: the package it is in imports much
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **SETTINGS},
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the child
            )
            threading.Thread(target=_listen, args=(self._child.stdout, self._answers), daemon=True).start()
            atexit.register(self.stop)
        assert self._child is not None
        return self._child, self._log

    def _awaited(self, timeout_s: float, progress: Callable[[str], None]) -> bytes:
        """The line that the child answers; empty where it ended or ran out of time."""
        started = time.monotonic()
        while (left := started + timeout_s - time.monotonic()) > 0:
            try:
                return self._answers.get(timeout=min(left, BEAT_S))
            except queue.Empty:
                progress(f"{self.title} at work for {time.monotonic() - started:.0f} s …")
        return b""

    def _report_death(self, child: subprocess.Popen[bytes], timeout_s: float, began: int) -> NoReturn:
        """Say how the child ended, with the last lines that it printed."""
        try:
            how = f"crashed ({_ending(child.wait(0.5))})"  # it closes the pipe a moment before it is gone
            slow = False
        except subprocess.TimeoutExpired:
            how = f"took longer than {timeout_s:g} s and was stopped: allow more (timeout_s), or export a smaller graph"
            slow = True
        lines = self._printed(began)
        self._stop()
        raise WorkerDied(f"{self.title} {how}" + (f"; it printed last: {lines}" if lines else ""), slow)

    def _printed(self, began: int) -> str:
        assert self._log is not None
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(began, size - 4000))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-LOG_LINES:])

    def _stop(self) -> None:
        """Kill the child: between two calls it has nothing to lose."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
        if self._log is not None:
            self._log.close()
            self._log = None
        atexit.unregister(self.stop)


def _listen(stream: IO[bytes] | None, answers: queue.SimpleQueue[bytes]) -> None:
    """Hand on each line that the child answers, and an empty one at its end."""
    assert stream is not None
    with stream:
        for line in stream:
            answers.put(line)
    answers.put(b"")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}: out of memory?" if name == "SIGKILL" else name


def serve(function: str) -> None:
    """The child: answer each line of standard input until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what converters print to standard output goes where errors go
    place, _, name = function.partition(":")
    for line in sys.stdin.buffer:
        try:
            called = getattr(importlib.import_module(place), name)
            answer = Answer(value=called(**msgspec.json.decode(line)))
        except Exception as error:  # whatever a converter throws
            answer = Answer(error=type(error).__name__, message=str(error) or type(error).__name__)
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
