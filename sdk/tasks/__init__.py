"""What a person does with a model: callable objects with pre- and post-processing, made by edgekit.load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit import asking, guard, registry
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
    image_size: tuple[int, int] | None = None,
    check: guard.Check = "auto",
    options: Any = None,
) -> Any:
    """Load a bundle as its task: an object to call, with `.info()`.

    Args:
        source: a bundle's folder or .zip, or the name of one that ships ("sr-x2").
        runtime, device, precision, threads, isolate, check, options: as for `open_session`.
        image_size: (height, width) of the images that will come, where `edgekit tune` measured several sizes: "auto" goes
            by the nearest; by the one that was measured last where this is left out.

    Raises:
        BundleError, NotInstalled, DeviceUnavailable, EngineError, InputError.
    """
    asking.require_source(source)
    asking.require_engine(runtime, device, precision, threads)
    asking.require_switches(isolate=isolate, check=check)
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    if bundle.manifest.task is None:
        raise BundleError(f"{bundle.name} states no task: open it with edgekit.open_session('{bundle.name}')")
    task = registry.find("tasks", bundle.manifest.task.name)
    request = {"device": device, "precision": precision, "threads": threads, "isolate": isolate, "check": check}
    request |= {} if options is None else {"options": options}  # other packages' tasks may be older

    def made() -> Any:
        return task(bundle, runtime, **request, image_size=image_size)

    return guard.passing_on(made, strict="auto" not in (runtime, precision))
