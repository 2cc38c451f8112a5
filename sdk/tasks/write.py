"""TextGenerator: text, and tunes, a character at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edgekit import music
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, InputError, ManifestError
from edgekit.images import UInt8
from edgekit.session import Session
from edgekit.tasks.drawing import check_seed
from edgekit.tasks.task import Task
from edgekit.tensors import Array, TensorSpec
from edgekit.text import Floats, Sampling, State, Stops, Vocabulary, nats

MAX_CHARACTERS = 100_000  # of a prompt, and of what is generated
MAX_ATTEMPTS = 1_000  # of tunes
EMPTY = 1e9  # the age of a slot that holds nothing yet: attention to it vanishes


class WriteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`vocabulary` in the order of the logits; `states` that go from step to step; what text begins and ends with.

    `context` is the number of slots of the rings, 0 where there are none. `view` "abc" says that the text is
    music. Each text is read after `start`; `stop` ends it unless the caller names other strings.
    """

    vocabulary: tuple[str, ...]
    states: tuple[State, ...]
    context: Annotated[int, Meta(ge=0, le=65536)] = 0
    start: str = "\n"
    stop: tuple[str, ...] = ()
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.8
    view: Literal["text", "abc"] = "text"


class Reading:
    """One text in the making: a session of a step graph, and the states between its steps. Not thread-safe."""

    def __init__(self, session: Session, settings: WriteSettings) -> None:
        self._session, self._states, self._context = session, settings.states, settings.context
        self._feeds: dict[str, Array] = {s.name: np.zeros(_sizes(s.shape), s.dtype) for s in session.inputs}
        self._token = self._feeds["token"]
        if settings.context:
            self._feeds["distance"].fill(EMPTY)
        self._slot = 0

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


class TextGenerator(Task):
    """Call it with a prompt → the text that follows. Characters are what it reads and writes.

    Networks with a cache see the last `context` characters, recurrent ones and convolutions what their
    states hold; a longer prompt streams through. Seeded results are the same whenever one engine runs
    them; temperature 0 (greedy) agrees across engines but where two characters are all but equally likely.
    Thread-safe.
    """

    name = "write"
    Settings = WriteSettings
    draws = "32 characters"

    def __init__(self, bundle: Bundle, runtime: str = "auto", **request: Any) -> None:
        """As `edgekit.load`."""
        super().__init__(bundle, runtime, **request)
        if self._picked.threads is None:  # a step is too small to be shared: two threads took up to four times as long
            self._picked = replace(self._picked, threads=1)
        self.vocabulary = Vocabulary(self.settings.vocabulary)
        self._check(self._session())  # errors come here, not with the first text

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
            prompt: at most 100,000 characters, all of the vocabulary; "" begins a text.
            max_tokens: at most so many characters, 1 to 100,000.
            temperature, top_k, top_p, repetition_penalty: as `edgekit.text.Sampling`; None is the bundle's own
                temperature.
            stop: strings before which the text ends; None is the bundle's own, () is none.
            seed: the same seed gives the same text on one engine; None draws afresh.

        Raises:
            InputError: a character that the model does not know, or a value outside its range.
            EngineError: the model gives NaN.
        """
        sampling = self._sampling(temperature, top_k, top_p, repetition_penalty)
        return "".join(self._written(prompt, max_tokens, sampling, stop, seed))

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
        """As `generate`, in pieces as they come, mostly single characters; leave the loop to stop early.

        Raises:
            InputError, EngineError: as `generate`; what is wrong with the arguments is said before the first piece.
        """
        sampling = self._sampling(temperature, top_k, top_p, repetition_penalty)
        return self._written(prompt, max_tokens, sampling, stop, seed)

    def nats_per_char(self, text: str) -> float:
        """How surprised the model is by a text: the mean of -ln p(character | all before it). Lower is better.

        Raises:
            InputError: no characters, more than 100,000, or unknown ones. EngineError: the model gives NaN.
        """
        tokens = self._encoded(text)
        if not tokens:
            raise InputError("got an empty text: expected some characters to score")
        reading, logits = self._read(self.vocabulary.encode(self.settings.start))
        total = 0.0
        for token in tokens:
            total += nats(logits, token)
            logits = self._stepped(reading, token)
        return total / len(tokens)

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
            abc = prompt + self.generate(prompt, 3_000, temperature=temperature, seed=int(drawn))
            if music.adds_up(abc):
                return music.parse(abc)
        raise EngineError(
            f"{self.bundle.name} wrote no tune whose bars add up in {attempts} attempts: "
            "try a lower temperature, another seed or prompt, or more attempts"
        )

    def once(self, image: UInt8) -> str:
        """32 characters with a fixed seed, for a benchmark."""
        return self.generate(max_tokens=32, seed=0, stop=())

    def _check(self, session: Session) -> None:
        """Refuse settings that do not fit the graph.

        Raises:
            ManifestError.
        """
        inputs, outputs = ({s.name: s for s in specs} for specs in (session.inputs, session.outputs))
        states, settings = self.settings.states, self.settings
        who = f"{self.bundle.name}: the settings of task 'write'"
        names = (
            ["token", *(["distance"] if settings.context else []), *(s.input for s in states)],
            ["logits", *(s.output for s in states)],
        )
        if twice := sorted({name for side in names for name in side if side.count(name) > 1}):
            raise ManifestError(f"{who} name {', '.join(twice)} more than once: expected each state's own tensors")
        wanted, given = map(set, names)
        if wanted != set(inputs) or given != set(outputs):
            raise ManifestError(
                f"{who} name the tensors {sorted(wanted | given)}, the graph has {sorted({*inputs, *outputs})}"
            )
        for spec in (*session.inputs, *session.outputs):
            if not all(isinstance(size, int) for size in spec.shape):
                raise ManifestError(f"{who} need fixed sizes, {spec.name} is {spec}: export the bundle again")
        rings = {inputs[s.input].shape[s.axis : s.axis + 1] for s in states if s.kind == "append"}
        if not rings <= {(settings.context,)} or outputs["logits"].shape[1:] != (len(self.vocabulary),):
            raise ManifestError(
                f"{who} have {len(self.vocabulary)} characters and a context of {settings.context}, "
                f"the graph has {outputs['logits']} logits and rings of {sorted(map(str, rings))}"
            )
        shapes = {"token": (1,), "distance": (1, settings.context)}
        for name in sorted(shapes.keys() & wanted):
            _require_shape(who, inputs[name], shapes[name])
        for state in states:
            shape = inputs[state.input].shape
            if state.kind == "append":
                shape = shape[: state.axis] + shape[state.axis + 1 :]
            _require_shape(who, outputs[state.output], shape)
        try:
            Sampling(settings.temperature)
            Stops(settings.stop)
        except InputError as error:
            raise ManifestError(f"{who} are wrong: {error}") from error
        if not settings.start or not set(settings.start) <= set(settings.vocabulary):
            raise ManifestError(f"{who} have the start {settings.start!r}: expected characters of the vocabulary")

    def _sampling(self, temperature: float | None, top_k: int | None, top_p: float | None, penalty: float) -> Sampling:
        own = self.settings.temperature
        return Sampling(own if temperature is None else temperature, top_k, top_p, penalty)

    def _written(
        self, prompt: str, max_tokens: int, sampling: Sampling, stop: str | Sequence[str] | None, seed: int | None
    ) -> Iterator[str]:
        """Check everything now, and write when the first piece is asked for."""
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)):
            raise InputError(f"got max_tokens={max_tokens!r}: expected a whole number, 1 to {MAX_CHARACTERS:,}")
        if not 1 <= max_tokens <= MAX_CHARACTERS:
            raise InputError(f"got max_tokens={max_tokens}: expected 1 to {MAX_CHARACTERS:,}")
        stops = Stops(self.settings.stop if stop is None else stop)
        tokens = [*self.vocabulary.encode(self.settings.start), *self._encoded(prompt)]
        check_seed(seed)
        return self._pieces(tokens, int(max_tokens), sampling, stops, np.random.default_rng(seed))

    def _pieces(
        self, tokens: list[int], count: int, sampling: Sampling, stops: Stops, random: np.random.Generator
    ) -> Iterator[str]:
        reading, logits = self._read(tokens)
        for left in range(count, 0, -1):
            token = sampling.pick(logits, tokens, random)
            tokens.append(token)
            piece = stops.pass_on(self.vocabulary.characters[token])
            if piece:
                yield piece
            if stops.met:
                return
            if left > 1:
                logits = self._stepped(reading, token)
        if held := stops.rest():
            yield held

    def _read(self, tokens: Sequence[int]) -> tuple[Reading, Floats]:
        """A new reading of these tokens, and the logits of the next."""
        reading = Reading(self._session(), self.settings)
        for token in tokens[:-1]:
            reading.step(token)
        return reading, self._stepped(reading, tokens[-1])

    def _stepped(self, reading: Reading, token: int) -> Floats:
        logits = reading.step(token)
        self._require_finite(logits, "logits")
        return logits

    def _encoded(self, text: str) -> list[int]:
        tokens = self.vocabulary.encode(text)
        if len(tokens) > MAX_CHARACTERS:
            raise InputError(f"got a text of {len(text):,} characters: expected at most {MAX_CHARACTERS:,}; cut it")
        return tokens


def _require_shape(who: str, spec: TensorSpec, shape: tuple[int | str, ...]) -> None:
    """Refuse a tensor of another shape than the settings lead to.

    Raises:
        ManifestError.
    """
    if spec.shape != shape:
        expected = " × ".join(str(size) for size in shape)
        raise ManifestError(f"{who} need {spec.name} to be {expected}, the graph has {spec}: export the bundle again")


def _sizes(shape: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(int(size) for size in shape)
