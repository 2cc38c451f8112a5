"""The worker of an isolated session: `python -m edgekit.isolation.worker DESCRIPTOR`, told what to do line by line."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

import msgspec
import numpy as np

from edgekit.errors import EdgekitError
from edgekit.isolation.arena import Arena, Place, end
from edgekit.isolation.request import Answer, Command, Request
from edgekit.opening import open_session
from edgekit.session import Session
from edgekit.tensors import Array


def main() -> None:
    """Answer on the original stdout until stdin ends; what engines print goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the program that owns this
    threading.Thread(target=_leave, daemon=True).start()
    worker = Worker(Arena(int(sys.argv[1])))
    for line in sys.stdin.buffer:
        answer = worker.answer(line) + b"\n"
        while answer:
            answer = answer[os.write(answers, answer) :]
    os._exit(0)


class Worker:
    """A session, and views of the shared arrays that it was last given."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._session: Session | None = None
        self._line, self._feeds, self._end = b"", {}, 0  # type: tuple[bytes, dict[str, Array], int]
        self._places: list[Place] = []
        self._results: list[Array] = []

    def answer(self, line: bytes) -> bytes:
        """Do what a line says; errors are answers."""
        try:
            if line == self._line:  # the same shapes again
                return msgspec.json.encode(Answer(run=tuple(self._run())))
            command = msgspec.json.decode(line, type=Command)
            return msgspec.json.encode(self._done(command, line))
        except EdgekitError as error:
            told = Answer((type(error).__name__, str(error)), pair=getattr(error, "pair", ("", "")))
            return msgspec.json.encode(told)
        except Exception as error:  # an engine's own
            return msgspec.json.encode(Answer(("EngineError", f"{type(error).__name__}: {error}")))

    def _done(self, command: Command, line: bytes) -> Answer:
        if command.open is not None:
            self._session = opened(command.open)
            session = self._session
            return Answer(None, session.inputs, session.outputs, session.why, session.others)
        assert self._session is not None
        if command.run is None:
            return Answer(placement=msgspec.to_builtins(self._session.placement()))
        arrays = [self._arena.array(place) for place in command.run]
        self._feeds = {spec.name: array for spec, array in zip(self._session.inputs, arrays, strict=True)}
        self._line, self._end = line, end(command.run)
        return Answer(run=tuple(self._run()))

    def _run(self) -> list[Place]:
        assert self._session is not None
        with self._session.borrow(self._feeds, check=False) as outputs:  # which the owner has checked
            arrays = list(outputs.values())
            found = [(place.dtype, place.shape) for place in self._places]
            if found != [(a.dtype.str, a.shape) for a in arrays] or self._places[0].offset < self._end:
                self._places = self._arena.places(arrays, self._end)
                self._results = [self._arena.array(place) for place in self._places]
            for result, array in zip(self._results, arrays, strict=True):
                np.copyto(result, array)
        return self._places


def opened(request: Request) -> Session:
    """The session that a request asks for."""
    asked = {f: getattr(request, f) for f in request.__struct_fields__ if f not in ("source", "runtime", "options")}
    options = request.options.made() if request.options else None
    return open_session(request.source, request.runtime, options=options, **asked)


def _leave() -> None:
    """Go when the owner does, also from within an engine's call: wait for the other end of stdin to close."""
    watch = select.poll()
    watch.register(0, 0)  # hang-ups alone
    watch.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
