"""Text on the device: vocabulary, the states of a step graph, and drawing the next token from logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from edgekit.errors import InputError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Tokens = Sequence[int]
RECENT = 64  # tokens that the repetition penalty looks back over
# Of a graph that reads several tokens of several texts at once beside rings: its free dimensions, and its inputs
TEXTS, TOKENS, SLOTS, POSITIONS = "texts", "tokens", "slots", "positions"
NOWHERE = -(2**30)  # the position of a slot that holds nothing, and of a token that is there to fill up alone


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step graph hands from one step to the next, through the input and output tensors of these names.

    kind "replace": the output is the next step's input (a recurrent state, a buffer of past inputs).
    kind "append": the output is one new column, which the host writes into the input, a ring of slots
    along `axis`, over the oldest (a cache of keys or values). The big cache is never copied out. Where a graph
    reads several tokens at once, its output has that many columns along `axis`.
    """

    input: str
    output: str
    kind: Literal["replace", "append"]
    axis: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True)
class Memory:
    """What a language model's graph remembers of a text: its states, and how many tokens back it sees."""

    states: tuple[State, ...]
    context: int


class TextReading(ABC):
    """Some texts in the making: reads tokens, and gives the logits of the next. After an error it is over. Not thread-safe.

    Close it at the end, so that the engine lets go of what it keeps of the texts.
    """

    def read(self, tokens: Tokens) -> Floats:
        """Read one token or more of the only text; returns the logits of the next, float32, one a token of the vocabulary."""
        logits: Floats = self.read_all([tokens])[0]
        return logits

    @abstractmethod
    def read_all(self, texts: Sequence[Tokens]) -> Floats:
        """Read some tokens of each text; returns the logits of each one's next, float32 texts × tokens.

        A text that is given none stays as it is, and its row means nothing; one at least is given some.
        """

    def close(self) -> None:  # noqa: B027  # most hold arrays of their own alone
        """Nothing more is read; a second call does nothing."""


class Stream(Protocol):
    """Turns tokens into text as they come."""

    def push(self, token: int) -> str:
        """Take a token; returns the text that is certain by now, "" where that is none."""

    def rest(self) -> str:
        """The text that is still held back."""


class Codec(Protocol):
    """Turns text into tokens and back: a Vocabulary of characters, or a Tokenizer."""

    def __len__(self) -> int:
        """How many tokens there are."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Text → tokens, with those that the model's texts begin or end with if `special`; raises InputError."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens → text."""

    def stream(self, before: Tokens = ()) -> Stream:
        """What writes the tokens that follow these."""


class Vocabulary:
    """The characters that a model knows; a token is a character's place among them."""

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = tuple(characters)
        self._tokens = {character: token for token, character in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Text → tokens; none of them is special.

        Raises:
            InputError: no text, or a character that the model does not know, named with its place.
        """
        if not isinstance(text, str):
            raise InputError(f"got {type(text).__name__} for a text: expected str")
        try:
            return [self._tokens[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise InputError(
                f"got {character!r} (U+{ord(character):04X}) at place {text.index(character)} of the text: "
                f"this model knows {''.join(self.characters)!r}"
            ) from None

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens → text."""
        return "".join(self.characters[token] for token in tokens)

    def stream(self, before: Tokens = ()) -> Stream:
        """Every token is a character, whatever stands before it."""
        return _Characters(self.characters)


class _Characters:
    """The stream of a Vocabulary."""

    def __init__(self, characters: tuple[str, ...]) -> None:
        self._characters = characters

    def push(self, token: int) -> str:
        return self._characters[token]

    def rest(self) -> str:
        return ""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from logits.

    temperature: logits are divided by it; 0 takes the likeliest. top_k: only the k likeliest. top_p: only the
    likeliest that together have this probability (Holtzman et al. 2020). repetition_penalty: logits of the last
    64 tokens are divided by it where positive, multiplied where negative (Keskar et al. 2019).

    Raises:
        InputError: a value outside its range.
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _require("temperature", self.temperature, _real(self.temperature, 0.0, 100.0), "0 (greedy) to 100")
        _require("top_k", self.top_k, self.top_k is None or _whole(self.top_k), "a whole number of 1 or more, or None")
        fits = self.top_p is None or (_real(self.top_p, 0.0, 1.0) and self.top_p > 0)
        _require("top_p", self.top_p, fits, "above 0, at most 1, or None")
        fits = _real(self.repetition_penalty, 0.01, 100.0)
        _require("repetition_penalty", self.repetition_penalty, fits, "0.01 to 100; 1 is none")

    def pick(self, logits: Floats, recent: Tokens, random: np.random.Generator) -> int:
        """A token, from one logit a token and the tokens before; one number is drawn from `random` unless greedy."""
        if self.repetition_penalty != 1.0 and recent:
            logits = self.penalised(logits, recent)
        if self.temperature == 0:
            return int(logits.argmax())
        shares = self.shares(logits)
        return min(int(np.searchsorted(np.cumsum(shares), random.random() * shares.sum(), "right")), len(shares) - 1)

    def shares(self, logits: Floats) -> Doubles:
        """What each token's chance is in proportion to, at a temperature above 0: float64, 0 for what is cut off.

        Temperatures below 1e-3 act as 1e-3.
        """
        shares: Doubles = np.exp((logits.astype(np.float64) - logits.max()) / max(self.temperature, 1e-3))
        if self.top_k is not None and self.top_k < len(shares):
            shares = _only(shares, _likeliest(shares, self.top_k))
        if self.top_p is not None and self.top_p < 1.0:
            shares = _only(shares, _nucleus(shares, self.top_p * float(shares.sum())))
        return shares

    def penalised(self, logits: Floats, recent: Tokens) -> Floats:
        """Logits with those of the recent tokens lowered."""
        logits = logits.copy()
        seen = np.unique(recent[-RECENT:])
        held = logits[seen]
        logits[seen] = np.where(held > 0, held / self.repetition_penalty, held * self.repetition_penalty)
        return logits


def _likeliest(shares: Doubles, count: int) -> npt.NDArray[np.intp]:
    """The places of the `count` largest shares, the largest first, those of no share left out.

    All are not sorted for it: that took longer than a step of a network with 50,000 tokens.
    """
    places = np.flatnonzero(shares)
    if len(places) > count:
        held = shares[places]
        places = places[held >= np.partition(held, len(held) - count)[len(held) - count]]
    return places[np.argsort(-shares[places], kind="stable")][:count]


def _nucleus(shares: Doubles, wanted: float) -> npt.NDArray[np.intp]:
    """The places of the largest shares that together reach `wanted`; of equal ones those that come first.

    Shares are sorted, not their places: where a network is undecided the nucleus is tens of thousands of tokens, and
    sorting places took longer than the network.
    """
    ordered = np.sort(shares)[::-1]
    smallest = ordered[min(int(np.searchsorted(np.cumsum(ordered), wanted)), len(ordered) - 1)]
    larger, equal = np.flatnonzero(shares > smallest), np.flatnonzero(shares == smallest)
    missing = math.ceil((wanted - float(shares[larger].sum())) / smallest - 1e-9) if smallest > 0 else 0
    return np.concatenate([larger, equal[: max(missing, 1)]])


def _only(shares: Doubles, places: npt.NDArray[np.intp]) -> Doubles:
    kept = np.zeros_like(shares)
    kept[places] = shares[places]
    return kept


class Stops:
    """Watches text as it comes, and ends it before the first of the stop strings.

    What may be the beginning of one is held back until it is clear.

    Raises:
        InputError: an empty stop string, or what is no string at all.
    """

    def __init__(self, stop: str | Sequence[str]) -> None:
        _require("stop", stop, isinstance(stop, Iterable), "a string, or strings of one character or more")
        self.strings = (stop,) if isinstance(stop, str) else tuple(stop)
        for string in self.strings:
            _require("stop", string, isinstance(string, str) and string != "", "strings of one character or more")
        self.held = ""
        self.met = False

    def pass_on(self, text: str) -> str:
        """Take what came; returns what is certain, and sets `met` where a stop string is complete."""
        self.held += text
        places = [place for string in self.strings if (place := self.held.find(string)) >= 0]
        if places:
            self.met = True
            certain, self.held = self.held[: min(places)], ""
            return certain
        keep = max((_overlap(self.held, string) for string in self.strings), default=0)
        certain, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return certain

    def rest(self) -> str:
        """What is held back when no more text comes."""
        held, self.held = self.held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How much of the end of `text` is a beginning of `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)


def nats(logits: Floats, token: int) -> float:
    """The surprise of a token: minus the natural logarithm of its probability by the softmax of logits."""
    high = float(logits.max())
    return high + math.log(float(np.exp(logits - high, dtype=np.float64).sum())) - float(logits[token])


def _real(value: object, low: float, high: float) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(low <= value <= high)  # type: ignore[operator]  # a number; NaN is in no range


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def _require(name: str, value: object, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"got {name}={value!r}: expected {expected}")
