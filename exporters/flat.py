"""Flat: any forward, as one that takes tensors by its parameters' names and gives a flat tuple of named tensors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import InputError


class Flat(nn.Module):
    """A module called by parameter names, whose dictionaries, dataclasses and nested tuples come back flat.

    A tensor without axes, of which engines think differently, goes in (those of `scalars`) and comes back as one
    of a single value; numbers and None are left out.
    """

    def __init__(
        self, module: nn.Module, parameters: Sequence[str], outputs: Sequence[str], scalars: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.module = module
        self.parameters_named, self.outputs_named = tuple(parameters), tuple(outputs)
        self.scalars = frozenset(scalars)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = zip(self.parameters_named, tensors, strict=True)
        arguments = {name: t.reshape(()) if name in self.scalars else t for name, t in given}
        found = dict(flattened(call(self.module, arguments)))
        return tuple(found[name].reshape(1) if found[name].ndim == 0 else found[name] for name in self.outputs_named)


def call(module: nn.Module, arguments: Mapping[str, Tensor]) -> Any:
    """Call a module with tensors by name: those before `*args` by position, as they may be positional-only."""
    signature = inspect.signature(module.forward)
    rest = [tensor for name, tensor in arguments.items() if name not in signature.parameters]
    leading, named = [], {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            leading += rest
        elif name in arguments and (rest or parameter.kind is inspect.Parameter.POSITIONAL_ONLY):
            leading.append(arguments[name])
        elif name in arguments:
            named[name] = arguments[name]
    return module(*leading, **named)


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a result with names from its keys, fields and places: "logits", "boxes0", "aux_mask"."""
    if isinstance(value, Tensor):
        yield name or "output", value
        return
    if isinstance(value, Mapping):
        inner = [(str(key), item) for key, item in value.items()]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        inner = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (tuple, list)):
        if len(value) == 1 and not name:
            yield from flattened(value[0], name)
            return
        for index, item in enumerate(value):
            yield from flattened(item, f"{name or 'output'}{'_' if name[-1:].isdigit() else ''}{index}")
        return
    else:
        return
    for key, item in inner:
        plain = re.sub(r"\W+", "_", key).strip("_") or "output"
        yield from flattened(item, f"{name}_{plain}" if name else plain)


def parameters_for(module: nn.Module, count: int, names: Sequence[str]) -> list[str]:
    """The parameters of forward that take the examples: those that `names` names, else the first ones in order.

    Raises:
        InputError: forward takes fewer, or names of its own stand at other places beside names that it has not.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = inspect.Parameter
    single = [p.name for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    if names and set(names) <= set(single):
        return list(names)
    if count <= len(single) and (moved := [n for i, n in enumerate(names) if n in single and single[i] != n]):
        raise InputError(
            f"got the input names {', '.join(names)} for {type(module).__name__}, whose forward takes "
            f"{', '.join(single)}: '{moved[0]}' would be given as '{single[list(names).index(moved[0])]}'; name all by "
            "forward's parameters, or none"
        )
    if count > len(single):
        if not any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
            takes = ", ".join(single) or "no tensor by a name of its own: give forward a parameter for each"
            raise InputError(f"got {count} example inputs for {type(module).__name__}, whose forward takes {takes}")
        single += [f"input{i}" for i in range(len(single), count)]
    return single[:count]


def is_flat(module: nn.Module, parameters: Sequence[str], result: Any) -> bool:
    """Whether a module can be called with tensors by position, and gives a tensor or a plain tuple of tensors."""
    known = inspect.signature(module.forward).parameters.values()
    positional = [p.name for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = any(p.kind is p.VAR_POSITIONAL for p in known)
    ordered = list(parameters[: len(positional)]) == positional[: len(parameters)]
    results = result if type(result) in (tuple, list) else (result,)
    tensors = all(isinstance(r, Tensor) and r.ndim for r in results)
    return ordered and (rest or len(parameters) <= len(positional)) and tensors


def in_float32(module: nn.Module) -> nn.Module:
    """The module in float32: itself, or a copy where its weights are of another precision."""
    held = {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    return module if held <= {torch.float32} else copy.deepcopy(module).float()
