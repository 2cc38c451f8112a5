"""Task: what the tasks share, from a bundle's settings to the sessions that run it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from edgekit import choice
from edgekit.bundle import Bundle
from edgekit.errors import InputError, ManifestError, SessionClosed
from edgekit.images import UInt8
from edgekit.session import Closing, Placement, Session, open_session
from edgekit.tensors import Array


class Task(Closing):
    """A bundle opened on one engine, device and precision; a context manager that closes.

    A task names itself, states its `Settings` (decoded from the manifest, unknown keys refused), and
    calls `_session` for a session of the sizes that it needs. Thread-safe.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Any]]

    def __init__(
        self,
        bundle: Bundle,
        runtime: str = "auto",
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        assert bundle.manifest.task is not None
        try:
            self.settings = msgspec.convert(bundle.manifest.task.settings, self.Settings)
        except msgspec.ValidationError as error:
            raise ManifestError(f"{bundle.name}: the settings of task '{self.name}' are wrong: {error}") from error
        self.bundle = bundle
        self._device = device
        self._picked = choice.pick(bundle, "model", runtime, device, precision, {}, threads)
        self._sessions: dict[tuple[tuple[str, int], ...], Session] = {}
        self._last: Session | None = None
        self._closed = False
        self._lock = threading.Lock()

    def info(self) -> dict[str, Any]:
        """Name, task, settings, and what runs where and why."""
        return {
            "name": self.bundle.name,
            "task": self.name,
            **msgspec.to_builtins(self.settings),
            "why": self._picked.why,
            "placement": msgspec.to_builtins(self.placement()),
        }

    def placement(self) -> Placement:
        """Where the model ran last, read from the engine."""
        session = self._last
        assert session is not None  # every task opens one when it is made
        return session.placement()

    def example(self, image: UInt8) -> tuple[Session, dict[str, Array]]:
        """The session and the tensors that it gets for an image, or for one tile of it: what a benchmark times."""
        raise InputError(f"task '{self.name}' takes no image")

    def close(self) -> None:
        """Free the engine's memory."""
        with self._lock:
            self._closed = True
            for session in self._sessions.values():
                session.close()

    def _session(self, sizes: Mapping[str, int] | None = None) -> Session:
        """The session for these sizes of the free dimensions, opened on first use."""
        key = tuple(sorted((sizes or {}).items()))
        with self._lock:
            if self._closed:
                raise SessionClosed(f"{self.bundle.name} was closed: load it again with edgekit.load(…)")
            if key not in self._sessions:
                session = open_session(
                    self.bundle,
                    self._picked.runtime,
                    device=self._device,
                    precision=self._picked.variant.precision,
                    threads=self._picked.threads,
                    sizes=sizes,
                )
                session.why = self._picked.why
                self._sessions[key] = session
            self._last = self._sessions[key]
            return self._last
