"""Conditions: what an image is to show, a class or a prompt, as inputs of a diffusion network."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.manifest import Name
from edgekit.tasks.drawing import Label, chosen, one_hot_of
from edgekit.tensors import Array
from edgekit.tokenizer import Tokenizer

Inputs = Mapping[str, Array]  # of the network, beside the sample and the time
Runs = Callable[[Mapping[str, Array], str], dict[str, Array]]  # a component's outputs for its inputs
MAX_HELD = 16  # prompts whose encodings are kept
MAX_CHARACTERS = 100_000


class EncoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One text encoder: its component, its tokenizer's file, how many tokens it takes, and what fills them up."""

    component: Name
    tokenizer: str
    length: Annotated[int, Meta(ge=2, le=4096)]
    pad: Annotated[int, Meta(ge=0)]


class PromptSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a prompt becomes inputs of the network; several encoders' texts are joined in their width.

    `lower`: prompts are read in small letters, without space around them. `masked`: encoder and network also
    take "mask", 1 for tokens of the prompt and 0 for what fills up. `zeros`: no negative prompt means zeros,
    where the others encode "".
    """

    encoders: Annotated[tuple[EncoderSettings, ...], Meta(min_length=1, max_length=4)]
    lower: bool = False
    masked: bool = False
    zeros: bool = False


class Condition(ABC):
    """Checks what a caller names, and turns it into inputs of the network."""

    @abstractmethod
    def counted(self, subject: Any) -> int | None:
        """How many images the subjects stand for; None where they do not say."""

    @abstractmethod
    def chosen(self, subject: Any, n: int) -> list[Any]:
        """The subject of each of `n` images, checked.

        Raises:
            InputError.
        """

    @abstractmethod
    def inputs(self, chosen: Any) -> tuple[Inputs, Inputs]:
        """The network's inputs with the subject, and without it."""


class Classes(Condition):
    """One of the labels, as "label": 1 × classes, one-hot, or zeros for none; no input where there are no classes."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels

    def counted(self, subject: Label | Sequence[Label] | None) -> int | None:
        many = not isinstance(subject, str) and hasattr(subject, "__len__") and getattr(subject, "ndim", 1) > 0
        return len(subject) if many else None  # type: ignore[arg-type]  # `many` says that it has a length

    def chosen(self, subject: Label | Sequence[Label] | None, n: int) -> list[int]:
        if self.labels:
            return chosen(subject, n, self.labels)
        if subject is not None:
            raise InputError(f"got {subject!r}: this network draws without labels; leave it out")
        return [0] * n

    def inputs(self, chosen: int) -> tuple[Inputs, Inputs]:
        if not self.labels:
            return {}, {}
        one_hot = one_hot_of(chosen, len(self.labels))
        return {"label": one_hot}, {"label": np.zeros_like(one_hot)}


class Prompts(Condition):
    """A prompt and what is not to be seen, as the "text" that the bundle's encoders make of them."""

    def __init__(self, bundle: Bundle, settings: PromptSettings, runs: Runs) -> None:
        self.settings, self._runs = settings, runs
        self._tokenizers = [Tokenizer.load(bundle.extra(encoder.tokenizer)) for encoder in settings.encoders]
        self._held: dict[tuple[tuple[int, ...], ...], Inputs] = {}
        self._lock = threading.Lock()
        for encoder in settings.encoders:
            if {spec.name for spec in bundle.component(encoder.component).inputs} - {"tokens", "mask"}:
                raise ManifestError(f"{bundle.name}: '{encoder.component}' takes more than tokens and mask")

    def counted(self, subject: tuple[Any, Any]) -> int | None:
        prompt = subject[0]
        return len(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, str) else None

    def chosen(self, subject: tuple[Any, Any], n: int) -> list[Any]:
        prompt, negative = subject
        if prompt is None:
            raise InputError("got no prompt: say what the image is to show, for example prompt='a red boat'")
        pairs = zip(_each("prompt", prompt, n), _each("negative_prompt", negative, n), strict=True)
        return [(self.tokens(wanted), None if free is None else self.tokens(free)) for wanted, free in pairs]

    def tokens(self, prompt: str) -> tuple[tuple[int, ...], ...]:
        """The tokens that each encoder gets of a prompt.

        Raises:
            InputError: it is no text, or longer than an encoder takes.
        """
        if not isinstance(prompt, str) or len(prompt) > MAX_CHARACTERS:
            what = type(prompt).__name__ if not isinstance(prompt, str) else f"{len(prompt)} characters"
            raise InputError(f"got a prompt of {what}: expected a text of at most {MAX_CHARACTERS} characters")
        text = prompt.lower().strip() if self.settings.lower else prompt
        read = []
        for tokenizer, encoder in zip(self._tokenizers, self.settings.encoders, strict=True):
            tokens = tuple(tokenizer.encode(text))
            if len(tokens) > encoder.length:
                kept = tokenizer.decode(tokens[: encoder.length - 1])
                raise InputError(
                    f"the prompt has {len(tokens)} tokens, '{encoder.component}' takes {encoder.length}, those of its "
                    f"beginning and end included: shorten it; up to here it fits: '…{kept[-40:]}'"
                )
            read.append(tokens)
        return tuple(read)

    def inputs(self, chosen: Any) -> tuple[Inputs, Inputs]:
        wanted, free = chosen
        shown = self._encoded(wanted)
        if free is not None:
            return shown, self._encoded(free)
        if self.settings.zeros:
            return shown, {name: np.zeros_like(array) if name != "mask" else array for name, array in shown.items()}
        return shown, self._encoded(self.tokens(""))

    def _encoded(self, tokens: tuple[tuple[int, ...], ...]) -> Inputs:
        """The encoders' answer, kept for the next image of the same prompt."""
        found = self._held.get(tokens)
        if found is None:
            found = self._joined(tokens)
            with self._lock:
                while len(self._held) >= MAX_HELD:
                    self._held.pop(next(iter(self._held)))
                self._held[tokens] = found
        return found

    def _joined(self, tokens: tuple[tuple[int, ...], ...]) -> Inputs:
        joined: dict[str, Array] = {}
        texts = []
        for encoder, each in zip(self.settings.encoders, tokens, strict=True):
            row = np.full((1, encoder.length), encoder.pad, np.int32)
            row[0, : len(each)] = each
            feeds: dict[str, Array] = {"tokens": row}
            if self.settings.masked:
                feeds["mask"] = joined["mask"] = (np.arange(encoder.length) < len(each))[None].astype(np.float32)
            outputs = self._runs(feeds, encoder.component)
            texts.append(outputs.pop("text"))
            joined |= outputs  # "pooled", of the encoder that gives it
        return joined | {"text": np.ascontiguousarray(np.concatenate(texts, axis=2))}


def _each(name: str, text: object, n: int) -> list[Any]:
    """One text for all, or one for each image."""
    if text is None or isinstance(text, str):
        return [text] * n
    if not isinstance(text, Sequence) or len(text) != n:
        count = f"{len(text)} of them" if isinstance(text, Sequence) else type(text).__name__
        raise InputError(f"got {count} as {name} for {n} images: give one text for all, or one for each")
    return list(text)
