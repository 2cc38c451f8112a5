"""TextGenerator: text, and tunes, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit import choice, music
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, InputError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.drawing import check_seed
from edgekit.tasks.task import Task
from edgekit.tasks.write_reading import ChunkReading, Reading
from edgekit.tasks.write_settings import WriteSettings, check, codec_of
from edgekit.tasks.write_text import Ends, Text
from edgekit.text import TEXTS, TOKENS, Codec, Floats, Memory, Sampling, Stops, TextReading, nats

MAX_CHARACTERS = 100_000  # of a prompt, and of what is generated
MAX_ATTEMPTS = 1_000  # of tunes
TOGETHER = 16  # prompts of a batch that are read and written at once: each has a ring of its own
SMALL = 2**24  # bytes of a model whose steps are too small to be shared by threads


class TextGenerator(Task):
    """Call it with a prompt → the text that follows. What it reads and writes are tokens: characters, or what the
    bundle's tokenizer makes of a text.

    Networks with a cache see the last `context` tokens, recurrent ones and convolutions what their states
    hold; a longer prompt streams through, unless the network knows a limited number of places. Seeded results
    are the same whenever one engine runs them; temperature 0 (greedy) agrees across engines but where two
    tokens are all but equally likely. Thread-safe.
    """

    name = "write"
    Settings = WriteSettings
    draws = "32 tokens"

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        exact = getattr(self._options, "inference_precision", "f32") == "f32"  # bf16 on one thread OpenVINO refuses
        if self._picked.threads is None and self.variant.bytes < SMALL and exact:  # two took up to four times as long
            self._picked = replace(self._picked, threads=1)
        elif self._picked.threads == 1 and request.get("threads") is None and not exact:
            self._picked = replace(self._picked, threads=None)
        self.vocabulary: Codec = codec_of(self.settings, bundle)
        self._widths = self._sizes()
        self._first = self._opened(min(self._widths, default=1))
        self._check(self._first)  # errors come here, not with the first text
        self._logits = next(spec for spec in self._first.outputs if spec.name == "logits")

    def __call__(self, prompt: str = "", max_tokens: int = 200, **options: Any) -> str:
        """As `generate`."""
        return self.generate(prompt, max_tokens, **options)

    def generate(
        self,
        prompt: str = "",
        max_tokens: int = 200,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> str:
        """The continuation of a prompt, without the prompt.

        Args:
            prompt: at most 100,000 characters; all of the vocabulary, where the bundle has no tokenizer; "" begins
                a text.
            max_tokens: at most so many tokens, 1 to 100,000.
            temperature, top_k, top_p, repetition_penalty: as `edgekit.text.Sampling`; None is the bundle's own
                temperature.
            stop: strings before which the text ends; None is the bundle's own, () is none. Where the model has
                tokens that end a text, they do so unless `stop` is ().
            seed: the same seed gives the same text on one engine; None draws afresh.

        Raises:
            InputError: a character that the model does not know, a value outside its range, or more tokens than
                it has positions for.
            EngineError: the model gives NaN.
        """
        sampling = self._sampling(temperature, top_k, top_p, repetition_penalty)
        return "".join(self._pieces(self._text(prompt, max_tokens, sampling, stop, seed)))

    def stream(
        self,
        prompt: str = "",
        max_tokens: int = 200,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """As `generate`, in pieces as they come, whole characters always; leave the loop to stop early.

        Raises:
            InputError, EngineError: as `generate`; what is wrong with the arguments is said before the first piece.
        """
        sampling = self._sampling(temperature, top_k, top_p, repetition_penalty)
        return self._pieces(self._text(prompt, max_tokens, sampling, stop, seed))

    def batch(
        self,
        prompts: Sequence[str],
        max_tokens: int = 200,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float = 1.0,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """The continuations of several prompts, which may differ in length, as `generate` gives them one by one.

        Networks of transformers in ONNX and OpenVINO read and write up to 16 at once, which takes little longer than
        one: a step's time goes into weights, and these are read once for all. Others take them in turn. The text of
        prompt i is drawn with seed + i; its logits differ from those of `generate` in their last bits.

        Raises:
            InputError: a string instead of several, or as `generate` for any of them. EngineError: as `generate`.
        """
        if isinstance(prompts, str) or not isinstance(prompts, Sequence):
            raise InputError(
                f"got {type(prompts).__name__} for prompts: expected a list of texts; one goes to generate"
            )
        sampling = self._sampling(temperature, top_k, top_p, repetition_penalty)
        check_seed(seed)
        seeds = [None if seed is None else seed + index for index in range(len(prompts))]
        texts = [self._text(p, max_tokens, sampling, stop, s) for p, s in zip(prompts, seeds, strict=True)]
        together = TOGETHER if self._reads(TEXTS) else 1
        groups = (texts[first : first + together] for first in range(0, len(texts), together))
        return [written for group in groups for written in self._together(group)]

    def nats_per_char(self, text: str) -> float:
        """How surprised the model is by a text: the mean of -ln p(character | all before it). Lower is better.

        Raises:
            InputError: no characters, more than 100,000, or unknown ones. EngineError: the model gives NaN.
        """
        tokens = self._encoded(text)
        if not tokens:
            raise InputError("got an empty text: expected some characters to score")
        before = self.vocabulary.encode(self.settings.start, special=False)
        if not before:  # a tokenizer without a token to begin with: the first cannot be scored
            before, tokens = tokens[:1], tokens[1:]
        self._require_room(len(before) + len(tokens), 0)
        with closing(self._reading()) as reading:
            logits, total = self._read(reading, before), 0.0
            for token in tokens:
                total += nats(logits, token)
                logits = self._read(reading, [token])
        return total / len(text)

    def tune(
        self, prompt: str = "", *, seed: int | None = None, temperature: float | None = None, attempts: int = 10
    ) -> music.Tune:
        """A tune whose bars add up, from a bundle that writes ABC; `.abc`, `.midi()` and `.wav()` are its forms.

        Args:
            prompt: the beginning of a tune in ABC, such as "X:1\\nT:My Jig\\nM:6/8\\n"; "" leaves all to the model.
            seed: the same seed gives the same tune on one engine.
            temperature: as `generate`.
            attempts: so many tunes are drawn until one is sound, 1 to 1,000.

        Raises:
            InputError: the bundle writes no music, a prompt that is no beginning of a tune, or as `generate`. EngineError: no tune of `attempts` was sound.
        """
        if self.settings.view != "abc":
            raise InputError(f"{self.bundle.name} writes no tunes: load one that does, such as folk-gru")
        if (
            isinstance(attempts, bool)
            or not isinstance(attempts, (int, np.integer))
            or not 1 <= attempts <= MAX_ATTEMPTS
        ):
            raise InputError(f"got attempts={attempts!r}: expected a whole number, 1 to {MAX_ATTEMPTS:,}")
        check_seed(seed)
        if self._encoded(prompt) and not prompt.startswith("X:"):
            raise InputError(
                f"got the prompt {prompt[:40]!r}: expected the beginning of a tune in ABC, "
                "such as 'X:1\\nM:6/8\\n', or '' to leave all to the model"
            )
        seeds = np.random.SeedSequence(seed).generate_state(attempts)
        for drawn in seeds:
            abc = prompt + self.generate(prompt, music.MOST_TOKENS, temperature=temperature, seed=int(drawn))
            if music.adds_up(abc):
                return music.parse(abc)
        raise EngineError(
            f"{self.bundle.name} wrote no tune whose bars add up in {attempts} attempts: "
            "try a lower temperature, another seed or prompt, or more attempts"
        )

    def once(self, image: UInt8) -> str:
        """32 tokens with a fixed seed, for a benchmark."""
        return self.generate(max_tokens=32, seed=0, stop=())

    def _check(self, session: Session) -> None:
        """Refuse settings that do not fit the graph.

        Raises:
            ManifestError.
        """
        check(self.settings, self.vocabulary, session, f"{self.bundle.name}: the settings of task 'write'")

    def _sizes(self) -> list[int]:
        """The numbers of tokens that there are files for, ascending; none where it is free, or one a step."""
        runs = self._picked.runtime, self._picked.variant.precision
        found = choice.candidates(self.bundle, self.components[0], *runs)
        return sorted({v.sizes[TOKENS] for _, v in found if TOKENS in v.sizes})

    def _opened(self, width: int) -> Session:
        """A session that reads so many tokens a run."""
        memory = Memory(self.settings.states, self.settings.context)
        return self._session({TOKENS: width} if self._widths else None, memory=memory)

    def _reads(self, free: str) -> bool:
        """Whether tokens have this free dimension."""
        return any(spec.name == TOKENS and free in spec.shape for spec in self._first.inputs)

    def _reading(self, texts: int = 1) -> TextReading:
        """One new text, or several where the graph reads them at once."""
        if TOKENS not in {spec.name for spec in self._first.inputs}:
            return Reading(self._opened(1), self.settings)
        if kept := self._opened(min(self._widths, default=1)).reading(texts):
            return kept
        return ChunkReading(self._opened, self.settings, self._widths, self._first.inputs, texts)

    def _sampling(self, temperature: float | None, top_k: int | None, top_p: float | None, penalty: float) -> Sampling:
        own = self.settings.temperature
        return Sampling(own if temperature is None else temperature, top_k, top_p, penalty)

    def _text(
        self, prompt: str, max_tokens: int, sampling: Sampling, stop: str | Sequence[str] | None, seed: int | None
    ) -> Text:
        """A text to be written, everything checked."""
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)):
            raise InputError(f"got max_tokens={max_tokens!r}: expected a whole number, 1 to {MAX_CHARACTERS:,}")
        if not 1 <= max_tokens <= MAX_CHARACTERS:
            raise InputError(f"got max_tokens={max_tokens}: expected 1 to {MAX_CHARACTERS:,}")
        stops = Stops(self.settings.stop if stop is None else stop)
        ends = self.settings.ends if stop is None or stops.strings else ()
        tokens = self._prompted(prompt)
        check_seed(seed)
        self._require_room(len(tokens), int(max_tokens))
        stated = Ends(stops, tuple(ends), int(max_tokens))
        return Text(tokens, sampling, stated, np.random.default_rng(seed), self.vocabulary.stream(tokens))

    def _pieces(self, text: Text) -> Iterator[str]:
        with closing(self._reading()) as reading:
            logits = self._read(reading, text.tokens)
            while True:
                if piece := text.push(logits):
                    yield piece
                if text.done:
                    return
                logits = self._read(reading, text.tokens[-1:])

    def _together(self, texts: Sequence[Text]) -> list[str]:
        """What is written of several texts at once; one that has ended is not read on."""
        if len(texts) == 1:
            return ["".join(self._pieces(texts[0]))]
        written = [""] * len(texts)
        with closing(self._reading(len(texts))) as reading:
            rows = reading.read_all([text.tokens for text in texts])
            while True:
                self._require_finite(rows, "logits")
                for index, text in enumerate(texts):
                    written[index] += "" if text.done else text.push(rows[index])
                if all(text.done for text in texts):
                    return written
                self._refuse_closed()
                rows = reading.read_all([[] if text.done else text.tokens[-1:] for text in texts])

    def _read(self, reading: TextReading, tokens: Sequence[int]) -> Floats:
        """The logits after these tokens."""
        self._refuse_closed()
        logits = reading.read(tokens)
        self._require_finite(logits, "logits")
        return logits

    def _prompted(self, prompt: str) -> list[int]:
        """What is read before the first token is written."""
        start = self.settings.start
        if not self.settings.tokenizer:
            return [*self.vocabulary.encode(start), *self._encoded(prompt)]
        tokens = self._encoded(prompt, special=True) or self.vocabulary.encode(start, special=False)
        if not tokens:
            raise InputError(f"got the prompt {prompt!r}: {self.bundle.name} needs some text to go on from")
        return tokens

    def _encoded(self, text: str, special: bool = False) -> list[int]:
        if isinstance(text, str) and len(text) > MAX_CHARACTERS:
            raise InputError(f"got a text of {len(text):,} characters: expected at most {MAX_CHARACTERS:,}; cut it")
        tokens = self.vocabulary.encode(text, special=special)
        known = int(self._logits.shape[-1])
        if strange := next((token for token in tokens if token >= known), None):
            raise InputError(
                f"got a text with {self.vocabulary.decode([strange])!r} (token {strange}), of which {self.bundle.name} "
                f"knows nothing: it has {known} tokens, its tokenizer {len(self.vocabulary)}"
            )
        return tokens

    def _require_room(self, read: int, written: int) -> None:
        """Refuse a text that goes beyond the last position.

        Raises:
            InputError.
        """
        places, more = self.settings.positions, max(written - 1, 0)  # the last token is written and not read
        if places and read + more > places:
            left = places - read + 1
            remedy = f"ask for max_tokens={left} or less, or shorten the text" if left > 0 else "shorten the text"
            raise InputError(
                f"got a text of {read:,} tokens{f' and max_tokens={written:,}' if written else ''}: {self.bundle.name} "
                f"has {places:,} positions and ends there; {remedy}"
            )


__all__ = ["MAX_CHARACTERS", "Reading", "TextGenerator", "WriteSettings"]
