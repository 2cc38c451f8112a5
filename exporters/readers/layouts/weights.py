"""Weights: the tensors of a published file by name, whatever they are wrapped in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekit.errors import InputError
from edgekit.exporters.proof.places import first_line

# Where checkpoints keep a network's tensors: averages before what was trained, as Real-ESRGAN itself prefers them.
NESTS = (
    "params_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "ema",
    "g_ema",
    "generator",
    "netG",
    "net_g",
    "model",
    "net",
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "generator.", "netG.", "net_g.", "network.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, floats as float32; nothing is unpickled.

    What training wraps around them is taken off: a dictionary ("params_ema", "state_dict", …), and a prefix
    ("module." of DataParallel).

    Raises:
        InputError: it does not load as tensors alone, or holds none.
    """
    return list(bared(raw_weights(path)))[-1]


def raw_weights(path: Path) -> dict[str, Tensor]:
    """The same with every prefix left in its place.

    Raises:
        InputError: as `read_weights`.
    """
    state = _tensors(_loaded(path), path)
    if wide := [key for key, t in state.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()]:
        raise InputError(f"'{path}' has fewer numbers of '{wide[0]}' than its shape says: save it again, contiguous")
    return {k: t.detach().float() if t.is_floating_point() else t.detach() for k, t in state.items()}


def bared(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are named, then without a prefix that all of them share, without a second, and so on."""
    yield state
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
        yield state


def _loaded(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling guards, damaged archives and safetensors raise unrelated types
        raise InputError(
            f"'{path}' does not load as tensors alone: {first_line(error)}; nothing is unpickled here: save the "
            "network's state_dict() with torch.save, or as safetensors"
        ) from error


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors, from under the names that training scripts save it by."""
    if not isinstance(loaded, Mapping):
        raise InputError(f"'{path}' holds {type(loaded).__name__}: expected tensors by name, a network's state_dict()")
    for nest in NESTS:
        if isinstance(loaded.get(nest), Mapping):
            return _tensors(loaded[nest], path)
    found = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not found:
        have = ", ".join(str(key) for key in list(loaded)[:8]) or "nothing"
        raise InputError(f"'{path}' holds no tensors by name: it holds {have}; save the network's state_dict()")
    return found
