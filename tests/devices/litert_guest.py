"""What runs on LiteRT in an environment of its own: shipped bundles on a GPU, and every .tflite file that ships.

    python litert_guest.py gpu
    python litert_guest.py files FOLDER

Prints lines of JSON; `files` writes the outputs of each file to FOLDER.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import open_session
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable
from edgekit.runtimes.litert import LiteRtOptions
from edgekit.session import Session
from edgekit.tensors import Array

BUNDLES = ("cifar-cnn", "digits-vae", "digits-gan", "sr-x2", "style-wave")


def feeds(session: Session) -> dict[str, Array]:
    """The same numbers everywhere: floats between 0 and 1, integers 0."""
    random = np.random.default_rng(0)
    found = {}
    for spec in session.inputs:
        numbers = random.random([int(size) for size in spec.shape], np.float32)
        found[spec.name] = numbers if spec.dtype == "float32" else np.zeros(numbers.shape, spec.dtype)
    return found


def smallest(bundle: Bundle, component: str) -> Path:
    """The int8 .tflite file of the fewest pixels."""
    variants = [v for v in bundle.component(component).variants if (v.format, v.precision) == ("tflite", "int8")]
    return bundle.model_path(min(variants, key=lambda v: int(np.prod(list(v.sizes.values())))))


def on_gpu() -> Iterator[dict[str, Any]]:
    """Each component, whole where it fits, else what was said and in part."""
    for name in BUNDLES:
        bundle = Bundle.open(name)
        for component in bundle.manifest.components:
            path, said = smallest(bundle, component), ""
            try:
                session = open_session(path, "litert", device="gpu", floats=True)
            except DeviceUnavailable as error:
                said = str(error)
                session = open_session(path, "litert", device="gpu", floats=True, options=LiteRtOptions(partial=True))
            with session, open_session(path, "litert", floats=True) as cpu:
                arrays = feeds(session)
                found, truth = session.run(arrays), cpu.run(arrays)
                placement = dataclasses.asdict(session.placement())
            worst = max(float(np.abs(found[key] - truth[key]).max() / np.ptp(truth[key])) for key in truth)
            yield {"bundle": name, "component": component, "said": said, "placement": placement, "error": worst}


def every_file(folder: Path) -> Iterator[dict[str, Any]]:
    """Every .tflite file that ships, opened as a file that nobody knows."""
    zoo = Path(Bundle.open("sr-x2").folder).parent
    for path in sorted(zoo.glob("*/*.tflite")):
        with open_session(path, "litert", floats=True, threads=2) as session:
            outputs = session.run(feeds(session))
            placement = session.placement()
        kept = f"{path.parent.name}-{path.stem}.npz"
        np.savez(folder / kept, **{f"o{place}": output for place, output in enumerate(outputs.values())})
        yield {"file": kept, "version": placement.version, "precision": placement.precision}


if __name__ == "__main__":
    for row in on_gpu() if sys.argv[1] == "gpu" else every_file(Path(sys.argv[2])):
        print(json.dumps(row), flush=True)
