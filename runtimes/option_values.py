"""What an engine's options may hold: said clearly where a value is none of these."""

from __future__ import annotations

import os
from collections.abc import Sequence

from edgekit.errors import InputError


def require_one_of(name: str, given: object, allowed: Sequence[str]) -> None:
    """Refuse what is not among the words an option takes.

    Raises:
        InputError.
    """
    if given not in allowed:
        raise InputError(f"got {name}={given!r}: expected {' or '.join(repr(word) for word in allowed)}")


def require_streams(streams: object, least: int = 1) -> None:
    """Refuse what is no number of runs at a time.

    Raises:
        InputError.
    """
    if isinstance(streams, bool) or not isinstance(streams, int) or not least <= streams <= 256:
        raise InputError(f"got streams={streams!r}: expected a whole number from {least} to 256")


def require_processors(given: object) -> None:
    """Refuse what are not logical processors of this machine.

    Raises:
        InputError.
    """
    count = os.cpu_count() or 1
    fits = isinstance(given, tuple) and all(isinstance(n, int) and 0 <= n < count for n in given)
    if not fits:
        raise InputError(
            f"got processors={given!r}: expected a tuple of numbers from 0 to {count - 1}, those of this machine"
        )


def require_cache(given: object) -> None:
    """Refuse what says neither whether nor where compiled networks are kept.

    Raises:
        InputError.
    """
    if not isinstance(given, bool | str) or given == "":
        raise InputError(f"got cache={given!r}: expected True, False, or the path of a folder, a str")
