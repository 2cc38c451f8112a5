"""IsolatedSession: a session whose engine runs in a process of its own, started again after it died."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from edgekit import errors
from edgekit.errors import EngineError, RuntimeCrashed
from edgekit.isolation.arena import Arena, Place
from edgekit.isolation.process import Process, module
from edgekit.isolation.request import Answer, Command, Isolation, Request
from edgekit.session import Placement, Session
from edgekit.tensors import Array

WORKER = "edgekit.isolation.worker"
REMEDY = "the next call starts it again; if it dies again, take another runtime=, device= or precision="


class IsolatedSession(Session):
    """What `open_session(…, isolate=True)` gives: everything that a session does, one run at a time.

    Arrays travel through shared memory, copied once each way; their places, and all else, as JSON over a pipe.
    """

    def __init__(self, request: Request, isolate: bool | Isolation, because: str = "") -> None:
        """Starts the worker and opens the session there, so that errors come here. `because` is told by `placement`."""
        super().__init__()
        self._because = because
        self._request = request
        self._isolation = isolate if isinstance(isolate, Isolation) else Isolation()
        self._arena = Arena()
        self._process: Process | None = None
        self._shapes: list[tuple[str, tuple[int, ...]]] = []
        self._line, self._feeds = b"", []  # type: tuple[bytes, list[Array]]
        self._said, self._results = b"", []  # type: tuple[bytes, list[Array]]
        try:
            opened = self._started()
        except BaseException:
            self._close()
            raise
        self.inputs, self.outputs = opened.inputs, opened.outputs
        self.why, self.others = opened.why, opened.others

    def placement(self) -> Placement:
        """Where the model runs, read from the engine in its process."""
        with self._lock:
            self._refuse_closed()
            answer = self._asked(msgspec.json.encode(Command()) + b"\n")
        placement = msgspec.convert(_sound(answer).placement, Placement)
        return replace(placement, why="; ".join(filter(None, (self.why, self._because))))

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        shapes = [(array.dtype.str, array.shape) for array in arrays]
        if shapes != self._shapes:
            self._lay_out(arrays)
            self._shapes = shapes
        for feed, array in zip(self._feeds, arrays, strict=True):
            np.copyto(feed, array)
        said = self._asked(self._line)
        if said != self._said:
            self._results = [self._arena.array(Place(*place)) for place in _sound(said).run]
            self._said = said
        return [result.copy() if copy else result.view() for result in self._results]

    def _lay_out(self, arrays: Sequence[Array]) -> None:
        places = self._arena.places(arrays)
        self._feeds = [self._arena.array(place) for place in places]
        self._line = msgspec.json.encode(Command(run=tuple(places))) + b"\n"

    def _asked(self, line: bytes) -> bytes:
        """The worker's answer to a line; one that died before is started first."""
        if self._process is None:
            self._started()
        assert self._process is not None
        try:
            return self._process.ask_line(line, self._isolation.timeout_s)
        except BaseException as error:
            self._process.stop()
            self._process = None
            if isinstance(error, RuntimeCrashed):
                raise _advised(error) from None
            raise

    def _started(self) -> Answer:
        """Start the worker, and open the session in it."""
        title = f"the process of {self._request.runtime} for '{self._request.source}'"
        shared = self._arena.descriptor
        process = Process([*module(WORKER), str(shared)], title=title, files=(shared,))
        try:
            opening = msgspec.json.encode(Command(open=self._request)) + b"\n"
            answer = _sound(process.ask_line(opening, self._isolation.opening_s))
        except BaseException as error:
            process.stop()
            if isinstance(error, RuntimeCrashed):
                raise _advised(error) from None
            raise
        self._process = process
        return answer

    def _close(self) -> None:
        if self._process is not None:
            self._process.stop()
        self._process = None
        self._feeds, self._results = [], []
        self._arena.close()


def _sound(line: bytes) -> Answer:
    """An answer that is no error.

    Raises:
        EdgekitError: what the worker raised.
    """
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error is not None:
        name, text = answer.error
        if name == "WrongAnswer":
            raise errors.WrongAnswer(text, answer.pair)
        raise getattr(errors, name, EngineError)(text)
    return answer


def _advised(error: RuntimeCrashed) -> RuntimeCrashed:
    """The same with what to do."""
    advised = RuntimeCrashed(f"{error}; {REMEDY}")
    advised.exit_code = error.exit_code
    return advised
