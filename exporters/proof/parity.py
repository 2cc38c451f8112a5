"""Parity: does an exported file compute, in its engine, what PyTorch computes?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from edgekit.errors import EdgekitError, ParityError
from edgekit.exporters import shelf
from edgekit.exporters.graphs import Graph
from edgekit.manifest import Parity, Variant
from edgekit.opening import runtime
from edgekit.session import Model
from edgekit.tensors import Array, TensorSpec
from edgekit.verify import DIFFERING, Difference, answers, differ, worst

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "tflite": "litert", "torch": "torch"}
INT8_FLOOR_DB = 6.0


def measure_parity(
    path: Path,
    variant: Variant,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    probes: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
) -> tuple[Parity, dict[str, Difference]]:
    """Open the file in its engine, run every probe, compare with PyTorch's outputs; also by output."""
    model = Model(path, variant.format, variant.precision, variant.inputs, variant.outputs)
    results = run_file(model, inputs, outputs, probes)
    by_output = {
        spec.name: worst([differ(r[i], t[i]) for r, t in zip(results, expected, strict=True)])
        for i, spec in enumerate(outputs)
    }
    return _summary(by_output, len(probes)), by_output


def run_file(
    model: Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], probes: Sequence[Sequence[Array]]
) -> list[list[Array]]:
    """What a file answers, in the component's layout, in the engine of its format."""
    engine = runtime(ENGINES[model.format])
    with engine.open(model, "cpu", None, engine.options()) as session:
        return [answers(session, probe, inputs, outputs) for probe in probes]


def compared(variant: Variant, graph: Graph, stage: Path, tolerance: float) -> Variant:
    """The variant with its parity: its file in `stage` runs in its engine, beside PyTorch in fp32.

    Raises:
        ParityError: beyond the tolerance in fp32, or far off in int8; names the output that departs and, where it
            can be found, the module. EngineError: the engine refuses the file.
    """
    from edgekit.exporters.proof import diagnosis

    source = graph.source
    specs = {"inputs": variant.inputs or source.inputs, "outputs": variant.outputs or source.outputs}
    described = msgspec.structs.replace(variant, **specs)
    probes, expected = source.fitted_probes(variant.sizes), source.answers(variant.sizes)
    shelf.rest(source.module)  # or the engine's copy of large weights would be in memory beside PyTorch's
    measured, by_output = measure_parity(
        stage / variant.path, described, source.inputs, source.outputs, probes, expected
    )
    if measured.note:
        graph.progress(f"{variant}: {measured.note} …")
    what = f"{variant} of component '{graph.component}'"
    try:
        _require(measured, by_output, graph, tolerance, what)
    except ParityError as error:
        raise diagnosis.departed(error, variant, graph, tolerance) from error
    if graph.untraced and not variant.sizes:
        _require_others(stage / variant.path, described, graph, tolerance)
    return msgspec.structs.replace(variant, parity=measured)


def _require_others(path: Path, variant: Variant, graph: Graph, tolerance: float) -> None:
    """Refuse a file of which free dimensions were traced as constants, unless it answers at other sizes as well.

    Raises:
        ParityError.
    """
    source, names = graph.source, ", ".join(sorted(graph.untraced))
    remedy = f"PyTorch traces {names} as a constant: fix it"
    if (found := source.at_others(graph.untraced)) is None:
        raise ParityError(f"{variant}: {names} could not be tried at other sizes; {remedy}")
    sizes, probe, truth = found
    told = f"{variant} of component '{graph.component}' with {', '.join(f'{n} {s}' for n, s in sizes.items())}"
    try:
        parity, by_output = measure_parity(path, variant, source.inputs, source.outputs, [probe], [truth])
        _require(parity, by_output, graph, tolerance, told)
    except ParityError as error:
        raise ParityError(f"{error}; {remedy}") from error
    except EdgekitError as error:  # of the engine
        raise ParityError(f"{told}: {error}; {remedy}") from error


def _require(parity: Parity, by_output: Mapping[str, Difference], graph: Graph, tolerance: float, what: str) -> None:
    """What is required of a file in its precision.

    Raises:
        ParityError.
    """
    if graph.precision == "fp32":
        require(parity, by_output, tolerance, what)
    else:
        require_some(parity, what)


def require(parity: Parity, by_output: Mapping[str, Difference], tolerance: float, what: str) -> None:
    """Refuse a file whose error is beyond the tolerance, naming the first output that departs.

    Raises:
        ParityError.
    """
    for name, difference in by_output.items():
        if not difference.within(tolerance):
            raise ParityError(f"{what} departs from PyTorch in '{name}': {_told(difference, tolerance, parity.inputs)}")


def require_some(parity: Parity, what: str) -> None:
    """Refuse an int8 file that has little to do with the network it is made from.

    Raises:
        ParityError.
    """
    if parity.snr_db < INT8_FLOOR_DB:
        raise ParityError(
            f"{what} departs from PyTorch in fp32: SNR {parity.snr_db:.0f} dB, below {INT8_FLOOR_DB:.0f}; "
            "calibrate on inputs like the real ones, or keep layers in float"
        )


def _told(difference: Difference, tolerance: float, inputs: int) -> str:
    if difference.integer:
        return f"{difference.note} over {inputs} inputs, allowed {DIFFERING:.0%}"
    note = f"; {difference.note}" if difference.note else ""
    return (
        f"largest error {difference.error:.2g} ({difference.relative:.2g} of the largest value) over {inputs} inputs "
        f"(SNR {difference.snr_db:.0f} dB), allowed {tolerance:.2g}{note}"
    )


def _summary(by_output: Mapping[str, Difference], inputs: int) -> Parity:
    overall = worst(list(by_output.values()))
    return Parity(
        max_error=overall.error,
        snr_db=round(overall.snr_db, 2),
        inputs=inputs,
        relative=overall.relative,
        note="; ".join(f"'{name}': {d.note}" for name, d in by_output.items() if d.note),
    )
