"""Writing a bundle: every component in every format, each file run in its engine, errors told once, all in one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit import bundle as bundles
from edgekit import manifest as manifests
from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.errors import DeviceUnavailable, EdgekitError, ExportError, InputError, NotInstalled
from edgekit.exporters.graphs import Exporter, Graph
from edgekit.exporters.proof import diagnosis, parity
from edgekit.exporters.readers.reading import Prepared
from edgekit.exporters.shelf import rest, shelved
from edgekit.exporters.sources import Source
from edgekit.manifest import Component, FileEntry, Golden, Manifest, Task, Variant
from edgekit.tasks import load
from edgekit.tensors import Array, Layout

FORMATS = ("onnx", "openvino", "tflite")
TOLERANCE = 1e-4
GOLDEN_SIDE = 128
ALIASES = {"text": "write"}  # what people call a task
TOOLS = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "litert-torch",
    "ai-edge-litert",
    "torchao",
    "transformers",
    "tokenizers",
    "diffusers",
)


@dataclass(frozen=True)
class ExportOptions:
    """What a bundle says of itself, and how it is made.

    `names` are those of a module's inputs; `layouts`, `ranges`, `mean` and `std` are as `reading.Asked` has them;
    `task` may leave out settings that the network itself tells (`measured`); `settings` are for models that state
    their task themselves. `buckets` are the sizes of the free dimensions, one .tflite file for each; `tolerance` is the largest absolute error from PyTorch that an fp32 file may have, TOLERANCE or
    what the reader of the model states where left out; a converter that takes longer than `timeout_s` is ended;
    `progress` is told each step.
    """

    formats: Sequence[str] = FORMATS
    names: Sequence[str] = ()
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    buckets: Sequence[Mapping[str, int]] = ()
    tolerance: float | None = None
    timeout_s: float = 1800.0
    task: Task | str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    licence: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    progress: Callable[[str], None] = lambda step: None


def check_buckets(prepared: Prepared, buckets: Sequence[Mapping[str, int]]) -> None:
    """Refuse sizes of what is no free dimension.

    Raises:
        InputError.
    """
    sources = prepared.sources.values()
    free = sorted({d for source in sources for s in source.inputs for d in s.shape if isinstance(d, str)})
    if unknown := sorted({name for bucket in buckets for name in bucket} - set(free)):
        have = f"its free dimensions are {', '.join(free)}" if free else "all its dimensions are fixed"
        raise InputError(f"got a bucket with {', '.join(unknown)}: {have}")


def write(prepared: Prepared, out: Path, options: ExportOptions) -> Bundle:
    """Convert every component of what was read to every format; as `export`."""
    tolerance = prepared.tolerance if options.tolerance is None else options.tolerance
    usual = dict(prepared.buckets[0]) if prepared.buckets else {}  # for sizes that a bucket leaves out
    buckets = [{**usual, **bucket} for bucket in options.buckets] or prepared.buckets
    options = replace(options, buckets=buckets, tolerance=tolerance)
    failures: list[ExportError] = []
    modules = [source.module for source in prepared.sources.values()]
    with bundles.staged(out) as stage, shelved(modules, stage):
        components = {
            name: _component(name, source, stage, options, failures) for name, source in prepared.sources.items()
        }
        if not all(any(v.format != "torch" for v in c.variants) for c in components.values()):
            raise joined(failures) if failures else ExportError("no format named")
        manifest = Manifest(
            name=out.name,
            summary=options.summary or prepared.summary,
            licence=options.licence or prepared.licence,
            provenance={**prepared.provenance, **options.provenance, "tools": tool_versions()},
            task=prepared.task,
            files=tuple(_extra(stage, path, data) for path, data in prepared.files.items()),
            components=components,
        )
        _drop_unlisted(stage, manifest)
        bundles.write(stage, manifest)
        require_task(Bundle(stage, manifest))
    if failures:
        raise joined(failures, Bundle.open(out))
    return Bundle.open(out)


def joined(failures: Sequence[ExportError], written: Bundle | None = None) -> ExportError:
    """One error of several: a line for each cause, with the formats that it stopped, and what was written."""
    causes: dict[str, list[str]] = {}
    for failure in failures:
        first, _, rest = str(failure).partition(": ")
        known = first in FORMATS
        causes.setdefault(rest if known else str(failure), []).extend([first] if known else [])
    lines = [f"{', '.join(formats)}{': ' if formats else ''}{cause}" for cause, formats in causes.items()]
    if written is not None:
        made = ", ".join(sorted({v.format for c in written.manifest.components.values() for v in c.variants}))
        lines.append(f"(written to '{written.folder}': {made})")
    error = type(failures[0])("\n".join(lines) or "no format named")
    error.bundle, error.__cause__ = written, failures[0]
    return error


def require_task(bundle: Bundle) -> None:
    """Load the bundle as its task, which checks that settings and graphs fit together.

    Raises:
        ExportError: they do not.
    """
    task = bundle.manifest.task
    if task is None:
        return
    try:
        load(
            bundle, threads=2, check=False
        ).close()  # not one: OpenVINO 2026.4 may then crash on networks of a few neurons
    except (DeviceUnavailable, NotInstalled):  # of an engine that is not here: the device will say
        return
    except EdgekitError as error:
        raise ExportError(f"task '{task.name}' does not run what was exported, which is not kept: {error}") from error


def _extra(stage: Path, path: str, data: bytes) -> FileEntry:
    """Write a file that travels beside the graphs."""
    manifests.check_path(path, "the export")
    (stage / path).parent.mkdir(parents=True, exist_ok=True)
    (stage / path).write_bytes(data)
    return bundles.file_entry(stage, path)


def _component(
    name: str, source: Source, stage: Path, options: ExportOptions, failures: list[ExportError]
) -> Component:
    """Convert one component to every format; what fails goes to `failures`."""
    variants: list[Variant] = []
    graph = Graph(source.module, source, component=name, progress=options.progress, timeout_s=options.timeout_s)
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
        golden=golden(name, source, smallest(source, options.buckets), stage),
        family=source.family,
        settings=dict(source.settings),
    )


def convert(graph: Graph, name: str, stage: Path, options: ExportOptions) -> list[Variant]:
    """Convert a graph to one format, at every bucket where that needs sizes; each file is compared."""
    exporter = registry.find("exporters", name)()
    assert isinstance(exporter, Exporter)
    free = {d for s in graph.inputs for d in s.shape if isinstance(d, str)}
    buckets = sizes_of(free, options.buckets) if exporter.fixed and free else [{}]
    if not buckets:
        raise ExportError(f"{name}: its files need fixed sizes and none are given: name some (--bucket)")
    variants = []
    for sizes in buckets:
        stem = "-".join([graph.component, graph.precision, *("x".join(str(n) for n in sizes.values()),)]).rstrip("-")
        part = "" if graph.component == "model" else f"{graph.component} "
        options.progress(f"{part}{name} {graph.precision} {'×'.join(str(n) for n in sizes.values())}".strip())
        written = diagnosis.converted(exporter, graph, sizes, stage, stem)
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


def sizes_of(free: set[str], buckets: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """The buckets without dimensions that a component does not have, each once."""
    own = ({name: size for name, size in bucket.items() if name in free} for bucket in buckets)
    return [dict(sizes) for sizes in dict.fromkeys(tuple(bucket.items()) for bucket in own)]


def smallest(source: Source, buckets: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sizes that golden values are made at: the smallest bucket, so that every format can run them, else those
    of the first probe, made small where they are large.
    """
    if buckets:
        return min((dict(b) for b in buckets), key=lambda sizes: int(np.prod(list(sizes.values()))))
    return {name: size if size <= GOLDEN_SIDE else 64 for name, size in source.first_sizes.items()}


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
    return parity.compared(variant, graph, stage, TOLERANCE if options.tolerance is None else options.tolerance)


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


def golden(name: str, source: Source, sizes: Mapping[str, int], stage: Path) -> tuple[Golden, ...]:
    """Golden inputs are rounded to float16 before they are run, and stored so: half the bytes of a picture."""
    (stage / "golden").mkdir(exist_ok=True)
    halves = [half(array) for array in source.fitted_probes(sizes)[0]]
    values = [(spec.name, half) for spec, half in zip(source.inputs, halves, strict=True)]
    arrays = tuple(half.astype(spec.dtype) for spec, half in zip(source.inputs, halves, strict=True))
    outputs = zip(source.outputs, source.run(arrays), strict=True)
    values += [(spec.name, bundles.golden_sample(output)) for spec, output in outputs]
    golden = []
    for tensor, array in values:
        path = f"golden/{name}-{tensor}.npy"
        np.save(stage / path, array)
        golden.append(Golden(tensor, bundles.file_entry(stage, path)))
    rest(source.module)  # PyTorch has run for the last time: the engine of another component, or the task, comes next
    return tuple(golden)


def half(array: Array) -> Array:
    """float32 as float16, unless a value is too large for it."""
    if array.dtype != np.float32 or np.abs(array).max(initial=0.0) > np.finfo(np.float16).max:
        return array
    return array.astype(np.float16)
