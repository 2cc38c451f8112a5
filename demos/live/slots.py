"""Slot: room for one item, the latest; whoever comes late gets the newest, and what nobody took is counted."""

from __future__ import annotations

import threading
import time
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Taken(NamedTuple, Generic[T]):
    """An item, and its number in the slot: hand it to the next `take` to get a newer one."""

    number: int
    item: T


class Slot(Generic[T]):
    """One writer, any number of readers. There is no queue: what is old is of no use to a live view."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._number = 0
        self._read = True  # whether anybody took the item that is there
        self._closed = False
        self.dropped = 0

    def put(self, item: T) -> None:
        """Leave an item in place of the one before it, which counts as dropped if nobody took it."""
        with self._changed:
            self._place(item)

    def hand(self, item: T, timeout: float) -> bool:
        """Leave an item once the one before it was taken: for a writer that loses nothing.

        Returns:
            False where it was not taken in `timeout` seconds, or the slot is closed: the item was not left.
        """
        with self._changed:
            free = self._changed.wait_for(lambda: self._read or self._closed, timeout)
            if free and not self._closed:
                self._place(item)
                return True
            return False

    def take(self, seen: int = 0, timeout: float | None = None) -> Taken[T] | None:
        """The latest item, once its number is above `seen`; None after `timeout` seconds, or when the slot is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > seen or self._closed, timeout)
            if self._number <= seen or self._item is None:
                return None
            self._read = True
            self._changed.notify_all()  # a writer may wait in `hand`
            return Taken(self._number, self._item)

    def emptied(self, timeout: float) -> bool:
        """Wait until what is there was taken."""
        with self._changed:
            return self._changed.wait_for(lambda: self._read or self._closed, timeout)

    def close(self) -> None:
        """Wake everybody who waits; the last item can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def _place(self, item: T) -> None:
        if self._closed:
            return
        self.dropped += not self._read
        self._item, self._read = item, False
        self._number += 1
        self._changed.notify_all()


def now() -> float:
    """Seconds of the clock that all of the pipeline measures with."""
    return time.perf_counter()
