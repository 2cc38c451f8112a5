"""Diagnosis: an error of a converter, or of a comparison, as one paragraph that a person can act on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from torch import nn

from edgekit import registry
from edgekit.errors import EdgekitError, ExportError, ParityError
from edgekit.exporters.formats.worker import WorkerDied
from edgekit.exporters.graphs import Exporter, Graph, Refused, Written
from edgekit.exporters.proof import parity
from edgekit.exporters.proof.bisection import Bisection, Trial
from edgekit.exporters.proof.places import Place, inner_path, line_of, place_of, unwrapped, wrapping
from edgekit.exporters.proof.remedies import PARITY, remedy
from edgekit.exporters.sources import Source
from edgekit.manifest import Variant
from edgekit.session import Model
from edgekit.tensors import Array
from edgekit.verify import differ

SECONDS = 60.0  # the most that a search takes
FIXED = "; with every size fixed it converts, so a free dimension is the cause"


def converted(exporter: Exporter, graph: Graph, sizes: Mapping[str, int], folder: Path, stem: str) -> Written:
    """What the exporter writes.

    Raises:
        ExportError: it refused, or crashed: names the format, the component, the operator or module and its source
            line, and what usually helps. NotInstalled.
    """
    try:
        return exporter.convert(graph, sizes, folder, stem)
    except (Refused, WorkerDied) as error:
        raise explained(error, exporter, graph, sizes) from error


def explained(
    error: ExportError, exporter: Exporter, graph: Graph, sizes: Mapping[str, int], seconds: float = SECONDS
) -> ExportError:
    """The answer to a refusal; where the converter's own words name no place, the module tree is searched for it."""
    place = error.place if isinstance(error, Refused) else Place()
    what = _what(exporter.format, graph)
    if earlier := _earlier(graph, exporter.format, f"{place} {error}"):
        return ExportError(f"{what} does not convert, for the same reason as {earlier}")
    told = ""
    if not place.kind and not place.source and not (isinstance(error, WorkerDied) and error.slow):
        try:
            graph.progress(f"{exporter.format}: looking for what it refuses …")
            told, found = _search_refusal(exporter, graph, sizes, seconds)
            place = msgspec.structs.replace(found, operator=found.operator or place.operator)
        except Exception:  # a search that fails leaves the converter's own words
            told = ""
    helps = remedy(place.operator, place.kind, str(error)) or (remedy("dynamic shape") if told == FIXED else "")
    at = f" (at {place})" if place else ""
    return ExportError(
        f"{what} does not convert{at}: {str(error).rstrip('.')}{told}"
        f"{f'. What usually helps: {helps}' if helps else ''}"
    )


def _search_refusal(exporter: Exporter, graph: Graph, sizes: Mapping[str, int], seconds: float) -> tuple[str, Place]:
    """What a search for a refusal found: a remark, and the place."""
    deadline = time.monotonic() + seconds
    whole = _fixed(graph.source, graph.module, graph.example(sizes))
    trial = _refuses(exporter, graph, deadline)
    if not exporter.fixed and _free(graph.source) and not trial(whole):
        return FIXED, Place()
    return "", _found(graph, whole.probes[0], trial, deadline)


def departed(
    error: ParityError, variant: Variant, graph: Graph, tolerance: float, seconds: float = SECONDS
) -> ParityError:
    """The answer to a file that computes something else: the first module whose output departs, and why."""
    if graph.precision != "fp32":
        return error
    graph.progress(f"{variant}: looking for the module that departs …")
    try:
        cause, place = _search_departure(variant, graph, tolerance, seconds)
    except Exception:  # a search that fails leaves what was measured
        cause, place = "", Place()
    if cause and (earlier := _earlier(graph, str(variant), cause)):
        return ParityError(f"{error}, for the same reason as {earlier}")
    helps = remedy(place.operator, place.kind)
    message = f"{error}. {cause}" if cause else f"{error}"
    return ParityError(f"{message}. What usually helps: {helps}" if helps else f"{message}; {PARITY}")


def _earlier(graph: Graph, format: str, reason: str) -> str:
    """The format that failed for the same reason before, if there is one; remembers this one."""
    first: str = graph.memo.setdefault(f"failed {reason}", format)
    return "" if first == format else first


def _search_departure(variant: Variant, graph: Graph, tolerance: float, seconds: float) -> tuple[str, Place]:
    """In which step it departs, and where: PyTorch itself, torch.export, or the converter and its engine."""
    deadline = time.monotonic() + seconds
    probe = graph.example(variant.sizes)
    whole = _fixed(graph.source, graph.module, probe)
    exporter = registry.find("exporters", variant.format)()
    steps: Sequence[tuple[str, Trial]] = (
        ("PyTorch itself answers differently from call to call", _restless),
        ("it is torch.export that departs, before any converter", lambda s: _untrue(s, tolerance)),
        (f"the {variant.format} file of this part alone departs", _departs(exporter, graph, tolerance, deadline)),
    )
    for cause, trial in steps:
        if trial(whole):
            place = _found(graph, probe, trial, deadline)
            return f"First at {place or type(unwrapped(graph.module)).__name__}: {cause}", place
    return "", Place()


def _found(graph: Graph, probe: Sequence[Array], trial: Trial, deadline: float) -> Place:
    """The smallest module that fails a trial alone, and the first operator in it up to which it does."""
    search = Bisection(graph.module, probe, trial, deadline - time.monotonic())
    part = search.module_at_fault()
    path, module = inner_path(part.path, len(wrapping(graph.module)) - 1), unwrapped(part.module)
    place = Place("", path, type(module).__name__, line_of(module))
    try:
        node = search.node_at_fault(part) if search.left_s > 0 else None
    except Exception:  # torch.export cannot follow this part: the module is what can be named
        node = None
    return place if node is None else _joined(place, place_of(node))


def _joined(place: Place, node: Place) -> Place:
    """A node's place within a part, as a place in the network."""
    path = ".".join(name for name in (place.module, node.module) if name)
    kind = node.kind if node.module else place.kind
    return Place(node.operator, path, kind, node.source or place.source)


def _refuses(exporter: Exporter, graph: Graph, deadline: float) -> Trial:
    def trial(source: Source) -> bool:
        with tempfile.TemporaryDirectory(prefix="edgekit-diagnosis-") as folder:
            try:
                exporter.convert(_part(source, graph, deadline), {}, Path(folder), "part")
            except ExportError:
                return True
        return False

    return trial


def _departs(exporter: Exporter, graph: Graph, tolerance: float, deadline: float) -> Trial:
    def trial(source: Source) -> bool:
        with tempfile.TemporaryDirectory(prefix="edgekit-diagnosis-") as folder:
            try:
                written = exporter.convert(_part(source, graph, deadline), {}, Path(folder), "part")
                model = Model(Path(folder, written.files[0]), exporter.format, "fp32", written.inputs, written.outputs)
                found = parity.run_file(model, source.inputs, source.outputs, source.probes)[0]
            except EdgekitError:  # a part that does not convert or open tells nothing of what departs
                return False
        return _beyond(found, source.answers({})[0], tolerance)

    return trial


def _untrue(source: Source, tolerance: float) -> bool:
    """Whether torch.export's graph answers otherwise than the module."""
    arrays = source.probes[0]
    program = torch.export.export(source.module, tuple(torch.from_numpy(a.copy()) for a in arrays))
    traced = replace(source, module=_Called(program.module()), memo={})
    return _beyond(traced.run(arrays), source.answers({})[0], tolerance)


def _restless(source: Source) -> bool:
    """Whether two runs on the same inputs differ."""
    return _beyond(source.run(source.probes[0]), source.run(source.probes[0]), 0.0)


def _beyond(outputs: Sequence[Array], truth: Sequence[Array], tolerance: float) -> bool:
    return not all(differ(o, t).within(tolerance) for o, t in zip(outputs, truth, strict=True))


class _Called(nn.Module):
    """An exported graph, which refuses eval(), behind a module that does not."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.call = [graph]

    def forward(self, *tensors: torch.Tensor) -> object:
        return self.call[0](*tensors)


def _part(source: Source, graph: Graph, deadline: float) -> Graph:
    left_s = max(1.0, min(graph.timeout_s, deadline - time.monotonic()))
    return Graph(source.module, source, graph.precision, graph.component, timeout_s=left_s)


def _fixed(source: Source, module: nn.Module, arrays: tuple[Array, ...]) -> Source:
    """The source with the sizes of these arrays."""
    sizes = {
        d: n
        for spec, array in zip(source.inputs, arrays, strict=True)
        for d, n in zip(spec.shape, array.shape, strict=True)
        if isinstance(d, str)
    }
    inputs, outputs = (tuple(s.bound(sizes) for s in specs) for specs in (source.inputs, source.outputs))
    return Source(module, inputs, outputs, (arrays,))


def _free(source: Source) -> bool:
    return any(isinstance(d, str) for spec in source.inputs for d in spec.shape)


def _what(format: str, graph: Graph) -> str:
    kind = type(unwrapped(graph.source.module)).__name__
    component = f" (component '{graph.component}')" if graph.component != "model" else ""
    precision = f" {graph.precision}" if graph.precision != "fp32" else ""
    return f"{format}{precision}: {kind}{component}"
