"""What runs in an engine's own environment: shipped bundles on a device beside the processor, and what is refused.

    python guest.py rows
    python guest.py agree DEVICE PRECISION
    python guest.py refuse DEVICE PRECISION
    python guest.py keep DEVICE PRECISION FOLDER

Prints lines of JSON. It uses what a device has: the package, one engine and NumPy.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit import open_session
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.session import Session
from edgekit.tensors import Array

BUNDLES = ("sr-x2", "cifar-cnn", "digits-gan", "style-wave", "digits-vae")
SIDE = 64  # of pictures of any size: enough for every operator, and soon computed in software
HALF = OnnxRuntimeOptions(inference_precision="f16")
WRONG_BACKEND = OnnxRuntimeOptions(provider_options={"backend_type": "", "backend_path": "libQnnOfNoMachine.so"})


def components() -> Iterator[tuple[Bundle, str]]:
    for name in BUNDLES:
        bundle = Bundle.open(name)
        yield from ((bundle, component) for component in bundle.manifest.components)


def opened(bundle: Bundle, component: str, device: str, precision: str, **more: Any) -> Session:
    free = {d for spec in bundle.component(component).inputs for d in spec.shape if isinstance(d, str)}
    sizes = dict.fromkeys(free, SIDE)
    return open_session(
        bundle, "onnxruntime", device=device, precision=precision, component=component, sizes=sizes, **more
    )


def feeds(bundle: Bundle, component: str) -> dict[str, Array]:
    """The golden inputs, cut or repeated to the sizes."""
    golden, found = bundle.golden(component), {}
    for spec in bundle.component(component).inputs:
        shape = [SIDE if isinstance(dim, str) else dim for dim in spec.shape]
        array = golden[spec.name]
        room = [(0, max(0, wanted - there)) for wanted, there in zip(shape, array.shape, strict=True)]
        found[spec.name] = np.ascontiguousarray(np.pad(array, room, mode="wrap")[tuple(map(slice, shape))])
    return found


def snr_db(truth: Array, found: Array) -> float:
    """Signal to noise in decibels, at most 200."""
    noise = float(np.mean((truth.astype(np.float64) - found) ** 2))
    return min(200.0, 10 * float(np.log10(np.mean(truth.astype(np.float64) ** 2) / max(noise, 1e-30))))


def agreement(bundle: Bundle, component: str, device: str, precision: str) -> dict[str, Any]:
    """One component on the device and on the processor, in one precision; the device's own halves of fp32 included."""
    inputs = feeds(bundle, component)
    options = HALF if (device, precision) == ("npu", "fp32") else None
    with opened(bundle, component, device, precision, options=options) as session:
        found, placement = session.run(inputs), session.placement()
        same = session.run(inputs)
    with opened(bundle, component, "cpu", precision) as session:
        truth = session.run(inputs)
    with opened(bundle, component, "cpu", "fp32") as session:
        exact = session.run(inputs)
    return {
        "bundle": bundle.name,
        "component": component,
        "placement": dataclasses.asdict(placement),
        "snr_db": {name: snr_db(truth[name], found[name]) for name in truth},
        "to_fp32_db": {name: [snr_db(exact[name], found[name]), snr_db(exact[name], truth[name])] for name in truth},
        "max_error": {name: float(np.abs(truth[name] - found[name]).max()) for name in truth},
        "span": {name: float(np.ptp(truth[name])) for name in truth},
        "repeats": all(np.array_equal(found[name], same[name]) for name in found),
    }


def refusals(device: str, precision: str) -> Iterator[dict[str, str]]:
    """What is said where a component cannot be had so, and to a backend that is not there."""
    for bundle, component in components():
        yield {"bundle": bundle.name, "component": component} | _said(bundle, component, device, precision, None)
    first = Bundle.open("cifar-cnn")
    yield {"bundle": "wrong backend"} | _said(first, "model", device, "int8", WRONG_BACKEND)
    nowhere = OnnxRuntimeOptions(context="/dev/null/folder")
    yield {"bundle": "no folder"} | _said(first, "model", device, "int8", nowhere)
    yield {"bundle": "no sizes"} | _tell(lambda: open_session("sr-x2", "onnxruntime", device=device, precision="int8"))
    yield {"bundle": "second"} | _tell(lambda: open_session(first, "onnxruntime", device=f"{device}:1"))


def _said(bundle: Bundle, component: str, device: str, precision: str, options: Any) -> dict[str, str]:
    return _tell(lambda: opened(bundle, component, device, precision, options=options))


def _tell(opening: Any) -> dict[str, str]:
    try:
        with opening():
            return {"error": "", "said": ""}
    except EdgekitError as error:
        return {"error": type(error).__name__, "said": str(error)}


def kept(device: str, precision: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Compiled ahead of time, then loaded from what was written, then from what was cut short: the same bits."""
    options = OnnxRuntimeOptions(context=folder)
    for bundle, component in components():
        inputs, answers, written = feeds(bundle, component), [], []
        with opened(bundle, component, device, precision) as session:
            answers.append(session.run(inputs))
        for _ in range(2):
            with opened(bundle, component, device, precision, options=options) as session:
                answers.append(session.run(inputs))
                placement = session.placement()
            written.append({path.name: path.stat().st_mtime_ns for path in folder.iterdir()})
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes()[:1000])
        with opened(bundle, component, device, precision, options=options) as session:
            answers.append(session.run(inputs))
        alike = [all(np.array_equal(answers[0][name], other[name]) for name in other) for other in answers[1:]]
        facts = {"same": all(alike), "written_once": written[0] == written[1], "files": len(written[1])}
        yield {"bundle": bundle.name, "component": component, "placement": dataclasses.asdict(placement)} | facts


def main(verb: str, *words: str) -> None:
    if verb == "rows":
        found: Iterator[Any] = (dataclasses.asdict(row) for row in edgekit.devices())
    elif verb == "agree":
        found = (agreement(bundle, component, *words) for bundle, component in components())
    elif verb == "refuse":
        found = refusals(*words)
    else:
        found = kept(words[0], words[1], Path(words[2]))
    for row in found:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
