"""What a person does with a model: callable objects with pre- and post-processing, made by edgekit.load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import BundleError
from edgekit.isolation import Isolation


def load(
    source: str | Path | Bundle,
    runtime: str = "auto",
    *,
    device: str = "cpu",
    precision: str = "auto",
    threads: int | None = None,
    isolate: bool | Isolation = False,
) -> Any:
    """Load a bundle as its task: an object to call, with `.info()`.

    Args:
        source: a bundle's folder or .zip, or the name of one that ships ("sr-x2").
        runtime, device, precision, threads, isolate: as for `open_session`.

    Raises:
        BundleError, NotInstalled, DeviceUnavailable, EngineError, InputError.
    """
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    if bundle.manifest.task is None:
        raise BundleError(f"{bundle.name} states no task: open it with edgekit.open_session('{bundle.name}')")
    task = registry.find("tasks", bundle.manifest.task.name)
    return task(bundle, runtime, device=device, precision=precision, threads=threads, isolate=isolate)
