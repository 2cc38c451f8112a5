"""External data: the files that an .onnx file keeps its weights in, found and checked before an engine opens it.

An engine reads whatever such a path names, so it must name a plain file beside the model. The ONNX package is
not needed: a scan of the protobuf fields (onnx.proto, IR version 3 and up) that a TensorProto can lie in.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from edgekit.errors import BundleError, BundleNotFound, EngineError, UnsafePath
from edgekit.manifest import check_path

MAX_FIELDS = 20_000_000  # of one file; a field takes about a microsecond to pass
MAX_ENTRY = 2**14
MAX_DEPTH = 100  # as protobuf's own readers
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

# Where tensors lie: message → field number → message. Values of `external_data` are read as "entry".
INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


def require_inside(model: Path, listed: Collection[Path] | None = None) -> list[Path]:
    """The files of external data of an .onnx file, after each was found to be a plain file beside it.

    Args:
        model: the .onnx file.
        listed: the files that a manifest states for it, hashes checked; None for a lone file.

    Raises:
        UnsafePath: a path is absolute, climbs out of the folder, or is a link. BundleNotFound: nothing there.
        BundleError: a file that the manifest does not list. EngineError: it is no .onnx file.
    """
    files = []
    for location in locations(model):
        who = f"'{model.name}' (external data)"
        check_path(location, who)
        path = model.parent / location
        for part in (path, *path.parents):
            if part == model.parent:
                break
            if part.is_symlink():
                raise UnsafePath(f"{who} names '{location}', a link: expected a plain file beside the model")
        if not path.is_file():
            raise BundleNotFound(f"{who} names '{location}', which is not there: keep the file beside the model")
        if listed is not None and path not in listed:
            raise BundleError(f"{who} names '{location}', which the manifest does not list: export the bundle again")
        files.append(path)
    return files


def locations(model: Path) -> list[str]:
    """The paths that the tensors of an .onnx file name for their values, each once, in the file's order.

    Raises:
        EngineError: the file is no protobuf message, or one of absurd depth or number of fields.
    """
    if model.stat().st_size == 0:
        raise EngineError(f"'{model.name}' is empty: expected an .onnx file")
    with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") < 0:  # the key is spelled out: most files have none, and are not walked
            return []
        try:
            return list(dict.fromkeys(Scan(data).walk()))
        except (ValueError, IndexError) as error:
            raise EngineError(f"'{model.name}' is not a sound .onnx file: {error}") from error


class Scan:
    """The fields of a protobuf message, without its schema; `walk` passes those that can hold tensors, once."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left = MAX_FIELDS

    def walk(self) -> Iterator[str]:
        pending = [("model", 0, len(self._data), 0)]
        while pending:
            message, start, end, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise ValueError(f"messages lie more than {MAX_DEPTH} deep")
            known, found = INSIDE[message], []
            for number, wire, first, last in self.fields(start, end):
                inner = known.get(number) if wire == BYTES else None
                if inner == "entry":
                    yield from self._entry(first, last)
                elif inner is not None:
                    found.append((inner, first, last, depth + 1))
            pending += reversed(found)

    def _entry(self, start: int, end: int) -> Iterator[str]:
        """The value of a StringStringEntryProto whose key is "location"; each, where a field comes twice."""
        if end - start > MAX_ENTRY:
            raise ValueError(f"an entry of external data has {end - start} bytes")
        fields = [(n, self._data[a:b]) for n, wire, a, b in self.fields(start, end) if wire == BYTES]
        if (1, b"location") in fields:
            values = [value for number, value in fields if number == 2]
            if not values:
                raise ValueError("external data without a path")
            yield from (value.decode() for value in values)

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, and first and last place of each field's content."""
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            tag, start = self.varint(start, end)
            wire = tag & 7
            if wire == VARINT:
                first, (_, last) = start, self.varint(start, end)
            elif wire == BYTES:
                size, first = self.varint(start, end)
                last = first + size
            elif wire in (FIXED64, FIXED32):
                first, last = start, start + (8 if wire == FIXED64 else 4)
            else:
                raise ValueError(f"a field of wire type {wire} at byte {start}")
            if last > end:
                raise ValueError(f"a field at byte {start} is longer than what holds it")
            yield tag >> 3, wire, first, last
            start = last

    def varint(self, start: int, end: int) -> tuple[int, int]:
        value = 0
        for shift, place in enumerate(range(start, min(start + 10, end))):
            byte = self._data[place]
            value |= (byte & 0x7F) << 7 * shift
            if byte < 0x80:
                return value, place + 1
        raise ValueError(f"a number at byte {start} does not end")
