"""What runs on the emulated board, and on this machine for comparison: every shipped bundle on one engine.

    python guest.py ENGINE OUT [BUNDLE …]

Writes OUT/BUNDLE-COMPONENT-PRECISION.npz with the outputs, and prints one line of JSON for each. It uses what a device
has: the package, one engine and NumPy. Around the runs that are counted it calls close(-4242), which Linux refuses and
`count.c` takes for a mark.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from edgekit import open_session
from edgekit.bundle import Bundle, shipped
from edgekit.manifest import Variant
from edgekit.stated import readable
from edgekit.tensors import Array, TensorSpec
from edgekit.verify import answers, golden_sizes

MARK = -4242
COUNTED = 3  # runs of each file: now and then another thread of the process gets in between, so the least is taken


def variants(bundle: Bundle, component: str, engine: str) -> Iterator[Variant]:
    """One file of each precision that the engine reads: the smallest, where files have sizes."""
    described = bundle.component(component)
    for precision in dict.fromkeys(variant.precision for variant in described.variants):
        found = readable(engine, precision, described.variants)
        if found:
            yield min(found, key=lambda variant: _pixels(variant.sizes))


def sizes(bundle: Bundle, component: str) -> dict[str, int]:
    """The free dimensions for every engine alike: those of the smallest file that has them fixed, else the golden ones."""
    fixed = [variant.sizes for variant in bundle.component(component).variants if variant.sizes]
    return dict(min(fixed, key=_pixels)) if fixed else golden_sizes(bundle, component)


def fitting(array: Array, spec: TensorSpec, free: Mapping[str, int]) -> Array:
    """The golden array, repeated and cut to these sizes."""
    shape = [free[dim] if isinstance(dim, str) else dim for dim in spec.shape]
    repeats = [(0, max(0, wanted - there)) for wanted, there in zip(shape, array.shape, strict=True)]
    return np.ascontiguousarray(np.pad(array, repeats, mode="wrap")[tuple(slice(side) for side in shape)])


def run(bundle: Bundle, component: str, engine: str, variant: Variant) -> dict[str, Array]:
    """The outputs of the last of some runs, with a mark before and after each but the first."""
    described, free = bundle.component(component), dict(variant.sizes) or sizes(bundle, component)
    golden = bundle.golden(component)
    inputs = [fitting(golden[spec.name], spec, free) for spec in described.inputs]
    fixed = variant.sizes or None
    options = {"device": "cpu", "precision": variant.precision, "component": component, "sizes": fixed}
    with open_session(bundle, engine, threads=1, check=False, **options) as session:
        answers(session, inputs, described.inputs, described.outputs)
        for _ in range(COUNTED):
            mark()
            outputs = answers(session, inputs, described.inputs, described.outputs)
            mark()
    return {spec.name: output for spec, output in zip(described.outputs, outputs, strict=True)}


def digest(variant: Variant) -> str:
    """What tells this file, or these, from others."""
    return hashlib.sha256("".join(file.sha256 for file in variant.files).encode()).hexdigest()[:16]


def mark() -> None:
    """Tell the counting plugin, if there is one."""
    with contextlib.suppress(OSError):
        os.close(MARK)


def main(engine: str, out: Path, names: list[str]) -> None:
    gc.disable()  # or the collector's instructions are counted with the run in which it happens to set in
    for name in names or shipped():
        bundle = Bundle.open(name)
        for component in bundle.manifest.components:
            for variant in variants(bundle, component, engine):
                key = f"{name}-{component}-{variant.precision}"
                np.savez(out / f"{key}.npz", **run(bundle, component, engine, variant))
                about = {"bundle": name, "component": component, "engine": engine, "precision": variant.precision}
                print(json.dumps({"key": key, **about, "files": digest(variant)}), flush=True)


def _pixels(sizes: Mapping[str, int]) -> int:
    return int(np.prod(list(sizes.values()), dtype=np.int64))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
