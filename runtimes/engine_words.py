"""What an engine writes to descriptor 2, kept off the terminal and read where it says more than the error does."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass

_CAPTURING = threading.Lock()  # descriptor 2 is the process's: one at a time


@dataclass
class Words:
    """What was written; empty until the block ends."""

    text: str = ""


@contextlib.contextmanager
def captured() -> Iterator[Words]:
    """Take what C++ writes to stderr within the block; no setting of LiteRT keeps it quiet."""
    words = Words()
    with _CAPTURING, tempfile.TemporaryFile() as taken:
        sys.stderr.flush()
        kept = os.dup(2)
        try:
            os.dup2(taken.fileno(), 2)
            yield words
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            taken.seek(0)
            words.text = taken.read().decode(errors="replace")
