"""What is asked of an isolated session's worker, as it goes over the pipe: JSON of these, and nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from edgekit import registry
from edgekit.errors import InputError
from edgekit.isolation.arena import Place
from edgekit.tensors import TensorSpec


@dataclass(frozen=True)
class Isolation:
    """`isolate=True` with bounds: an engine that does not answer a run within `timeout_s`, or does not open within
    `opening_s`, is ended and raises RuntimeCrashed. None waits for ever.
    """

    timeout_s: float | None = None
    opening_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < 1e6):
                raise InputError(f"got {name}={value!r}: expected seconds above 0, or None to wait for ever")


class Options(msgspec.Struct, frozen=True):
    """An engine's options dataclass: the name of its class and its fields."""

    kind: str
    fields: dict[str, Any]

    def made(self) -> Any:
        """The options themselves, by the engine that has such."""
        for name in registry.names("runtimes"):
            kind = registry.find("runtimes", name).options
            if kind.__name__ == self.kind:
                return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in self.fields.items()})
        raise InputError(f"got options {self.kind}: no engine has such")


class Request(msgspec.Struct, frozen=True):
    """The arguments of `open_session`; a bundle by its folder."""

    source: str
    runtime: str
    device: str
    precision: str
    threads: int | None
    component: str
    sizes: dict[str, int] | None
    floats: bool
    check: bool | Literal["auto"]
    options: Options | None


def named(options: Any) -> Options | None:
    """An engine's options, as they go to another process.

    Raises:
        InputError: no dataclass, or one of more than plain values.
    """
    if options is None:
        return None
    kind = type(options).__name__
    if not dataclasses.is_dataclass(options):
        raise InputError(f"got options {kind}: expected an engine's options, such as OpenVinoOptions")
    try:
        return Options(kind, msgspec.json.decode(msgspec.json.encode(dataclasses.asdict(options), enc_hook=_path)))  # type: ignore[arg-type]
    except (TypeError, msgspec.MsgspecError) as error:
        raise InputError(f"{kind} cannot go to another process ({error}): plain values alone do") from error


class Command(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line to the worker: open this, run on the arrays at these places, or say where it runs."""

    open: Request | None = None
    run: tuple[Place, ...] | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line back: `error` is an exception's name and text, `pair` that of a WrongAnswer; `inputs` to `others` are of the session that opened."""

    error: tuple[str, str] | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    why: str = ""
    others: str = ""
    run: tuple[Place, ...] = ()
    placement: dict[str, Any] | None = None
    pair: tuple[str, str] = ("", "")


def _path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"of type {type(value).__name__}")
