"""Names: what the source calls the constants of a file, told by their values, else by their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from edgekit.quantization.schemes.weight_files import SMALL, Constant, Mark


@dataclass(frozen=True)
class Named:
    """A weight and the names of its layers: several, where they share it ("lm_head", "embedding")."""

    names: tuple[str, ...]
    mark: Mark
    shape: tuple[int, ...]


def of_module(module: nn.Module) -> list[Named]:
    """The weights of a module, of two axes and more, as its layers are called."""
    marks: dict[int, Mark] = {}
    found: dict[Mark, Named] = {}
    for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers()):
        if tensor.ndim < 2 or tensor.numel() < SMALL or tensor.dtype != torch.float32:
            continue
        place = tensor.data_ptr()
        mark = marks.setdefault(place, marks.get(place) or Mark.of(tensor.detach().numpy()))
        before = found[mark].names if mark in found else ()
        found[mark] = Named((*before, layer_of(name)), mark, tuple(tensor.shape))
    return list(found.values())


def layer_of(parameter: str) -> str:
    """The layer of a parameter: "body.0" of "body.0.weight"."""
    return parameter.removesuffix(".weight")


def of_constants(constants: Iterable[Constant]) -> list[Named]:
    """Constants under the names that their file has for them."""
    return [Named((layer_of(c.key),), c.mark, c.shape) for c in constants]


def matched(constants: Sequence[Constant], named: Sequence[Named]) -> dict[str, Named]:
    """The names of constants by key.

    A converter that folds a norm or a factor into a weight changes its values: such are told by their order among
    those of the same axes, where there are equally many.
    """
    by_mark = {n.mark: n for n in named}
    found = {c.key: by_mark[c.mark] for c in constants if c.mark in by_mark}
    used = {n.mark for n in found.values()}
    others, free = [c for c in constants if c.key not in found], [n for n in named if n.mark not in used]
    for axes in dict.fromkeys(tuple(sorted(c.shape)) for c in others):
        alike = [c for c in others if tuple(sorted(c.shape)) == axes]
        names = [n for n in free if tuple(sorted(n.shape)) == axes]
        if len(alike) == len(names):
            found.update(zip((c.key for c in alike), names, strict=True))
    return found
