"""Text: one text in the making, from the logits of its next token to the characters that are certain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.text import Floats, Sampling, Stops, Stream


@dataclass(frozen=True)
class Ends:
    """What ends a text: strings, tokens, and the number of tokens that it may have."""

    stops: Stops
    tokens: tuple[int, ...]
    count: int


class Text:
    """`tokens` are what was read and written so far; `done` says that no more come. Not thread-safe."""

    def __init__(
        self, tokens: list[int], sampling: Sampling, ends: Ends, random: np.random.Generator, stream: Stream
    ) -> None:
        self.tokens, self.done = tokens, False
        self._sampling, self._ends, self._random, self._stream = sampling, ends, random, stream
        self._left = ends.count

    def push(self, logits: Floats) -> str:
        """Draw the next token; returns the characters that are certain by now, "" where none is."""
        token = self._sampling.pick(logits, self.tokens, self._random)
        if token in self._ends.tokens:
            return self._rest()
        self.tokens.append(token)
        self._left -= 1
        piece = self._ends.stops.pass_on(self._stream.push(token))
        if self._ends.stops.met:
            self.done = True
            return piece
        return piece if self._left else piece + self._rest()

    def _rest(self) -> str:
        """The end: what was held back."""
        self.done = True
        return self._ends.stops.pass_on(self._stream.rest()) + self._ends.stops.rest()
