"""Agreement: how alike the engines answer in one precision, and where two of them part when they do not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.exporters.sizing import fitted
from edgekit.manifest import Agreement, Component, Precision, Variant
from edgekit.opening import open_session
from edgekit.opening import runtime as find_runtime
from edgekit.quantization.parting import Files, parting
from edgekit.stated import readable
from edgekit.tensors import Array
from edgekit.verify import EQUAL_DB, answers, compare

ALIKE_DB = 40.0  # from here on nothing needs a reason
ORDER = ("onnxruntime", "openvino", "litert")  # those that run files made of the graph; PyTorch runs the graph itself
WHY = {
    "int8-dynamic": "each engine takes the range of an activation from values of its own, and rounds by that range",
    "fp16": "the engines keep sums in half precision, or in single, each as its kernels do",
}
OTHERWISE = "float operators are computed in another order"


def agreements(
    bundle: Bundle, component: str, precision: Precision, inputs: Sequence[tuple[Array, ...]]
) -> tuple[Agreement, ...]:
    """The installed engines that read files of this precision, in pairs; `note` says why where it is below 40 dB. An
    engine that refuses a file that another runs is at −999 dB from it. On a processor without VNNI nothing is said of
    OpenVINO in int8, as it computes in float there.

    Args:
        inputs: of the component, in its layout; cut or repeated to the smallest sizes that there are files for.
    """
    described = bundle.component(component)
    found = {engine: files[0] for engine in ORDER if (files := _files(engine, described, precision))}
    if len(found) < 2:
        return ()
    sizes = min((v.sizes for v in found.values()), key=lambda s: (not s, int(np.prod(list(s.values()) or [0]))))
    specs = [spec.bound(sizes) for spec in described.inputs]
    fed = [tuple(fitted(a, s.shape) for a, s in zip(arrays, specs, strict=True)) for arrays in inputs]
    results: dict[str, list[list[Array]]] = {}
    refused: dict[str, str] = {}
    for engine, variant in found.items():
        try:
            results[engine] = _answers(bundle, component, engine, variant, fed)
        except EdgekitError as error:
            refused[engine] = f"{engine} does not run it: {error}"
    pairs = []
    for first, second in itertools.combinations(found, 2):
        if why := refused.get(first) or refused.get(second):
            pairs.append(Agreement(precision, (first, second), -EQUAL_DB, why))
            continue
        snr_db = min(compare(b, a)[1] for a, b in zip(results[first], results[second], strict=True))
        note = ""
        if snr_db < ALIKE_DB:
            held: Files = {e: (bundle.model_path(found[e]), found[e].format) for e in (first, second)}
            note = (parting(held, described, fed) if precision == "int8" else "") or WHY.get(precision, OTHERWISE)
        pairs.append(Agreement(precision, (first, second), round(snr_db, 2), note))
    return tuple(pairs)


def _files(engine: str, component: Component, precision: str) -> list[Variant]:
    """What an installed engine reads, the smallest sizes first."""
    if engine not in registry.names("runtimes") or not find_runtime(engine).installed():
        return []
    if find_runtime(engine).computes(precision) != precision:
        return []
    found = readable(engine, precision, component.variants)
    return sorted(found, key=lambda v: int(np.prod(list(v.sizes.values()) or [0])))


def _answers(
    bundle: Bundle, component: str, engine: str, variant: Variant, inputs: Sequence[tuple[Array, ...]]
) -> list[list[Array]]:
    described = bundle.component(component)
    sizes: Mapping[str, int] | None = variant.sizes or None
    with open_session(
        bundle, engine, precision=variant.precision, component=component, sizes=sizes, check=False
    ) as session:
        return [answers(session, arrays, described.inputs, described.outputs) for arrays in inputs]
