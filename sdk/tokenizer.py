"""Tokenizer: text to tokens and back, by the tokenizer.json that language models are published with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, InputError, NotInstalled

MAX_BYTES = 2**26  # of a tokenizer.json; one of 262,144 tokens has 2**25
MAX_HELD = 16  # tokens held back for a character that is not complete
MAX_BEFORE = 64  # tokens that a text is decoded after
HALF = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no whole character decode to


class Tokenizer:
    """What a tokenizer.json says, read by the package `tokenizers` (Rust; no PyTorch). Thread-safe."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json; what it says of truncation and padding is left aside.

        Raises:
            NotInstalled: the package is missing. BundleError: the file is too large, or no tokenizer.
        """
        try:
            import tokenizers
        except ImportError as error:
            raise NotInstalled.named("a model with its own tokenizer", "tokenizers", "text") from error
        path = Path(path)
        if path.stat().st_size > MAX_BYTES:
            raise BundleError(f"'{path}' has {path.stat().st_size} bytes: a tokenizer has at most {MAX_BYTES}")
        try:
            engine = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise BundleError(f"'{path}' is no tokenizer that 'tokenizers' reads: {error}") from error
        engine.no_truncation()
        engine.no_padding()
        return cls(engine)

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._engine.get_vocab_size(True))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Text → tokens; `special` adds what the model's texts begin or end with, where it has such tokens.

        Raises:
            InputError: no text, or half of a surrogate pair in it.
        """
        if not isinstance(text, str):
            raise InputError(f"got {type(text).__name__} for a text: expected str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half, place = text[error.start], error.start
            raise InputError(
                f"got a text with {half!r} at place {place}, half a surrogate pair: no character"
            ) from None
        tokens: list[int] = self._engine.encode(text, add_special_tokens=special).ids
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Tokens → text, special tokens left out."""
        text: str = self._engine.decode(list(tokens), skip_special_tokens=True)
        return text

    def token(self, text: str) -> int | None:
        """The token that is written as `text`, such as "<|endoftext|>"; None where there is none."""
        found: int | None = self._engine.token_to_id(text)
        return found

    def stream(self, before: Sequence[int] = ()) -> TokenStream:
        """Decodes what follows these tokens, piece by piece."""
        return TokenStream(self, before)


class TokenStream:
    """Decodes tokens as they come: a character that is not complete waits for its other bytes.

    Each piece is what the text of a few tokens grew by, since how a token is written depends on those
    before it (a leading space, for one).
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._before = list(before[-MAX_BEFORE:])
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Take a token; returns the text that it completes, "" where that is none yet."""
        self._held.append(token)
        text = self._grown()
        if text.endswith(HALF) and len(self._held) < MAX_HELD:
            return ""
        return self._settled(text)

    def rest(self) -> str:
        """The text of what is held back, but for half a character at its end."""
        return self._settled(self._grown().rstrip(HALF))

    def _grown(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode([*self._before, *self._held])[len(before) :]

    def _settled(self, text: str) -> str:
        """Hand out a text; its tokens, which begin with a whole character, are what the next is read after."""
        self._before = self._held if text else [*self._before, *self._held][-MAX_BEFORE:]
        self._held = []
        return text
