"""What hardware that is not here would take for a bundle: cycles by a compiler, instructions by an emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.benchmarks.estimate import estimate
from edgekit.benchmarks.records import Projection
from edgekit.bundle import Bundle
from edgekit.errors import InputError


def projections(bundle: Bundle, sources: Sequence[str]) -> list[Projection]:
    """What each source says of a bundle's files, none of it a latency.

    Args:
        sources: names of NPUs that `edgekit estimate` knows, or files of instruction counts (docs/raspberry-pi.json).

    Raises:
        InputError: neither, or a file of another kind. NotInstalled: the NPU's compiler. EngineError: it failed.
    """
    return [p for source in sources for p in (_counted if source.endswith(".json") else _compiled)(bundle, source)]


def _counted(bundle: Bundle, source: str) -> Iterator[Projection]:
    """Instructions that emulated boards executed for one run of each component."""
    try:
        told = json.loads(Path(source).read_text(encoding="utf-8"))
        rows = [row for row in told["rows"] if row["bundle"] == bundle.name]
        for row in rows:
            part = f" {row['component']}" if len(bundle.manifest.components) > 1 else ""
            for board, counts in row["boards"].items():
                what = f"{board}{part}, M instructions"
                yield Projection(
                    row["engine"],
                    row["precision"],
                    what,
                    counts["instructions"] / 1e6,
                    told["emulator"].split(" (")[0],
                )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read '{source}' as instruction counts: {error!r}; expected a file as docs/raspberry-pi.json") from error  # fmt: skip


def _compiled(bundle: Bundle, npu: str) -> Iterator[Projection]:
    """Cycles of an Arm Ethos-U by Vela, of every component's int8 file."""
    for found in estimate(bundle, npu):
        part = f" {found.component}" if len(bundle.manifest.components) > 1 else ""
        yield Projection("litert", "int8", f"{found.npu}{part}, M cycles", found.cycles / 1e6, found.tool)
