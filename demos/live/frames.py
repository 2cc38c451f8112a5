"""Frame: a picture on its way through the pipeline, with when it was captured and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.images import UInt8


@dataclass(frozen=True)
class Frame:
    """`image`: uint8 height × width × RGB; `captured`: seconds of `slots.now`; `at`: seconds since the source's first."""

    image: UInt8
    number: int
    captured: float
    at: float


@dataclass(frozen=True)
class Shown:
    """A frame as the effect left it: `image` is what a view shows; `source` what the effect was given."""

    image: UInt8
    source: Frame
    model_ms: float | None  # None where no model ran
    work_ms: float  # everything that the effect's thread did for it, the model included
    working: tuple[int, int]  # height and width that the model was given
    repeats: bool = field(default=False)
