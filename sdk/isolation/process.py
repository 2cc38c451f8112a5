"""A process of its own, asked in lines over a pipe: a crash or a hang of it is an answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from typing import Any, BinaryIO

from edgekit.errors import InputError, RuntimeCrashed

FLAG = "--edgekit-module"  # by which a frozen program is told to be a worker, see sdk/_pyinstaller
WORDS = 2**14  # bytes of last words that are read
MOST_SAID = 2**20  # bytes that a worker may say before its file is emptied
LEAVING_S = 2.0  # what a worker that was told to go is given
CAUSES = {
    signal.SIGKILL: "ended from outside, most often for want of memory",
    signal.SIGILL: "an instruction that this processor lacks",
}


class Process:
    """A worker, such as `module("edgekit.isolation.worker")`. One that does not answer in time is ended.

    It goes with its owner: by `stop`, at garbage collection, at the interpreter's exit; and it reads the end of its
    input where its owner was killed. `title` names it in errors.
    """

    def __init__(self, command: Sequence[str], *, title: str = "the process", files: Sequence[int] = ()) -> None:
        """Starts it. `files` are descriptors that it inherits by the same numbers.

        One of this Python finds modules where this process does; one of another Python where that does.
        """
        own = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} if command[0] == sys.executable else {}
        self._title = title
        self._errors = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (lives as long as the process)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env={**os.environ, "PYTHONSAFEPATH": "1", **own},
            pass_fds=files,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self.stop = weakref.finalize(self, _ended, self._process, self._errors, os.getpid())

    def ask(self, command: dict[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
        """Its answer to a command, both as JSON.

        Raises:
            RuntimeCrashed: it died, or had to be ended; says with what last words.
        """
        answer: dict[str, Any] = json.loads(self.ask_line(json.dumps(command).encode() + b"\n", timeout_s))
        return answer

    def ask_line(self, line: bytes, timeout_s: float | None = None) -> bytes:
        """Its answer to a line, both with the line's end. Once interrupted, it is ended: its answer would come too late.

        Raises:
            RuntimeCrashed.
        """
        try:
            if os.fstat(self._errors.fileno()).st_size > MOST_SAID:
                self._errors.truncate(0)
            while line:
                line = line[os.write(self._in, line) :]
            return self._read_line(None if timeout_s is None else time.monotonic() + timeout_s)
        except TimeoutError:
            self._process.kill()
            raise self._crashed(f"did not answer for {timeout_s:g} s and was ended") from None
        except (BrokenPipeError, EOFError):
            raise self._crashed() from None
        except BaseException:  # Ctrl-C among them
            self._process.kill()
            raise

    def _read_line(self, deadline: float | None) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1e3
            if not self._poll.poll(left_ms):
                raise TimeoutError
            said = os.read(self._out, 2**16)
            if not said:
                raise EOFError
            line += said
        return line

    def _crashed(self, how: str = "") -> RuntimeCrashed:
        try:
            code = self._process.wait(LEAVING_S)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            self._process.kill()
            code = self._process.wait()
        error = RuntimeCrashed(f"{self._title} {how or ending(code)}: {last_words(self._errors)}")
        error.exit_code = code
        self.stop()
        return error


def module(name: str) -> list[str]:
    """The command by which this program starts a module of edgekit as a process.

    Raises:
        InputError: the program is frozen by something else than PyInstaller, or has no interpreter of its own.
    """
    if os.name != "posix":
        raise InputError("a process of its own needs pipes and files as POSIX has them: use isolate=False here")
    if getattr(sys, "frozen", False) and hasattr(sys, "_MEIPASS"):
        return [sys.executable, FLAG, name]
    if getattr(sys, "frozen", False) or not sys.executable:
        raise InputError("a process of its own needs a Python to start, which this program has not: use isolate=False")
    return [sys.executable, "-m", name]


def ending(code: int) -> str:
    """ "died of SIGSEGV (signal 11)", for an exit code as `subprocess` has it."""
    if code >= 0:
        return f"died with exit code {code}"
    try:
        found = signal.Signals(-code)
    except ValueError:
        return f"died of signal {-code}"
    cause = f", {CAUSES[found]}" if found in CAUSES else ""
    return f"died of {found.name} (signal {-code}{cause})"


def last_words(stream: BinaryIO) -> str:
    """The last line that was written to a file, for a message."""
    with contextlib.suppress(OSError, ValueError):
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - WORDS))
        if lines := stream.read().decode(errors="replace").strip().splitlines():
            return f"its last words were '{lines[-1].strip()[:300]}'"
    return "it said nothing"


def _ended(process: subprocess.Popen[bytes], errors: BinaryIO, owner: int) -> None:
    """Close its input, by which it goes; end it where it does not. Never in a forked child, whose it is not."""
    if os.getpid() != owner:
        return
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(LEAVING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    errors.close()
