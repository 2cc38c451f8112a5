"""torch → ONNX, OpenVINO, TFLite: `export` writes a bundle whose every file was run and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from edgekit import bundle as bundles
from edgekit import manifest as manifests
from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError, ExportError, InputError
from edgekit.exporters import parity
from edgekit.exporters.graphs import Exporter, Graph
from edgekit.exporters.sources import Source, from_module
from edgekit.manifest import Component, Golden, Manifest, Task, Variant
from edgekit.tensors import Array

FORMATS = ("onnx", "openvino", "tflite")
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "litert-torch", "ai-edge-litert", "torchao")


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle says of itself, and how it is made.

    `buckets` are the sizes of the free dimensions, one .tflite file for each; `tolerance` is the largest
    absolute error from PyTorch that an fp32 file may have; `progress` is told each step.
    """

    formats: Sequence[str] = FORMATS
    buckets: Sequence[Mapping[str, int]] = ()
    tolerance: float = 1e-4
    task: Task | None = None
    summary: str = ""
    licence: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda step: None


def export(
    source: Source | nn.Module | Mapping[str, Source],
    out: str | Path,
    example_inputs: Sequence[Array] = (),
    *,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
    options: ExportOptions = ExportOptions(),
) -> Bundle:
    """Export a PyTorch module to a bundle at the folder `out`, each file run in its engine and compared.

    Args:
        source: a module, a Source that describes one more closely, or several of these by component
            ({"encoder": …, "decoder": …}).
        out: the folder, named as the bundle; what lies there is replaced in one step when all is done.
        example_inputs: arrays in the order of `forward`, for a module.
        dynamic: free dimensions of a module's inputs, {"image": {2: "height", 3: "width"}}.

    Raises:
        ExportError: a format failed. The bundle with the other formats is written first, if there are any.
        InputError: the module does not run on the example inputs.
    """
    if isinstance(source, nn.Module):
        source = from_module(source, example_inputs, dynamic=dynamic)
    sources = {"model": source} if isinstance(source, Source) else dict(source)
    if not sources:
        raise InputError("got no component to export: expected a module, a Source, or several by name")
    out = Path(out).absolute()
    manifests.check_name(out.name)
    failures: list[ExportError] = []
    with bundles.staged(out) as stage:
        components = {
            name: _component(name, described, stage, options, failures) for name, described in sources.items()
        }
        if not all(any(v.format != "torch" for v in c.variants) for c in components.values()):
            raise failures[0] if len(failures) == 1 else ExportError("; ".join(map(str, failures)) or "no format named")
        manifest = Manifest(
            name=out.name,
            summary=options.summary,
            licence=options.licence,
            provenance={**options.provenance, "tools": tool_versions()},
            task=options.task,
            components=components,
        )
        _drop_unlisted(stage, manifest)
        bundles.write(stage, manifest)
    if failures:
        written = ", ".join(sorted({v.format for c in components.values() for v in c.variants}))
        message = f"{'; '.join(map(str, failures))} (written to '{out}': {written})"
        raise type(failures[0])(message) from failures[0]
    return Bundle.open(out)


def _component(
    name: str, source: Source, stage: Path, options: ExportOptions, failures: list[ExportError]
) -> Component:
    """Convert one component to every format; what fails goes to `failures`."""
    variants: list[Variant] = []
    graph = Graph(source.module, source, component=name)
    for format in options.formats:
        try:
            variants += convert(graph, format, stage, options)
        except ExportError as error:
            failures.append(error)
        except EdgekitError as error:  # a missing converter, or an engine that refuses the file
            failures.append(ExportError(f"{format}: {error}"))
    return Component(
        inputs=source.inputs,
        outputs=source.outputs,
        variants=(*variants, *_weights(name, source, stage)),
        golden=_golden(name, source, smallest(source, options.buckets), stage),
        family=source.family,
        settings=dict(source.settings),
    )


def convert(graph: Graph, name: str, stage: Path, options: ExportOptions) -> list[Variant]:
    """Convert a graph to one format, at every bucket where that needs sizes; each file is compared."""
    exporter = registry.find("exporters", name)()
    assert isinstance(exporter, Exporter)
    free = any(isinstance(d, str) for s in graph.inputs for d in s.shape)
    buckets = list(options.buckets) if exporter.fixed and free else [{}]
    if not buckets:
        raise ExportError(f"{name}: its files need fixed sizes and none are given: name some (--bucket)")
    variants = []
    for sizes in buckets:
        stem = "-".join([graph.component, graph.precision, *("x".join(str(n) for n in sizes.values()),)]).rstrip("-")
        part = "" if graph.component == "model" else f"{graph.component} "
        options.progress(f"{part}{name} {graph.precision} {'×'.join(str(n) for n in sizes.values())}".strip())
        written = exporter.convert(graph, sizes, stage, stem)
        variant = Variant(
            format=exporter.format,  # type: ignore[arg-type]  # checked on decoding
            precision=graph.precision,
            files=tuple(bundles.file_entry(stage, f) for f in written.files),
            inputs=written.inputs if written.inputs != graph.inputs else (),
            outputs=written.outputs if written.outputs != graph.outputs else (),
            sizes=dict(sizes),
        )
        variants.append(compared(variant, graph, stage, options))
    return variants


def smallest(source: Source, buckets: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sizes that golden values are made at: the smallest bucket, so that every format can run them."""
    if buckets:
        return min((dict(b) for b in buckets), key=lambda sizes: int(np.prod(list(sizes.values()))))
    return {d: 64 for s in source.inputs for d in s.shape if isinstance(d, str)}


def tool_versions() -> dict[str, str]:
    """Versions of what takes part in an export."""
    found = {}
    for name in TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def compared(variant: Variant, graph: Graph, stage: Path, options: ExportOptions) -> Variant:
    """The variant with its parity: its file in `stage` runs in its engine, beside PyTorch in fp32.

    Raises:
        ParityError: beyond the tolerance in fp32, or far off in int8.
    """
    source = graph.source
    probes = source.fitted_probes(variant.sizes)
    expected = [source.run(p) for p in probes]
    described = msgspec.structs.replace(
        variant, inputs=variant.inputs or source.inputs, outputs=variant.outputs or source.outputs
    )
    measured, errors = parity.measure_parity(
        stage / variant.path, described, source.inputs, source.outputs, probes, expected
    )
    what = f"{variant} of component '{graph.component}'"
    if graph.precision == "fp32":
        parity.require(measured, errors, options.tolerance, what)
    else:
        parity.require_some(measured, what)
    return msgspec.structs.replace(variant, parity=measured)


def _weights(name: str, source: Source, stage: Path) -> list[Variant]:
    """The network's weights for PyTorch, where a reader can rebuild the network by its family."""
    if source.family is None:
        return []
    from safetensors.torch import save_file

    state = {k: v.detach().contiguous() for k, v in source.module.state_dict().items()}
    if all(v.dtype == torch.float32 and torch.equal(v.half().float(), v) for v in state.values()):
        state = {k: v.half() for k, v in state.items()}  # nothing is lost, and half the bytes are saved
    path = f"{name}.safetensors"
    save_file(state, stage / path)
    (stage / path).chmod(0o644)  # safetensors writes for its owner alone
    return [Variant(format="torch", precision="fp32", files=(bundles.file_entry(stage, path),))]


def _drop_unlisted(stage: Path, manifest: Manifest) -> None:
    """Remove what a failed conversion left behind."""
    listed = {entry.path for entry in manifest.file_entries()}
    for path in stage.rglob("*"):
        if path.is_file() and path.relative_to(stage).as_posix() not in listed:
            path.unlink()


def _golden(name: str, source: Source, sizes: Mapping[str, int], stage: Path) -> tuple[Golden, ...]:
    """Golden inputs are rounded to float16 before they are run, and stored so: half the bytes of a picture."""
    (stage / "golden").mkdir(exist_ok=True)
    halves = [_half(array) for array in source.fitted_probes(sizes)[0]]
    values = [(spec.name, half) for spec, half in zip(source.inputs, halves, strict=True)]
    arrays = tuple(half.astype(spec.dtype) for spec, half in zip(source.inputs, halves, strict=True))
    outputs = zip(source.outputs, source.run(arrays), strict=True)
    values += [(spec.name, bundles.golden_sample(output)) for spec, output in outputs]
    golden = []
    for tensor, array in values:
        path = f"golden/{name}-{tensor}.npy"
        np.save(stage / path, array)
        golden.append(Golden(tensor, bundles.file_entry(stage, path)))
    return tuple(golden)


def _half(array: Array) -> Array:
    """float32 as float16, unless a value is too large for it."""
    if array.dtype != np.float32 or np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
        return array
    return array.astype(np.float16)


__all__ = ["ExportOptions", "FORMATS", "Source", "export", "from_module"]
