"""Reading: one text in the making, a session of a graph and the states between its runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.session import Session
from edgekit.tasks.write_settings import WriteSettings
from edgekit.tensors import Array, TensorSpec
from edgekit.text import NOWHERE, POSITIONS, SLOTS, TEXTS, TOKENS, Floats, TextReading

EMPTY = 1e9  # the age of a slot that holds nothing yet: attention to it vanishes
AT_ONCE = 256  # tokens of all texts that a graph with their number free reads in one run; of each text AT_LEAST
AT_LEAST = 64
FIRST_SLOTS = 64  # of a ring that grows


class Reading(TextReading):
    """A step graph: one token a run."""

    def __init__(self, session: Session, settings: WriteSettings) -> None:
        self._session, self._states, self._context = session, settings.states, settings.context
        self._feeds: dict[str, Array] = {s.name: np.zeros(_sizes(s), s.dtype) for s in session.inputs}
        self._token = self._feeds["token"]
        if settings.context:
            self._feeds["distance"].fill(EMPTY)
        self._slot = 0

    def read_all(self, texts: Sequence[Sequence[int]]) -> Floats:
        (tokens,) = texts
        for token in tokens[:-1]:
            self.step(token)
        return self.step(tokens[-1])[None]

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
    """A graph that reads several tokens a run, of one text or of several: prompts in chunks, what follows one by one.

    New columns go over the oldest of the ring; a token sees the `context` tokens before it, however they were
    read. Where the number of slots is free, the ring begins small and grows when it is full, so that a text pays
    for little more than its own length. A file of fixed size takes fewer tokens too: the places before them are filled
    with a token at NOWHERE, which no other sees. So are those before the shorter ones of several prompts.

    Args:
        opened: a session of the graph for a number of tokens.
        widths: the numbers of tokens there are files for, ascending; none where it is free.
        inputs: the tensors that the graph takes.
        texts: how many are read at once.
    """

    def __init__(
        self,
        opened: Callable[[int], Session],
        settings: WriteSettings,
        widths: Sequence[int],
        inputs: Sequence[TensorSpec],
        texts: int = 1,
    ) -> None:
        self._opened, self._settings, self._widths, self._texts = opened, settings, widths, texts
        self._largest = min(max(widths, default=max(AT_ONCE // texts, AT_LEAST)), settings.context)
        specs = {s.name: s for s in inputs}
        grows = specs[SLOTS].shape[1] == SLOTS
        self._capacity = min(FIRST_SLOTS, settings.context) if grows else settings.context
        sizes = {TEXTS: texts, SLOTS: self._capacity}
        self._slots = np.full((texts, self._capacity), NOWHERE, np.int32)
        self._rings = {s.input: np.zeros(_sizes(specs[s.input].bound(sizes)), np.float32) for s in settings.states}
        self._columns = [(s.input, s.output, (slice(None),) * s.axis) for s in settings.states]
        self._feeds: dict[int, dict[str, Array]] = {}
        self._written = 0  # columns of the ring
        self._positions = np.zeros((texts, 1), np.int32)  # of each text's next token

    def read_all(self, texts: Sequence[Sequence[int]]) -> Floats:
        longest = max(map(len, texts))
        padded = np.zeros((self._texts, longest), np.int32)
        for row, tokens in zip(padded, texts, strict=True):
            row[longest - len(tokens) :] = tokens
        places = np.arange(longest) - (longest - np.array([len(tokens) for tokens in texts]))[:, None]
        positions = np.where(places < 0, NOWHERE, self._positions + places)
        self._positions = self._positions + np.array([[len(tokens)] for tokens in texts])
        for first in range(0, longest, self._largest):
            logits = self._run(*(a[:, first : first + self._largest] for a in (padded, positions)))
        return logits

    def _run(self, tokens: Array, positions: Array) -> Floats:
        count = tokens.shape[1]
        width = next((w for w in self._widths if w >= count), count)
        self._make_room(count)
        feeds, spare = self._fed(width), width - count
        feeds[TOKENS][:, spare:] = tokens
        feeds[POSITIONS][:, :spare] = NOWHERE
        feeds[POSITIONS][:, spare:] = positions
        places = self._places(count)
        with self._opened(width).borrow(feeds, check=False) as results:
            logits: Floats = results["logits"].copy()
            for name, output, before in self._columns:
                self._rings[name][(*before, places)] = results[output][(*before, slice(spare, None))]
        self._slots[:, places] = positions
        self._written += count
        return logits

    def _fed(self, width: int) -> dict[str, Array]:
        """What the graph gets to read so many tokens; the same arrays every time."""
        if width not in self._feeds:
            row = {name: np.zeros((self._texts, width), np.int32) for name in (TOKENS, POSITIONS)}
            self._feeds[width] = {**row, SLOTS: self._slots, **self._rings}
        return self._feeds[width]

    def _make_room(self, count: int) -> None:
        """Let the ring grow by a quarter, FIRST_SLOTS at least, until the columns that come have a place, or it is as large as it may be."""
        capacity, wanted = self._capacity, min(self._written + count, self._settings.context)
        while capacity < wanted:
            quarter = capacity // 4 // FIRST_SLOTS * FIRST_SLOTS
            capacity = min(capacity + max(FIRST_SLOTS, quarter), self._settings.context)
        if capacity == self._capacity:
            return
        held = slice(0, self._capacity)
        slots, self._slots = self._slots, np.full((self._texts, capacity), NOWHERE, np.int32)
        self._slots[:, held] = slots
        for name, _, before in self._columns:
            old, axis = self._rings[name], len(before)
            self._rings[name] = np.zeros((*old.shape[:axis], capacity, *old.shape[axis + 1 :]), np.float32)
            self._rings[name][(*before, held)] = old
        self._capacity = capacity
        self._feeds.clear()

    def _places(self, count: int) -> slice | Array:
        """The oldest slots of the ring."""
        first, capacity = self._written % self._capacity, self._capacity
        if first + count <= capacity:
            return slice(first, first + count)
        return np.arange(first, first + count) % capacity


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(int(size) for size in spec.shape)
