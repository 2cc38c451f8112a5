"""Saying: what a page may ask for, decoded and bounded: nothing that it names is a path of this machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edgekit import registry
from edgekit.demos.live.effects import EFFECTS, Wish, choices
from edgekit.errors import InputError
from edgekit.opening import runtime

MOST_TEXT = 4096  # bytes of a message
PRECISIONS = ("auto", "fp32", "int8")


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """Fields of `Wish` that a page may set."""

    effect: str | msgspec.UnsetType = msgspec.UNSET
    style: str | msgspec.UnsetType = msgspec.UNSET
    upscaler: str | msgspec.UnsetType = msgspec.UNSET
    runtime: str | msgspec.UnsetType = msgspec.UNSET
    precision: str | msgspec.UnsetType = msgspec.UNSET
    mirror: bool | msgspec.UnsetType = msgspec.UNSET
    smooth: bool | msgspec.UnsetType = msgspec.UNSET
    split: Annotated[float, Meta(ge=0, le=1)] | msgspec.UnsetType | None = msgspec.UNSET


class Said(msgspec.Struct, forbid_unknown_fields=True):
    """One message of a page: a frame acknowledged, changes, or something to do."""

    ack: Annotated[int, Meta(ge=0, le=2**32)] | None = None
    set: Change | None = None
    do: Literal["quit", "camera", "own camera"] | None = None


class Offer:
    """What a page may choose among."""

    def __init__(self, wish: Wish) -> None:
        found = choices()
        installed = [name for name in registry.device_runtimes() if runtime(name).installed()]
        self.choices: dict[str, list[str]] = {
            "effect": list(EFFECTS),
            "style": _with(found["stylize"], wish.style),
            "upscaler": _with(found["upscale"], wish.upscaler),
            "runtime": ["auto", *installed],
            "precision": _with(list(PRECISIONS), wish.precision),
        }

    def changes(self, change: Change) -> dict[str, Any]:
        """The fields to change.

        Raises:
            InputError: a name that is not offered.
        """
        fields = {
            name: value for name in change.__struct_fields__ if (value := getattr(change, name)) is not msgspec.UNSET
        }
        for name, allowed in self.choices.items():
            if name in fields and fields[name] not in allowed:
                raise InputError(f"got {name} '{str(fields[name])[:40]}': expected one of {', '.join(allowed)}")
        return fields


def heard(text: bytes) -> Said:
    """A page's message.

    Raises:
        InputError: too long, or not of the form.
    """
    if len(text) > MOST_TEXT:
        raise InputError(f"got a message of {len(text)} bytes: expected at most {MOST_TEXT}")
    try:
        return msgspec.json.decode(text, type=Said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"got a message that cannot be read: {error}") from error


def _with(names: list[str], chosen: str) -> list[str]:
    return names if chosen in names else [*names, chosen]
