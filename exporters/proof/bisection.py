"""Bisection: the smallest module, then the first operator, that fails a trial alone on the inputs it really gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from edgekit.errors import EdgekitError
from edgekit.exporters.sources import Source
from edgekit.tensors import Array, TensorSpec, dtype_named

Trial = Callable[[Source], bool]  # whether a part, exported alone, fails


@dataclass(frozen=True)
class Part:
    """A module of the network with the arguments of its first call."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def kind(self) -> tuple[str, str]:
        """Equal for parts that differ in their weights alone."""
        shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves()]
        return str(self.module), str(shapes)

    def source(self) -> Source:
        """The part alone: its tensors are inputs, all else stays as it was in that call.

        Raises:
            EdgekitError: a tensor has a dtype that no engine knows.
        """
        leaves, form = pytree.tree_flatten((self.args, self.kwargs))
        alone = Alone(self.module, leaves, form)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        with torch.no_grad():
            results = alone(*(t.clone() for t in tensors))
        inputs = tuple(_spec(f"input{i}", t) for i, t in enumerate(tensors))
        outputs = tuple(_spec(f"output{i}", t) for i, t in enumerate(results))
        return Source(alone, inputs, outputs, (tuple(t.detach().numpy() for t in tensors),))

    def _leaves(self) -> list[Any]:
        leaves: list[Any] = pytree.tree_leaves((self.args, self.kwargs))
        return leaves


class Alone(nn.Module):
    """A module that takes the tensors among its arguments one by one, and gives back a flat tuple of tensors."""

    def __init__(self, module: nn.Module, leaves: Sequence[Any], form: Any) -> None:
        super().__init__()
        self.module = module
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.form = form

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.form)
        return tuple(leaf for leaf in pytree.tree_leaves(self.module(*args, **kwargs)) if isinstance(leaf, Tensor))


class Bisection:
    """One search in a network with real inputs, which ends after `seconds`."""

    def __init__(self, module: nn.Module, probe: Sequence[Array], trial: Trial, seconds: float) -> None:
        self.module, self.probe, self.trial = module, probe, trial
        self.deadline = time.monotonic() + seconds
        self.sound: set[tuple[str, str]] = set()

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    def module_at_fault(self) -> Part:
        """The smallest module that fails alone; the whole network where none of its parts does."""
        tensors = tuple(torch.from_numpy(a.copy()) for a in self.probe)
        at_fault = Part("", self.module, tensors, {})
        while (inner := self._failing(at_fault)) is not None:
            at_fault = inner
        return at_fault

    def node_at_fault(self, part: Part) -> fx.Node | None:
        """The first operator of a module up to which its graph fails; None where no beginning of it does."""
        source = part.source()
        tensors = tuple(torch.from_numpy(a.copy()) for a in source.probes[0])
        program = torch.export.export(source.module, tensors)
        graph = program.module()
        assert isinstance(graph, fx.GraphModule)
        nodes = [n for n in graph.graph.nodes if n.op == "call_function" and isinstance(n.meta.get("val"), Tensor)]
        sound, failing = -1, len(nodes) - 1
        if not nodes or not self._tried(_beginning(graph, nodes[-1], source)):
            return None
        while failing - sound > 1 and self.left_s > 0:
            middle = (sound + failing) // 2
            if self._tried(_beginning(graph, nodes[middle], source)):
                failing = middle
            else:
                sound = middle
        return nodes[failing] if failing - sound == 1 else None

    def _failing(self, outer: Part) -> Part | None:
        """The first of the parts of a module that fails alone."""
        for part in self._parts(outer):
            if part.kind in self.sound:
                continue
            if self.left_s <= 0:
                return None
            try:
                source = part.source()
            except (
                EdgekitError,
                RuntimeError,
                TypeError,
            ):  # tensors that no engine knows, or arguments of its own kind
                continue
            if self._tried(source):
                return part
            self.sound.add(part.kind)
        return None

    def _tried(self, source: Source) -> bool:
        return self.trial(source)

    def _parts(self, outer: Part) -> list[Part]:
        """The modules directly inside, with the arguments of their first calls, in the order they are called."""
        found: dict[str, Part] = {}
        handles = []
        for path, child in _children(outer.module, outer.path):
            record = _recorder(path, found)
            handles.append(child.register_forward_pre_hook(record, with_kwargs=True))
        try:
            with torch.no_grad():
                outer.module(*_copied(outer.args), **_copied(outer.kwargs))
        finally:
            for handle in handles:
                handle.remove()
        return list(found.values())


def _recorder(path: str, found: dict[str, Part]) -> Callable[[nn.Module, Any, Any], None]:
    def record(module: nn.Module, args: Any, kwargs: Any) -> None:
        if path not in found:
            found[path] = Part(path, module, _copied(args), _copied(kwargs))

    return record


def _children(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules directly inside; those of lists, which are not called themselves, in their place."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _children(child, inner)
        else:
            yield inner, child


def _beginning(graph: fx.GraphModule, last: fx.Node, whole: Source) -> Source:
    """The graph up to a node, as a source that gives back this node's tensor."""
    begun = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        copies[node] = begun.node_copy(node, lambda n: copies[n])
        if node is last:
            break
    begun.output((copies[last],))
    for node in reversed(list(begun.nodes)):  # what feeds later nodes alone
        if node.op not in ("placeholder", "output") and not node.users:
            begun.erase_node(node)
    module = fx.GraphModule(graph, begun)
    with torch.no_grad():
        (result,) = module(*(torch.from_numpy(a.copy()) for a in whole.probes[0]))
    return Source(module, whole.inputs, (_spec("output0", result),), whole.probes)


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, dtype_named(str(tensor.dtype).removeprefix("torch.")), tuple(tensor.shape))


def _copied(value: Any) -> Any:
    """The same arguments with copies of the tensors: the module may work in place."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value)
