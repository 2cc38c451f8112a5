"""The runtime contract: Runtime, Session, Device and Placement."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Never, Self
from weakref import WeakSet

import msgspec
import numpy as np

from edgekit import flight, forking, registry
from edgekit.errors import (
    InputError,
    NotInstalled,
    SessionClosed,
    TensorError,
)
from edgekit.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from edgekit.text import Memory, TextReading

CLOSED = "this session was closed: open another with edgekit.open_session(…)"
FORKED = (
    "this session was opened in another process (a fork of it runs this), whose engine's threads do not come along: "
    "open another here with edgekit.open_session(…)"
)
Kind = Literal["hardware", "software", "simulator"]


@dataclass(frozen=True)
class Device:
    """One engine × device; `why` says what is in the way where it is not usable, `remedy` what to do about it.

    `kind`: the device itself, a program that does its work on the processor, or a simulator: times of the last two
    say nothing of a device. `provider`: what the engine's options call it, where several serve one device.
    """

    runtime: str
    name: str
    title: str
    precisions: tuple[str, ...] = ()
    usable: bool = True
    why: str = ""
    kind: Kind = "hardware"
    provider: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Placement:
    """Where a session really runs, as its engine tells.

    `operators` counts operators by unit and kind or precision, for example {"CPU i8": 6, "CPU f32": 9}.
    `inserted` counts what the engine added of its own, for example {"Transpose": 2, "Convert f32 → bf16": 1}.
    """

    runtime: str
    version: str
    requested: str
    device: str
    precision: str
    threads: int | None
    operators: dict[str, int]
    why: str = "asked for"
    kind: Kind = "hardware"
    inserted: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """What a runtime is asked to open: a verified file and, from a bundle, what it takes and gives.

    `family` and `settings` name the network of the zoo that a `torch` file holds the weights of; `files` are
    all that a manifest lists for it, verified, and None for a lone file; `hashes` their SHA-256. `sizes` are what free dimensions were asked
    to be, for devices that need them fixed. `memory` is a language model's, where the session may keep it.
    """

    path: Path
    format: str
    precision: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    family: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] | None = None
    hashes: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    memory: Memory | None = None


class Closing(ABC):
    """A context manager that closes what it is at the end of the block."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> Never:
        raise InputError(
            f"{type(self).__name__} holds an engine's memory and cannot be pickled or copied: hand over the bundle's "
            "name or path, and open it there"
        )


class Session(Closing):
    """A model opened on one engine and device; thread-safe; a context manager that closes.

    `inputs` and `outputs` are tuples of TensorSpec. An engine implements `_run`, `placement` and
    `_close`, and sets `_serial` where one call at a time is all that it takes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    streams: int = 1  # runs that the engine does at a time for `map`
    again: Callable[[], Session] | None = None  # opens the file once more, where each stream needs one of its own
    _serial: ClassVar[bool] = True

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._turn = self._lock if self._serial else nullcontext()  # held while the engine runs
        self._state = threading.Lock()  # held for moments: flags and the pool
        self._closing = self._closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._flights: WeakSet[flight.Flight] = WeakSet()
        self._copies: list[Session] = []
        self._process_id = os.getpid()
        forking.keep_unfreed(self)
        self.why = "asked for"
        self.others = ""  # the sizes that a bundle has files of, where this is one of them

    def run(self, inputs: Mapping[str, Array], *, copy: bool = True) -> dict[str, Array]:
        """Run the model once.

        Args:
            inputs: one array for each of `inputs`, by name, of the dtype and shape it states. Never written to.
            copy: False may hand out the engine's own buffers, which the next run overwrites.

        Raises:
            TensorError: a wrong name, dtype or shape, or NaN. SessionClosed. EngineError.
        """
        self._refuse_closed()
        arrays = self._checked(inputs)
        with self._turn:
            self._refuse_closed()
            results = self._run(arrays, copy)
        return {spec.name: result for spec, result in zip(self.outputs, results, strict=True)}

    @contextmanager
    def borrow(self, inputs: Mapping[str, Array], *, check: bool = True) -> Iterator[dict[str, Array]]:
        """Run, and lend the engine's own output buffers for the block: nothing is copied, no other run comes between.

        `check=False` is for a caller that hands in the same sound arrays step after step: they go to the engine
        as they are, and looking for NaN in a large state costs no time.

        Raises:
            TensorError, SessionClosed, EngineError: as `run`.
        """
        self._refuse_closed()
        arrays = self._checked(inputs) if check else [inputs[spec.name] for spec in self.inputs]
        with self._turn:
            self._refuse_closed()
            results = self._run(arrays, False)
            yield {spec.name: result for spec, result in zip(self.outputs, results, strict=True)}

    def submit(self, inputs: Mapping[str, Array]) -> Future[dict[str, Array]]:
        """Run in the background; returns a concurrent.futures.Future of what `run` returns."""
        self._refuse_forked()
        with self._state:
            self._refuse_closing()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="edgekit-session")
            return self._pool.submit(self.run, inputs)

    def map(self, stream: Iterable[Mapping[str, Array]], *, ahead: int | None = None) -> Iterator[dict[str, Array]]:
        """What `run` returns for each item of a stream, in order, while the next ones are under way already.

        Items are taken when a result is asked for. What is wrong with one, or with the stream, is raised in its turn,
        after the results of those before it. Left midway, or closed, it leaves nothing running.

        Args:
            stream: the inputs of run after run. An array must not change until its result is there.
            ahead: items taken beyond the one whose result is handed out; None: as many as keep the engine busy, 0: one
                run after another. So many inputs and results are in memory at most.

        Raises:
            InputError: a negative `ahead`. As `run`.
        """
        if ahead is not None and not (isinstance(ahead, int) and ahead >= 0):
            raise InputError(f"got ahead={ahead!r}: expected 0 or more, or None")
        if isinstance(stream, Mapping) or not isinstance(stream, Iterable):
            raise InputError(f"got a stream of type {type(stream).__name__}: expected the inputs of run after run")
        self._refuse_forked()
        self._refuse_closing()
        return flight.in_order(lambda: self._begun(1 + (self.streams if ahead is None else ahead)), iter(stream))

    def reading(self, texts: int) -> TextReading | None:
        """So many new texts of a language model whose memory the engine keeps; None where it keeps none.

        Raises:
            SessionClosed.
        """
        self._refuse_closed()
        return None

    def warm_up(self, inputs: Mapping[str, Array] | None = None, *, runs: int = 3) -> None:
        """Run a few times, so that the engine allocates and packs before it counts.

        Args:
            inputs: of the sizes that will come; left out, seeded numbers, where no dimension is free.

        Raises:
            InputError: no inputs, and free dimensions. As `run`.
        """
        feeds = _numbers(self.inputs) if inputs is None else inputs
        for _ in range(runs):
            self.run(feeds)

    def close(self) -> None:
        """Free the engine's memory; a second call does nothing. Runs already submitted are finished first.

        In a forked child nothing is freed: what is there belongs to the process that opened it.
        """
        if self._process_id != os.getpid():
            return
        with self._state:
            self._closing = True
            pool, self._pool = self._pool, None
        for under_way in list(self._flights):
            under_way.close()
        for copy in self._copies:
            copy.close()
        if pool is not None:
            pool.shutdown(wait=True)
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close()

    @abstractmethod
    def placement(self) -> Placement:
        """Where the model runs, read from the engine."""

    @abstractmethod
    def _run(self, arrays: list[Array], copy: bool) -> list[Array]:
        """Call the engine on checked, contiguous arrays in the order of `inputs`."""

    def _close(self) -> None:
        """Drop what holds the engine's memory."""

    def _flight(self, room: int) -> flight.Flight:
        """So many runs under way; an engine with requests of its own has its own Flight."""
        while self.again is not None and self._serial and len(self._copies) < self.streams - 1:
            self._copies.append(self.again())
        sessions = [self, *self._copies] if self._serial else [self] * self.streams
        return flight.PooledFlight([session.run for session in sessions], room, CLOSED)

    def _begun(self, room: int) -> flight.Flight:
        with self._state:
            self._refuse_closing()
            begun = self._flight(room)
            self._flights.add(begun)
        return begun

    def _refuse_closing(self) -> None:
        if self._closing:
            raise SessionClosed(CLOSED)

    def _checked(self, inputs: Mapping[str, Array]) -> list[Array]:
        sizes: dict[str, int] = {}
        try:
            given = [inputs[spec.name] for spec in self.inputs] if len(inputs) == len(self.inputs) else None
        except (LookupError, TypeError, ValueError):  # of names, or of what is no mapping
            given = None
        if given is None or not isinstance(inputs, Mapping):
            expected = ", ".join(f"{spec.name}: {spec}" for spec in self.inputs)
            mapped = isinstance(inputs, Mapping)
            got = f"the inputs {sorted(inputs, key=str)}" if mapped else f"inputs of type {type(inputs).__name__}"
            raise TensorError(f"got {got}, expected {{{expected}}}")
        try:
            return [spec.check(array, sizes) for spec, array in zip(self.inputs, given, strict=True)]
        except TensorError as error:
            fits = all(getattr(inputs[s.name], "shape", s.shape) == s.shape for s in self.inputs)
            if fits or not self.others:
                raise
            raise TensorError(f"{error}; the bundle has files of {self.others}: open one by sizes=, or none") from error

    def _refuse_forked(self) -> None:
        if self._process_id != os.getpid():  # before any lock: a thread that is not here may hold it
            raise SessionClosed(FORKED)

    def _refuse_closed(self) -> None:
        self._refuse_forked()
        if self._closed:
            raise SessionClosed(CLOSED)


def _numbers(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Seeded inputs that fit.

    Raises:
        InputError: a dimension is free.
    """
    free = [f"{spec.name}: {spec}" for spec in specs if not all(isinstance(d, int) for d in spec.shape)]
    if free:
        raise InputError(f"got no inputs to warm up with, and free dimensions ({', '.join(free)}): pass inputs=")
    random = np.random.default_rng(0)
    shapes = {spec.name: tuple(int(d) for d in spec.shape) for spec in specs}
    return {spec.name: np.asarray(random.random(shapes[spec.name])).astype(spec.dtype) for spec in specs}


def agreed(stated: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...], path: Path) -> tuple[TensorSpec, ...]:
    """The manifest's specs where it has some, if the file's own do not contradict them; else the file's.

    Raises:
        TensorError: another number of tensors, another dtype, or another size of a fixed dimension.
    """
    if not stated:
        return found
    alike = len(stated) == len(found) and all(_alike(s, f) for s, f in zip(stated, found, strict=True))
    if not alike:
        listed = ["; ".join(f"{s.name}: {s}" for s in specs) for specs in (found, stated)]
        raise TensorError(f"'{path.name}' has {listed[0]}, its manifest says {listed[1]}: export the bundle again")
    return tuple(_with_scale(s, f) for s, f in zip(stated, found, strict=True))


def _with_scale(stated: TensorSpec, found: TensorSpec) -> TensorSpec:
    """What a file says of its integers, where the manifest leaves it out."""
    if found.quantization is None or stated.quantization is not None:
        return stated
    return msgspec.structs.replace(stated, quantization=found.quantization)


def _alike(stated: TensorSpec, found: TensorSpec) -> bool:
    pairs = zip(stated.shape, found.shape, strict=False)
    fixed = all(s == f for s, f in pairs if isinstance(s, int) and isinstance(f, int))
    return stated.dtype == found.dtype and len(stated.shape) == len(found.shape) and fixed


class Runtime(ABC):
    """One inference engine: what it can open, where, and how."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    options: ClassVar[type]

    @abstractmethod
    def version(self) -> str:
        """The engine's version.

        Raises:
            NotInstalled: its package is missing.
        """

    @abstractmethod
    def devices(self) -> list[Device]:
        """The devices this engine knows here, usable or not; may raise NotInstalled."""

    @abstractmethod
    def open(self, model: Model, device: str, threads: int | None, options: Any) -> Session:
        """Open a verified file, strictly on `device`.

        Raises:
            NotInstalled, DeviceUnavailable, EngineError.
        """

    def computes(self, precision: str, device: str = "cpu") -> str:
        """The precision that files of this one are computed in here, another where the processor would err in it."""
        return precision

    def installed(self) -> bool:
        """Whether the engine's package is there and can be imported."""
        return not self.problem()

    def problem(self) -> str:
        """Why the engine cannot be used at all; empty where it can."""
        try:
            self.version()
        except NotInstalled as error:
            return str(error)
        except Exception as error:  # a damaged package, or another package's runtime: no reason to go down with it
            why = f"{self.name} is broken ({type(error).__name__}: {error}): install it anew, or uninstall it"
            registry.warn_once(why)
            return why
        return ""

    def listed(self) -> list[Device]:
        """`devices()`, or one row that says why there are none."""
        try:
            return self.devices()
        except NotInstalled as error:
            why = str(error)
        except Exception as error:
            why = f"{self.name} cannot list its devices ({type(error).__name__}: {error}): install it anew"
        return [Device(self.name, "cpu", "", usable=False, why=why)]
