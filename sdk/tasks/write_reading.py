"""Reading: one text in the making, a session of a graph and the states between its runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.session import Session
from edgekit.tasks.write_settings import TOKENS, WriteSettings
from edgekit.tensors import Array, TensorSpec
from edgekit.text import NOWHERE, Floats

EMPTY = 1e9  # the age of a slot that holds nothing yet: attention to it vanishes
AT_ONCE = 64  # tokens that a graph with their number free reads in one run


class TextReading(ABC):
    """Reads tokens, and gives the logits of the next. Not thread-safe."""

    @abstractmethod
    def read(self, tokens: Sequence[int]) -> Floats:
        """Read one token or more; returns the logits of the next, float32, one a token of the vocabulary."""


class Reading(TextReading):
    """A step graph: one token a run."""

    def __init__(self, session: Session, settings: WriteSettings) -> None:
        self._session, self._states, self._context = session, settings.states, settings.context
        self._feeds: dict[str, Array] = {s.name: np.zeros(_sizes(s), s.dtype) for s in session.inputs}
        self._token = self._feeds["token"]
        if settings.context:
            self._feeds["distance"].fill(EMPTY)
        self._slot = 0

    def read(self, tokens: Sequence[int]) -> Floats:
        for token in tokens[:-1]:
            self.step(token)
        return self.step(tokens[-1])

    def feeds(self, token: int) -> dict[str, Array]:
        """What the graph gets to read this token; the same arrays every time."""
        self._token[0] = token
        return self._feeds

    def step(self, token: int) -> Floats:
        """Read one token; returns the logits of the next, float32, one a token of the vocabulary."""
        with self._session.borrow(self.feeds(token), check=False) as results:
            logits: Floats = results["logits"][0].copy()
            for state in self._states:
                into = self._feeds[state.input]
                if state.kind == "append":
                    into = into[(slice(None),) * state.axis + (self._slot,)]
                np.copyto(into, results[state.output])
        if self._context:
            distance = self._feeds["distance"]
            distance += 1.0
            distance[0, self._slot] = 1.0
            self._slot = (self._slot + 1) % self._context
        return logits


class ChunkReading(TextReading):
    """A graph that reads several tokens a run: a prompt in chunks, what follows one by one.

    New columns go over the oldest of the ring; a token sees the `context` tokens before it, however they were
    read. A file of fixed size takes fewer tokens too: the places before them are filled with a token at
    NOWHERE, which no other sees.

    Args:
        opened: a session of the graph for a number of tokens.
        widths: the numbers of tokens there are files for, ascending; none where it is free.
        inputs: the tensors that the graph takes.
    """

    def __init__(
        self,
        opened: Callable[[int], Session],
        settings: WriteSettings,
        widths: Sequence[int],
        inputs: Sequence[TensorSpec],
    ) -> None:
        self._opened, self._settings, self._widths = opened, settings, widths
        self._largest = min(max(widths, default=AT_ONCE), settings.context)
        shapes = {s.name: s for s in inputs}
        self._slots = np.full((1, settings.context), NOWHERE, np.int32)
        self._rings = {s.input: np.zeros(_sizes(shapes[s.input]), shapes[s.input].dtype) for s in settings.states}
        self._axes = [(self._rings[s.input], s.output, (slice(None),) * s.axis) for s in settings.states]
        self._feeds: dict[int, dict[str, Array]] = {}
        self._position = 0

    def read(self, tokens: Sequence[int]) -> Floats:
        for first in range(0, len(tokens), self._largest):
            logits = self._run(tokens[first : first + self._largest])
        return logits

    def _run(self, tokens: Sequence[int]) -> Floats:
        count = len(tokens)
        width = next((w for w in self._widths if w >= count), count)
        feeds, spare = self._fed(width), width - count
        feeds[TOKENS][0, spare:] = tokens
        feeds["positions"][0, :spare] = NOWHERE
        feeds["positions"][0, spare:] = np.arange(self._position, self._position + count)
        places = self._places(count)
        with self._opened(width).borrow(feeds, check=False) as results:
            logits: Floats = results["logits"][0].copy()
            for ring, output, before in self._axes:
                ring[(*before, places)] = results[output][(*before, slice(spare, None))]
        self._slots[0, places] = feeds["positions"][0, spare:]
        self._position += count
        return logits

    def _fed(self, width: int) -> dict[str, Array]:
        """What the graph gets to read so many tokens; the same arrays every time."""
        if width not in self._feeds:
            row = {name: np.zeros((1, width), np.int32) for name in (TOKENS, "positions")}
            self._feeds[width] = {**row, "slots": self._slots, **self._rings}
        return self._feeds[width]

    def _places(self, count: int) -> slice | Array:
        """The oldest slots of the ring."""
        first, context = self._position % self._settings.context, self._settings.context
        if first + count <= context:
            return slice(first, first + count)
        return np.arange(first, first + count) % context


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)
