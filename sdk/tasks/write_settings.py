"""WriteSettings: what a bundle says of the text it writes, and the check that its graph keeps to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError
from edgekit.session import Session
from edgekit.tensors import TensorSpec
from edgekit.text import POSITIONS, SLOTS, TEXTS, TOKENS, Codec, Sampling, State, Stops, Vocabulary
from edgekit.tokenizer import Tokenizer

Token = Annotated[int, Meta(ge=0, le=2**24)]


class WriteSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`vocabulary` in the order of the logits, empty where `tokenizer` names a file of the bundle; `states` that go
    from step to step; what text begins and ends with.

    `context` is the number of slots of the rings, the most there may be where it is free, 0 where there are none; `positions` is how many places of a
    text the network knows, 0 where it goes on without end. `view` "abc" says that the text is music. Each text
    is read after `start`, with a tokenizer only where a prompt gives no token. `stop`, and each of the tokens
    `ends`, end it unless the caller says otherwise.
    """

    vocabulary: tuple[str, ...]
    states: tuple[State, ...]
    context: Annotated[int, Meta(ge=0, le=65536)] = 0
    start: str = "\n"
    stop: tuple[str, ...] = ()
    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.8
    view: Literal["text", "abc"] = "text"
    tokenizer: str = ""
    ends: tuple[Token, ...] = ()
    positions: Annotated[int, Meta(ge=0, le=2**24)] = 0


def codec_of(settings: WriteSettings, bundle: Bundle) -> Codec:
    """What turns text into tokens and back.

    Raises:
        NotInstalled: the package that reads the tokenizer. BundleError: the bundle lacks it, or it is none.
    """
    return Tokenizer.load(bundle.extra(settings.tokenizer)) if settings.tokenizer else Vocabulary(settings.vocabulary)


def check(settings: WriteSettings, codec: Codec, session: Session, who: str) -> None:
    """Refuse settings that do not fit the graph; `who` names both.

    Raises:
        ManifestError.
    """
    inputs, outputs = ({s.name: s for s in specs} for specs in (session.inputs, session.outputs))
    _check_names(settings, inputs, outputs, who)
    _check_shapes(settings, inputs, outputs, who)
    classes = outputs["logits"].shape[1:]
    fits = classes == (len(codec),) if not settings.tokenizer else isinstance(classes[0], int)
    rings = {inputs[s.input].shape[s.axis : s.axis + 1] for s in settings.states if s.kind == "append"}
    if not (rings <= {(settings.context,)} or rings == {(SLOTS,)}) or not fits:
        raise ManifestError(
            f"{who} have {len(codec)} {'tokens' if settings.tokenizer else 'characters'} and a context of "
            f"{settings.context}, the graph has {outputs['logits']} logits and rings of {sorted(map(str, rings))}"
        )
    _check_text(settings, who)


def _check_names(
    settings: WriteSettings, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], who: str
) -> None:
    """Every tensor of the graph has one use, and every use a tensor."""
    several = TOKENS in inputs
    own = [TOKENS, POSITIONS, SLOTS] if several else ["token", *(["distance"] if settings.context else [])]
    sides = [*own, *(s.input for s in settings.states)], ["logits", *(s.output for s in settings.states)]
    if twice := sorted({name for side in sides for name in side if side.count(name) > 1}):
        raise ManifestError(f"{who} name {', '.join(twice)} more than once: expected each state's own tensors")
    if set(sides[0]) != set(inputs) or set(sides[1]) != set(outputs):
        raise ManifestError(
            f"{who} name the tensors {sorted({*sides[0], *sides[1]})}, the graph has {sorted({*inputs, *outputs})}"
        )
    if several and any(state.kind != "append" for state in settings.states):
        raise ManifestError(f"{who} replace a state in a graph that reads several tokens: expected rings alone")


def _check_shapes(
    settings: WriteSettings, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], who: str
) -> None:
    """What is read has the shapes that the states lead to; the numbers of texts, tokens and slots may be free."""
    texts, count = inputs[TOKENS].shape if TOKENS in inputs and len(inputs[TOKENS].shape) == 2 else (1, 1)
    slots = settings.context if TOKENS not in inputs or inputs[SLOTS].shape[-1:] != (SLOTS,) else SLOTS
    free = {d for d, name in ((texts, TEXTS), (count, TOKENS), (slots, SLOTS)) if d == name}
    for spec in (*inputs.values(), *outputs.values()):
        if any(isinstance(size, str) and size not in free for size in spec.shape):
            raise ManifestError(f"{who} need fixed sizes, {spec.name} is {spec}: export the bundle again")
    shapes: dict[str, tuple[int | str, ...]] = {"token": (1,), "distance": (1, slots), SLOTS: (texts, slots)}
    shapes |= dict.fromkeys((TOKENS, POSITIONS), (texts, count))
    for name in sorted(shapes.keys() & inputs.keys()):
        _require_shape(who, inputs[name], shapes[name])
    if len(outputs["logits"].shape) != 2:
        raise ManifestError(f"{who} need one row of logits, the graph has {outputs['logits']} logits")
    for state in settings.states:
        shape = inputs[state.input].shape
        if state.kind == "append":
            columns = (count,) if TOKENS in inputs else ()
            shape = (*shape[: state.axis], *columns, *shape[state.axis + 1 :])
        _require_shape(who, outputs[state.output], shape)


def _check_text(settings: WriteSettings, who: str) -> None:
    """What the text begins and ends with, and the temperature."""
    try:
        Sampling(settings.temperature)
        Stops(settings.stop)
    except InputError as error:
        raise ManifestError(f"{who} are wrong: {error}") from error
    known = bool(settings.start) and set(settings.start) <= set(settings.vocabulary)
    if not settings.tokenizer and not known:
        raise ManifestError(f"{who} have the start {settings.start!r}: expected characters of the vocabulary")


def _require_shape(who: str, spec: TensorSpec, shape: Sequence[int | str]) -> None:
    if spec.shape != tuple(shape):
        expected = " × ".join(str(size) for size in shape)
        raise ManifestError(f"{who} need {spec.name} to be {expected}, the graph has {spec}: export the bundle again")
