"""Texts whose keys and values OpenVINO keeps in pages: nothing is copied between a run and the next."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from edgekit.errors import EngineError
from edgekit.flight import Flight
from edgekit.runtimes import openvino_borders
from edgekit.runtimes.openvino_paged import (
    BEGINS,
    LONGEST,
    PAGES,
    PAGES_BEGINS,
    PAST_LENS,
    pages_of,
)
from edgekit.runtimes.openvino_session import OpenVinoSession, engine
from edgekit.session import Model, Session
from edgekit.tensors import Array
from edgekit.text import NOWHERE, POSITIONS, SLOTS, TOKENS, Floats, TextReading

AT_ONCE = 512  # tokens of a prompt that are read in one run
AT_FIRST = 2**28  # bytes of pages that are made first, at most; memory that nothing was written to yet takes none


class PagedSession(OpenVinoSession):
    """A language model's network as `openvino_paged.page` changed it. `run` takes and gives what the file's would, by way of
    pages: it is there to be checked by a bundle's golden values.
    """

    def __init__(
        self, compiled: Any, specs: openvino_borders.Specs, model: Model, device: str, besides: str = ""
    ) -> None:
        super().__init__(compiled, specs, model, device, f"; keys and values stay in the engine's pages{besides}")
        taken = {port.get_any_name(): port for port in compiled.inputs}
        assert model.memory is not None
        self.memory, self._states = model.memory, model.memory.states
        ports = [taken[pages_of(state.input)] for state in self._states]
        self.shapes = [tuple(port.get_partial_shape()[axis].get_length() for axis in (1, 2, 3)) for port in ports]
        self.dtypes = [port.get_element_type() for port in ports]
        self._places = {port.get_any_name(): place for place, port in enumerate(compiled.inputs)}
        self._bound: weakref.ref[PagedReading] | None = None  # whose arrays and pages the request has
        self.streams = 1

    def reading(self, texts: int) -> TextReading:
        self._refuse_closed()
        return PagedReading(self, texts, self.memory.context)

    def _flight(self, room: int) -> Flight:
        return Session._flight(self, room)  # by `run`: the compiled network takes other inputs than the file

    def run_paged(self, reading: PagedReading) -> Floats:
        """Run on the arrays and pages of a reading; returns a copy of the logits.

        Raises:
            SessionClosed, EngineError.
        """
        self._refuse_closed()
        with self._turn:
            self._refuse_closed()
            try:
                if self._bound is None or self._bound() is not reading or reading.moved:
                    self._bind(reading)
                self._request.infer()
                logits: Floats = self._request.get_output_tensor(0).data.copy()
            except Exception as error:
                self._bound = None
                raise self._failed(error) from error
        return logits

    def let_go(self, reading: PagedReading) -> None:
        """Free the pages of a reading that is over; while others use the session they stay until the next text."""
        if self._process_id != os.getpid() or not self._lock.acquire(blocking=False):
            return
        try:
            if not self._closed and self._bound is not None and self._bound() is reading:
                self._bound = None
                self._hand_pages([self.empty(1, index) for index in range(len(self._states))])
        finally:
            self._lock.release()

    def empty(self, count: int, index: int) -> Any:
        """So many pages of a state."""
        return engine().Tensor(self.dtypes[index], engine().Shape([count, *self.shapes[index]]))

    def _hand_pages(self, pages: Sequence[Any]) -> None:
        for state, tensor in zip(self._states, pages, strict=True):
            self._request.set_input_tensor(self._places[pages_of(state.input)], tensor)

    def _bind(self, reading: PagedReading) -> None:
        """Hand over the arrays and pages of a reading, which stay the same for many runs."""
        self._bound = None  # whatever comes in between
        self._hand_pages(reading.pages)
        for name, array in reading.feeds.items():
            self._request.set_input_tensor(self._places[name], self._tensor(array, shared_memory=True))
        self._bound, reading.moved = weakref.ref(reading), False

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        feeds = {spec.name: array for spec, array in zip(self.inputs, arrays, strict=True)}
        rows = [self._row(feeds, text) for text in range(len(feeds[TOKENS]))]
        return [np.stack(parts) for parts in zip(*rows, strict=True)]

    def _row(self, feeds: dict[str, Array], text: int) -> list[Array]:
        """What the file's network gives for one text: the ring's columns go into pages, the new ones come out of them."""
        tokens, positions, slots = (feeds[name][text] for name in (TOKENS, POSITIONS, SLOTS))
        held, new = np.flatnonzero(slots != NOWHERE), np.flatnonzero(positions != NOWHERE)
        held = held[np.argsort(slots[held], kind="stable")]
        if np.any(np.diff([*slots[held], *positions[new]]) != 1):
            raise EngineError(
                f"openvino keeps the texts of '{self._model.path.name}' in pages: expected positions that follow one "
                f"another, got {slots[held].tolist()} and {positions[new].tolist()}"
            )
        rings = [feeds[state.input][text] for state in self._states]
        columns = [np.zeros((ring.shape[0], len(tokens), ring.shape[2]), np.float32) for ring in rings]
        if not new.size:  # a text that is given nothing
            return [np.zeros(int(self.outputs[0].shape[-1]), np.float32), *columns]
        reading = PagedReading(self, 1, len(held) + len(new))
        reading.begin(int(positions[new[0]]), [ring[:, held] for ring in rings])
        with closing(reading):
            logits = reading.read(tokens[new].tolist())
            for index, column in enumerate(columns):
                column[:, new] = reading.stored(index, len(held), len(new))
        return [logits, *columns]


class PagedReading(TextReading):
    """Texts in pages, each of so many tokens: a text has a list of pages, and takes another when its last is full. Pages
    that have come to lie behind what any token sees are used again.
    """

    def __init__(self, session: PagedSession, texts: int, context: int) -> None:
        self._session, self._context = session, context
        self._rows = session.shapes[0][1]  # tokens of a page
        self._short = session.dtypes[0].get_type_name() == "bf16"
        self._lists: list[list[int]] = [[] for _ in range(texts)]
        self._held = [0] * texts  # tokens in the pages of each text
        self._next = [0] * texts  # the position of each one's next token
        self._free: list[int] = []
        self._count = 0
        self._which: list[int] = []  # texts that the arrays are laid out for
        self.feeds: dict[str, Array] = {}  # what the network takes beside pages
        self.pages: list[Any] = []
        self.moved = False  # whether there are other arrays or pages than at the last run
        page = sum(dtype.size * math.prod(shape) for shape, dtype in zip(session.shapes, session.dtypes, strict=True))
        most = texts * (-(-context // self._rows) + 1)
        self._grow(max(1, min(most, AT_FIRST // page)))

    def read_all(self, texts: Sequence[Sequence[int]]) -> Floats:
        ones = [index for index, tokens in enumerate(texts) if len(tokens) == 1]
        if len(ones) == len(texts):
            return self._run(ones, np.array(texts, np.int32))
        logits: dict[int, Floats] = {}
        if ones:
            logits |= zip(ones, self._run(ones, np.array([texts[index] for index in ones], np.int32)), strict=True)
        for index, tokens in enumerate(texts):
            for chunk in _chunks(tokens if index not in logits else ()):
                logits[index] = self._run([index], np.array([chunk], np.int32))[0]
        given = next(iter(logits.values()))
        return np.stack([logits.get(index, given) for index in range(len(texts))])

    def begin(self, position: int, columns: Sequence[Array]) -> None:
        """Put columns of heads × tokens × size into the pages of the only text, whose next token has this position."""
        count = columns[0].shape[1]
        self._make_room(0, count)
        for index, column in enumerate(columns):
            for token in range(count):
                page, row = self._lists[0][token // self._rows], token % self._rows
                self._page(index)[page, :, row] = _bits(column[:, token]) if self._short else column[:, token]
        self._held[0], self._next[0] = count, position

    def stored(self, index: int, first: int, count: int) -> Array:
        """A state of the only text, heads × tokens × size."""
        places = [divmod(token, self._rows) for token in range(first, first + count)]
        found = np.stack([self._page(index)[self._lists[0][page], :, row] for page, row in places], axis=1)
        return _floats(found) if self._short else found

    def close(self) -> None:
        self._session.let_go(self)

    def _run(self, which: list[int], tokens: Array) -> Floats:
        """Read as many tokens of each of these texts."""
        count = tokens.shape[1]
        for index in which:
            self._make_room(index, count)
        if self.moved or which != self._which or self.feeds[TOKENS].shape != tokens.shape:
            self._lay_out(which, count)
        held = [self._held[index] for index in which]
        self.feeds[TOKENS][:] = tokens
        self.feeds[PAST_LENS][:] = held
        self.feeds[LONGEST][()] = max(held) + count
        np.add([[self._next[index]] for index in which], np.arange(count), out=self.feeds[POSITIONS], casting="unsafe")
        logits = self._session.run_paged(self)
        for index in which:
            self._held[index] += count
            self._next[index] += count
        return logits

    def _lay_out(self, which: list[int], count: int) -> None:
        """Arrays for so many tokens of each of these texts; the lists of pages stay as they are until `moved`."""
        texts, lists = len(which), [self._lists[index] for index in which]
        self.feeds = {
            TOKENS: np.zeros((texts, count), np.int32),
            POSITIONS: np.zeros((texts, count), np.int32),
            PAST_LENS: np.zeros(texts, np.int32),
            BEGINS: np.arange(0, (texts + 1) * count, count, dtype=np.int32),
            PAGES: np.array([page for pages in lists for page in pages], np.int32),
            PAGES_BEGINS: np.cumsum([0, *map(len, lists)], dtype=np.int32),
            LONGEST: np.zeros((), np.int32),
        }
        self._which, self.moved = which, True

    def _make_room(self, index: int, count: int) -> None:
        """Drop the pages of a text that its next tokens do not see, and give it those that they need."""
        pages, behind = self._lists[index], max(0, self._held[index] - self._context) // self._rows
        self._free += pages[:behind]
        del pages[:behind]
        self._held[index] -= behind * self._rows
        missing = -(-(self._held[index] + count) // self._rows) - len(pages)
        if missing > len(self._free):
            self._grow(max(missing - len(self._free), self._count // 4))
        pages += [self._free.pop() for _ in range(missing)]
        self.moved |= bool(behind or missing)

    def _grow(self, more: int) -> None:
        """Make so many pages more, and take what the others hold along."""
        count, self.moved = self._count + more, True
        for index in range(len(self._session.shapes)):
            made = self._session.empty(count, index)
            if self._count:
                made.data[: self._count] = self.pages[index].data[: self._count]
            self.pages[index : index + 1] = [made]
        self._free += reversed(range(self._count, count))
        self._count = count

    def _page(self, index: int) -> Array:
        """Pages of a state, of what NumPy knows: bits where they are bfloat16."""
        data: Array = self.pages[index].data
        return data.view(np.uint16) if self._short else data


def _bits(floats: Array) -> Array:
    """float32 → bfloat16, as uint16."""
    return ((np.ascontiguousarray(floats, np.float32).view(np.uint32) + 0x8000) >> 16).astype(np.uint16)


def _floats(bits: Array) -> Array:
    """bfloat16, as uint16 → float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _chunks(tokens: Sequence[int]) -> Iterator[Sequence[int]]:
    return (tokens[first : first + AT_ONCE] for first in range(0, len(tokens), AT_ONCE))
