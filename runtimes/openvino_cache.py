"""A network compiled by OpenVINO, or the one that an earlier load kept, with what it takes and gives."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgekit import machine
from edgekit.compiled import LARGEST, Shelf, key_of
from edgekit.runtimes.external_data import require_inside
from edgekit.runtimes.openvino_borders import Specs
from edgekit.session import Model
from edgekit.tensors import TensorSpec

FORM = 2  # of what is compiled: another number where a network is changed otherwise before that
SIZE = 4  # bytes that say how long the specs are, before them and the network
_decoder = msgspec.json.Decoder(tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]])


def kept(core: Any, shelf: Shelf, key: str, target: str, settings: Mapping[str, str]) -> tuple[Any, Specs] | None:
    """The compiled network of this key and its Specs; None where none is kept, or OpenVINO does not take it."""
    data = shelf.read(key)
    if data is None:
        return None
    try:
        size = int.from_bytes(data[:SIZE], "little")
        specs: Specs = _decoder.decode(data[SIZE : SIZE + size])
        network = io.BytesIO(memoryview(data)[SIZE + size :])
        del data  # twice in memory at most
        return core.import_model(network, target, dict(settings)), specs
    except Exception:  # of another version that calls itself the same, or from C++
        shelf.drop(key)
        return None


def keep(shelf: Shelf, key: str, compiled: Any, specs: Specs) -> None:
    """Keep a compiled network, where its device can export it."""
    with contextlib.suppress(Exception):
        described = msgspec.json.encode(specs)
        shelf.write(key, len(described).to_bytes(SIZE, "little"), described, compiled.export_model().getbuffer())


def name_of(core: Any, version: str, model: Model, target: str, settings: Mapping[str, str]) -> str | None:
    """A key of the file's bytes, the engine, the device as its driver tells it, and the settings; None of a network too
    large to be kept.
    """
    files = _files(model.path, model.files)
    if sum(path.stat().st_size for path in files) > LARGEST:
        return None
    device = [str(core.get_property(target, what)) for what in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    here = (machine.processor(), machine.cores(), machine.int8_units())
    about = (FORM, version, target, device, here, dict(settings), dict(model.sizes))
    return key_of(files, about, model.hashes)


def _files(path: Path, listed: tuple[Path, ...] | None) -> tuple[Path, ...]:
    """The model and what it keeps its weights in."""
    if listed:
        return listed
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        return (path, weights) if weights.is_file() else (path,)
    return (path, *require_inside(path))
