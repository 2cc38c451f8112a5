"""BucketSession: files of fixed sizes as one session, which runs each input in the file of its size."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from edgekit.errors import BundleError, SessionClosed, TensorError
from edgekit.manifest import Component, Variant
from edgekit.session import CLOSED, Placement, Session
from edgekit.tensors import Array, TensorSpec


class BucketSession(Session):
    """The variants of one component, engine and precision that differ in `sizes` alone.

    `inputs` and `outputs` have the free dimensions by name. A file is opened when an input of its size first comes,
    and stays open. Thread-safe as its sessions are.
    """

    def __init__(
        self, component: Component, variants: Sequence[Variant], opening: Callable[[Variant], Session]
    ) -> None:
        """Opens the first file, so that errors come here. `opening` opens a variant's file."""
        super().__init__()
        first = variants[0]
        self._names = list(first.sizes)
        self._variants = {tuple(v.sizes[name] for name in self._names): v for v in variants}
        self._opening = opening
        self.inputs = _free(component.inputs, first.inputs)
        self.outputs = _free(component.outputs, first.outputs)
        self._places = [_place(name, self.inputs) for name in self._names]
        self._last = opening(first)
        self._sessions = {next(iter(self._variants)): self._last}

    def run(self, inputs: Mapping[str, Array], *, copy: bool = True) -> dict[str, Array]:
        """As Session.run, in the file of the inputs' sizes.

        Raises:
            TensorError: there is no file of these sizes; lists those there are.
        """
        return self._of(inputs).run(inputs, copy=copy)

    @contextmanager
    def borrow(self, inputs: Mapping[str, Array], *, check: bool = True) -> Iterator[dict[str, Array]]:
        """As Session.borrow, in the file of the inputs' sizes."""
        with self._of(inputs).borrow(inputs, check=check) as outputs:
            yield outputs

    def map(self, stream: Iterable[Mapping[str, Array]], *, ahead: int | None = None) -> Iterator[dict[str, Array]]:
        """As Session.map; where the size changes, the runs under way are finished first."""
        for session, items in itertools.groupby(stream, self._of):
            yield from session.map(items, ahead=ahead)

    def placement(self) -> Placement:
        """Of the file that ran last."""
        return replace(self._last.placement(), why=self.why)

    def _of(self, inputs: Mapping[str, Array]) -> Session:
        """The open session for these inputs' sizes."""
        try:
            session = self._sessions[tuple([inputs[name].shape[axis] for name, axis in self._places])]
        except (LookupError, AttributeError, TypeError):  # not open yet, or not what can be run
            session = self._opened(inputs)
        self._last = session
        return session

    def _opened(self, inputs: Mapping[str, Array]) -> Session:
        if self._closing:
            raise SessionClosed(CLOSED)
        self._checked(inputs)
        sizes = tuple(inputs[name].shape[axis] for name, axis in self._places)
        if sizes not in self._variants:
            have = listed(self._variants.values())
            got = ", ".join(f"{name} {size}" for name, size in zip(self._names, sizes, strict=True))
            raise TensorError(f"got inputs of {got}: this bundle has files of {have}; bring them to one of these sizes")
        with self._state:
            if self._closing:
                raise SessionClosed(CLOSED)
            if sizes not in self._sessions:
                self._sessions[sizes] = self._opening(self._variants[sizes])
            return self._sessions[sizes]

    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        named = dict(zip((s.name for s in self.inputs), arrays, strict=True))
        return list(self._of(named).run(named, copy=copy).values())

    def _close(self) -> None:
        for session in self._sessions.values():
            session.close()


def listed(variants: Iterable[Variant]) -> str:
    """Their sizes for a message: "height 64 × width 64; height 256 × width 256"."""
    each = (" × ".join(f"{name} {size}" for name, size in v.sizes.items()) for v in variants if v.sizes)
    return "; ".join(dict.fromkeys(each))


def _free(described: Sequence[TensorSpec], stated: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The component's tensors, free dimensions named, in the file's own layout, dtype and names."""
    if not stated:
        return tuple(described)
    return tuple(
        msgspec.structs.replace(own, shape=spec.in_layout(own.layout).shape if own.layout else spec.shape)
        for spec, own in zip(described, stated, strict=True)
    )


def _place(name: str, inputs: Sequence[TensorSpec]) -> tuple[str, int]:
    """The input and axis that a free dimension is read from."""
    found = ((spec.name, axis) for spec in inputs for axis, size in enumerate(spec.shape) if size == name)
    place = next(found, None)
    if place is None:
        raise BundleError(f"no input has the free dimension '{name}' that the bundle's files are made for")
    return place
