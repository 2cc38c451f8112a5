"""Task: what the tasks share, from a bundle's settings to the sessions that run it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
import numpy as np

from edgekit import choice
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, ManifestError, SessionClosed
from edgekit.guard import Check
from edgekit.images import UInt8
from edgekit.isolation import Isolation
from edgekit.manifest import Variant
from edgekit.opening import open_session
from edgekit.session import Closing, Placement, Session
from edgekit.tensors import Array
from edgekit.text import Memory
from edgekit.verify import feeds, golden_sizes


class Task(Closing):
    """A bundle opened on one engine, device and precision; a context manager that closes.

    A task names itself, states its `Settings` (decoded from the manifest, unknown keys refused) and the
    `components` that it runs, and calls `_session` for a session of the sizes that it needs. All components
    run on the engine and in the precision that the first is given. Thread-safe.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Any]]
    components: ClassVar[tuple[str, ...]] = ("model",)
    draws: ClassVar[str] = ""  # what `once` makes, where the task takes no image: "one image", "32 tokens"

    def __init__(
        self,
        bundle: Bundle,
        runtime: str = "auto",
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
        isolate: bool | Isolation = False,
        image_size: tuple[int, int] | None = None,
        tile: int | None = None,
        check: Check = "auto",
        options: Any = None,
    ) -> None:
        assert bundle.manifest.task is not None
        try:
            self.settings = msgspec.convert(bundle.manifest.task.settings, self.Settings)
        except msgspec.ValidationError as error:
            raise ManifestError(f"{bundle.name}: the settings of task '{self.name}' are wrong: {error}") from error
        self.bundle = bundle
        self._isolate, self._guarding, self._options = isolate, check, options
        for component in self.components:
            bundle.component(component)
        self._precision = precision
        self._picked = choice.pick(
            bundle, self.components[0], runtime, device, precision, {}, threads, image_size, options=options
        )
        self._picked = replace(self._picked, tile=tile or self._picked.tile)
        self._sessions: dict[tuple[str, tuple[tuple[str, int], ...], bool], Session] = {}
        self._last: Session | None = None
        self._closed = False
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """Name, task, settings, and what runs where and why."""
        return {
            "name": self.bundle.name,
            "task": self.name,
            **msgspec.to_builtins(self.settings),
            "placement": (placement := msgspec.to_builtins(self.placement())),
            "why": self._why(placement["why"]),
        }

    def _why(self, told: str) -> str:
        """Why this runs as it does, from what the session tells."""
        return told

    @property
    def variant(self) -> Variant:
        """The form of the first component that runs, with its quality and parity."""
        return self._picked.variant

    def placement(self) -> Placement:
        """Where the model ran last, read from the engine."""
        session = self._last
        assert session is not None  # every task opens one when it is made
        return session.placement()

    def once(self, image: UInt8) -> Any:
        """The task done once, as a benchmark times it; what takes no image draws with a fixed seed instead."""
        return self(image)  # type: ignore[operator]  # every task that takes an image is called with it

    def warm_up(self, image: UInt8 | None = None, *, runs: int = 1) -> None:
        """Do the task a few times before it counts: engines allocate and pack in the first run of a size.

        Args:
            image: of the size that will come; left out, a small grey one. Tasks that take none draw instead.

        Raises:
            As a call.
        """
        for _ in range(runs):
            self.once(np.full((64, 64, 3), 128, np.uint8) if image is None else image)

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """A session and the tensors it gets, as a benchmark times it: for an image, one tile of it, or golden values."""
        name = self.components[0]
        session, golden = self._session(golden_sizes(self.bundle, name), name), self.bundle.golden(name)
        inputs = self.bundle.component(name).inputs
        return session, feeds(session, [golden[spec.name] for spec in inputs], inputs)

    def close(self) -> None:
        """Free the engine's memory."""
        with self._lock:
            self._closed = True
            for session in self._sessions.values():
                session.close()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise SessionClosed(f"{self.bundle.name} was closed: load it again with edgekit.load(…)")

    def _answer(self, inputs: Mapping[str, Array], component: str = "model") -> dict[str, Array]:
        """What a component makes of its inputs, by name; every value is finite.

        Raises:
            EngineError: NaN or infinity came out.
        """
        outputs = self._session(component=component).run(inputs)
        for name, array in outputs.items():
            self._require_finite(array, name)
        return outputs

    def _require_finite(self, array: Array, name: str) -> None:
        """Refuse what a model gives beyond numbers.

        Raises:
            EngineError.
        """
        flat = array.reshape(-1)
        if array.dtype.kind == "f" and not np.isfinite(np.dot(flat, flat)) and not np.isfinite(array).all():
            kind = "NaN" if np.isnan(array).any() else "infinity"
            running = self._picked.variant.precision
            remedy = "" if running == "fp32" else "try precision='fp32', or "
            raise EngineError(
                f"{self.bundle.name} gave {kind} in '{name}' ({self._picked.runtime} {running}): {remedy}see what "
                f"`edgekit verify {self.bundle.name}` says"
            )

    def _session(
        self, sizes: Mapping[str, int] | None = None, component: str = "model", memory: Memory | None = None
    ) -> Session:
        """The session of a component for these sizes of the free dimensions, opened on first use; one that may keep a
        language model's memory is another.
        """
        key = (component, tuple(sorted((sizes or {}).items())), memory is not None)
        with self._lock:
            self._refuse_closed()
            if key not in self._sessions:
                session = open_session(
                    self.bundle,
                    self._picked.runtime,
                    device=self._picked.device,
                    precision=self._picked.variant.precision if self._precision == "auto" else self._precision,
                    threads=self._picked.threads,
                    component=component,
                    sizes=sizes,
                    isolate=self._isolate,
                    check=self._guarding,
                    options=self._options,
                    memory=memory,
                )
                session.why = session.why.replace("asked for", self._picked.why, 1)
                self._sessions[key] = session
            self._last = self._sessions[key]
            return self._last
