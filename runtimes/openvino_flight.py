"""Runs under way in OpenVINO: one infer request each, begun and waited for by the caller's own thread."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from edgekit.errors import SessionClosed
from edgekit.flight import Flight, Inputs, Results
from edgekit.session import CLOSED
from edgekit.tensors import Array


class RequestFlight(Flight):
    """Requests in turn. No thread or callback of ours lies between the engine and the caller: AsyncInferQueue calls
    Python once a run, which costs small networks more than this does.
    """

    def __init__(
        self,
        requests: list[Any],
        feed: Callable[[Any, Inputs], list[Array]],
        take: Callable[[Any], Results],
    ) -> None:
        """`feed` hands a request its inputs and returns what must live as long; `take` waits and copies its results."""
        super().__init__(len(requests))
        self._idle = deque(requests)
        self._under_way: deque[tuple[Any, list[Array]]] = deque()
        self._feed, self._take = feed, take
        self._lock, self._closed = threading.Lock(), False

    def __len__(self) -> int:
        return len(self._under_way)

    def start(self, inputs: Inputs) -> None:
        with self._lock:
            self._refuse_closed()
            request = self._idle[0]
            held = self._feed(request, inputs)
            request.start_async()
            self._idle.popleft()
            self._under_way.append((request, held))

    def finish(self) -> Results:
        self._refuse_closed()
        request, _ = self._under_way[0]
        try:
            return self._take(request)
        finally:
            with self._lock:
                if not self._closed:
                    self._under_way.popleft()
                    self._idle.append(request)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for request, _ in self._under_way:
                with contextlib.suppress(Exception):  # what it would have raised is asked for no more
                    request.wait()
            self._under_way.clear()
            self._idle.clear()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SessionClosed(CLOSED)
