"""Reading: from whatever a person names to sources that can be exported, by the first reader that knows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import nn

from edgekit import registry
from edgekit.errors import InputError
from edgekit.exporters.sources import Source, called, filled, from_module
from edgekit.manifest import Task
from edgekit.tensors import Array, Layout, TensorSpec

V = TypeVar("V")


@dataclass(frozen=True)
class Asked:
    """What is said beside the reference of a model; empty where nothing was said.

    `example_inputs`, `names` and `dynamic` describe the inputs of a module, `weights` fills one. `layouts` and
    `ranges` (of the values that stand for black and white) are of tensors by name; `mean` and `std`, a number a
    channel, are those that a module's image is normalised by: they go into the graph, which then takes 0…1.
    `task` and `settings` are what a person states of the task that runs it: a reader adds what it knows itself.
    """

    weights: Path | None = None
    example_inputs: Sequence[Array | torch.Tensor] = ()
    names: Sequence[str] = ()
    dynamic: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    task: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What a reader makes of a reference: a source for each component, and what the bundle says beside them.

    `files` are further files of the bundle, by their path in it, such as a tokenizer; `buckets` are sizes of
    the free dimensions for formats that need them fixed, where the caller names none; `tolerance` is the
    largest absolute error of an fp32 file, where the caller names none.
    """

    sources: Mapping[str, Source]
    task: Task | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    buckets: Sequence[Mapping[str, int]] = ()
    tolerance: float | None = None
    summary: str = ""
    licence: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)


SAID = {  # what may be said of the inputs, and as what an error speaks of it
    "weights": "weights",
    "example_inputs": "example inputs",
    "names": "names of inputs",
    "dynamic": "free dimensions",
    "mean": "a mean",
    "std": "a deviation",
}


class Reader(ABC):
    """Knows one kind of model; a row in the registry's table "readers"."""

    expects: str  # one phrase of what it reads, for the error where nobody does
    takes: frozenset[str] = frozenset()  # those of SAID that it uses; what is said of the others is refused

    @abstractmethod
    def reads(self, reference: Any) -> bool:
        """Whether this is of its kind; looks at names and first bytes, and imports nothing heavy."""

    @abstractmethod
    def read(self, reference: Any, asked: Asked) -> Prepared:
        """Load it.

        Raises:
            InputError: it cannot be loaded, or lacks what `asked` should say. NotInstalled.
        """


class ModuleReader(Reader):
    """An nn.Module, or "package.module:factory" or "file.py:factory" for one, a Source, or several by component."""

    expects = "an nn.Module, package.module:factory or file.py:factory"
    takes = frozenset(SAID)

    def reads(self, reference: Any) -> bool:
        return isinstance(reference, nn.Module) or (isinstance(reference, str) and ":" in reference)

    def read(self, reference: Any, asked: Asked) -> Prepared:
        made = called(reference) if isinstance(reference, str) else reference
        if isinstance(made, Source):
            made = {"model": made}
        sources = _components(made, asked) if isinstance(made, Mapping) else {"model": _described(made, asked)}
        return Prepared(sources, stated_task(asked))


def refuse_idle(asked: Asked, takes: Collection[str], what: str) -> None:
    """Refuse what is said and would not be used: the file would compute something else than was asked for.

    Raises:
        InputError.
    """
    given = {name: getattr(asked, name) for name in SAID}
    said = [name for name, value in given.items() if value is not None and (name == "weights" or len(value))]
    if idle := [SAID[name] for name in said if name not in takes]:
        raise InputError(f"got {' and '.join(idle)} for {what}: it brings its own; leave them out")
    if bool(len(asked.mean)) != bool(len(asked.std)):
        raise InputError(f"got mean={list(asked.mean)} and std={list(asked.std)}: give both, a number a channel")


def _components(made: Mapping[str, Any], asked: Asked) -> dict[str, Source]:
    """A source for each; inputs of a component's module are named "component/input"."""
    if not made:
        raise InputError("got no component to export: expected a module, a Source, or several by name")
    if asked.weights is not None:
        raise InputError(f"got weights for the components {', '.join(made)}: load them in the factory")
    modules = [name for name, part in made.items() if not isinstance(part, Source)]
    refuse_idle(asked, frozenset(SAID) if modules else (), f"the sources {', '.join(made)}")
    said = by_component(asked, dict.fromkeys(modules, ()))
    said = with_mean(said, {n: [np.shape(a) for a in mine.example_inputs] for n, mine in said.items()})
    return {
        name: part if isinstance(part, Source) else _described(part, _with_inputs(name, said[name]))
        for name, part in made.items()
    }


def _with_inputs(name: str, asked: Asked) -> Asked:
    """The same.

    Raises:
        InputError: there are no example inputs.
    """
    if not len(asked.example_inputs):
        raise InputError(f"got no inputs of component '{name}': name them '{name}/image' and so on")
    return asked


def by_component(asked: Asked, tensors: Mapping[str, Collection[str]]) -> dict[str, Asked]:
    """What is said of each component's inputs, and layouts and ranges of its `tensors`, where those are known.

    Something is said of "component/tensor", or of a tensor that one component alone has.

    Raises:
        InputError: a name that is of no component, or of several; example inputs without names.
    """
    if len(asked.example_inputs) and len(asked.names) != len(asked.example_inputs):
        raise InputError(
            f"got {len(asked.example_inputs)} example inputs and the names {list(asked.names)} for the components "
            f"{', '.join(tensors)}: name each '{next(iter(tensors))}/image' and so on"
        )
    places = [owner(name, tensors) for name in asked.names]
    given = dict(zip(places, asked.example_inputs, strict=True)) if len(asked.example_inputs) else {}
    dynamic = by_owner(asked.dynamic, tensors)
    known = any(tensors.values())
    layouts = by_owner(asked.layouts, tensors) if known else {}
    ranges = by_owner(asked.ranges, tensors) if known else {}
    return {
        name: replace(
            asked,
            names=[tensor for component, tensor in places if component == name],
            example_inputs=[array for (component, _), array in given.items() if component == name],
            dynamic=dynamic.get(name, {}),
            layouts=layouts.get(name, {}),
            ranges=ranges.get(name, {}),
        )
        for name in tensors
    }


def with_mean(said: Mapping[str, Asked], shapes: Mapping[str, Sequence[Sequence[int | str]]]) -> dict[str, Asked]:
    """The mean and the deviation left to the one component with an image of as many channels, by its inputs' shapes.

    Raises:
        InputError: none, or several.
    """
    count = max((len(asked.mean) for asked in said.values()), default=0)
    images = [n for n, of in shapes.items() if any(len(s) == 4 and count in (s[1], s[3]) for s in of)]
    if count and len(images) != 1:
        raise InputError(
            f"got a mean of {count} channels for the components {', '.join(said)}: expected one of them to take an "
            "image of as many; else normalise in the network itself"
        )
    return {n: asked if n in images else replace(asked, mean=(), std=()) for n, asked in said.items()}


def by_owner(said: Mapping[str, V], tensors: Mapping[str, Collection[str]]) -> dict[str, dict[str, V]]:
    """What is said of tensors, by component and tensor.

    Raises:
        InputError: as `owner`.
    """
    found: dict[str, dict[str, V]] = {}
    for name, value in said.items():
        component, tensor = owner(name, tensors)
        found.setdefault(component, {})[tensor] = value
    return found


def owner(name: str, tensors: Mapping[str, Collection[str]]) -> tuple[str, str]:
    """The component and the tensor that "component/tensor" or "tensor" names, of the tensors by component.

    Raises:
        InputError: none, or several.
    """
    component, slash, tensor = name.partition("/")
    if slash and component in tensors:
        return component, tensor
    owners = [each for each, known in tensors.items() if name in known]
    if len(owners) == 1:
        return owners[0], name
    if owners:
        raise InputError(f"got '{name}', which {' and '.join(owners)} have: say '{owners[0]}/{name}'")
    every = [f"{each}/{tensor}" for each, names in tensors.items() for tensor in sorted(names) or ("…",)]
    raise InputError(f"got '{name}', which no component has: expected {', '.join(every)}")


def _described(module: Any, asked: Asked) -> Source:
    """A module with what is said of it."""
    if not isinstance(module, nn.Module):
        raise InputError(f"got {type(module).__name__}: expected a torch.nn.Module")
    if asked.weights is not None:
        module = filled(module, asked.weights)
    if asked.mean or asked.std:
        module = Normalized(module, asked.mean, asked.std)
    return from_module(module, asked.example_inputs, asked.names, asked.dynamic)


def stated_task(asked: Asked) -> Task | None:
    """The task that the caller states, where the model states none itself.

    Raises:
        InputError: settings without a task.
    """
    if asked.settings and not asked.task:
        raise InputError(f"got the settings {', '.join(asked.settings)} without a task: name it with --task")
    return Task(asked.task, dict(asked.settings)) if asked.task else None


def require_normal(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse a mean and a deviation that nothing can be normalised by.

    Raises:
        InputError.
    """
    if not len(mean) or len(mean) != len(std) or not all(s > 0 for s in std):
        raise InputError(f"got mean={list(mean)} and std={list(std)}: give both, a number of each a channel, std > 0")


class Normalized(nn.Module):
    """A module whose image, batch × channels × height × width in 0…1, is first brought to its mean and deviation."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        require_normal(mean, std)
        self.module = module
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> Any:
        return self.module((image - self.mean) / self.std)


def read(reference: Any, asked: Asked) -> Prepared:
    """What the first reader makes of it that knows its kind.

    Raises:
        InputError: nobody knows it; says what can be read. As Reader.read.
    """
    prepared = _read(reference, asked)
    tensors = {n: [s.name for s in (*source.inputs, *source.outputs)] for n, source in prepared.sources.items()}
    layouts, ranges = by_owner(asked.layouts, tensors), by_owner(asked.ranges, tensors)
    said = {n: Asked(layouts=layouts.get(n, {}), ranges=ranges.get(n, {})) for n in tensors}
    for name, mine in said.items():
        if strange := {*mine.layouts, *mine.ranges}.difference(tensors[name]):
            raise InputError(f"got the layout or range of {sorted(strange)}: the tensors are {sorted(tensors[name])}")
    return replace(prepared, sources={n: _stated(source, said[n]) for n, source in prepared.sources.items()})


def _stated(source: Source, asked: Asked) -> Source:
    """The source with the layouts and ranges that the caller states."""

    def spec(given: TensorSpec) -> TensorSpec:
        layout, values = asked.layouts.get(given.name, given.layout), asked.ranges.get(given.name, given.range)
        if layout is not None and len(given.shape) != 4:
            raise InputError(f"got the layout {layout} for {given.name}: it is {given}, which is no image")
        return msgspec.structs.replace(given, layout=layout, range=values)

    return replace(source, inputs=tuple(map(spec, source.inputs)), outputs=tuple(map(spec, source.outputs)))


def _read(reference: Any, asked: Asked) -> Prepared:
    if isinstance(reference, Source):
        reference = {"model": reference}
    if isinstance(reference, Mapping):
        if reference and all(isinstance(value, torch.Tensor) for value in reference.values()):
            raise InputError(
                f"got a state dict of {len(reference)} tensors: pass the module that they fill, after "
                "module.load_state_dict(…)"
            )
        return Prepared(_components(reference, asked), stated_task(asked))
    what = f"'{reference}'" if isinstance(reference, (str, Path)) else type(reference).__name__
    kinds = []
    for name in registry.names("readers"):
        reader = registry.find("readers", name)()
        assert isinstance(reader, Reader)
        if reader.reads(reference):
            refuse_idle(asked, reader.takes, what)
            return reader.read(reference, asked)
        kinds.append(reader.expects)
    raise InputError(f"got {what}, which is nothing that can be exported: expected {'; '.join(kinds)}")
