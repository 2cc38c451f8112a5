"""Flight: runs of a session that are under way at the same time, begun and handed out in order."""

from __future__ import annotations

import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing

from edgekit.errors import SessionClosed
from edgekit.tensors import Array

Inputs = Mapping[str, Array]
Results = dict[str, Array]
Run = Callable[[Inputs], Results]


class Flight(ABC):
    """At most `room` runs under way."""

    def __init__(self, room: int) -> None:
        self.room = room

    @abstractmethod
    def __len__(self) -> int:
        """How many are under way."""

    @abstractmethod
    def start(self, inputs: Inputs) -> None:
        """Begin a run; the arrays must not change before `finish` has given its results.

        Raises:
            SessionClosed, and what the engine or the checks raise at once.
        """

    @abstractmethod
    def finish(self) -> Results:
        """Wait for the oldest run, and take its results, which are the caller's own.

        Raises:
            SessionClosed: the session was closed while it was under way. What the run raises.
        """

    @abstractmethod
    def close(self) -> None:
        """Drop what has not begun, and wait for the rest; a second call does nothing."""


class PooledFlight(Flight):
    """Runs on threads, each of which takes one of `runs` for the time of a run."""

    def __init__(self, runs: list[Run], room: int, closed: str) -> None:
        """`closed`: what to say where the session is closed in between."""
        super().__init__(room)
        self._idle: queue.SimpleQueue[Run] = queue.SimpleQueue()
        for run in runs:
            self._idle.put(run)
        self._pool = ThreadPoolExecutor(len(runs), thread_name_prefix="edgekit-map")
        self._under_way: deque[Future[Results]] = deque()
        self._closed = closed

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, inputs: Inputs) -> None:
        try:
            self._under_way.append(self._pool.submit(self._run, inputs))
        except RuntimeError as error:  # the pool is shut down
            raise SessionClosed(self._closed) from error

    def finish(self) -> Results:
        try:
            return self._under_way.popleft().result()
        except CancelledError as error:
            raise SessionClosed(self._closed) from error

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, inputs: Inputs) -> Results:
        run = self._idle.get()
        try:
            return run(inputs)
        finally:
            self._idle.put(run)


def in_order(begun: Callable[[], Flight], stream: Iterator[Inputs]) -> Iterator[Results]:
    """The results of a stream, each in its turn; what goes wrong is raised in the turn of its input.

    No more is taken from the stream than is under way. Whatever ends this, nothing is left running.
    """
    ended, failed = False, None
    with closing(begun()) as flight:
        while True:
            while not ended and len(flight) < flight.room:
                try:
                    flight.start(next(stream))
                except StopIteration:
                    ended = True
                except Exception as error:  # those before it come first
                    ended, failed = True, error
            if not len(flight):
                break
            yield flight.finish()
    if failed is not None:
        raise failed
