"""Model files: an .onnx, .tflite or OpenVINO .xml that is there already becomes a bundle, inspected and verified."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit import bundle as bundles
from edgekit.bundle import Bundle
from edgekit.errors import EngineError, ExportError, InputError, NotInstalled, ParityError, TensorError
from edgekit.exporters import measured
from edgekit.exporters.proof import parity
from edgekit.exporters.proof.places import last_line
from edgekit.exporters.readers import inspection
from edgekit.exporters.readers.file_sources import ENGINES, FileSource, of_file, opened, tensors, tiled
from edgekit.exporters.readers.reading import Asked, by_component, refuse_idle, require_normal, with_mean
from edgekit.exporters.writing import FORMATS, ExportOptions, golden, joined, require_task, tool_versions
from edgekit.manifest import Component, Manifest, Parity, Task, Variant
from edgekit.opening import SUFFIXES, runtime
from edgekit.runtimes.external_data import require_inside
from edgekit.runtimes.litert import LiteRtOptions
from edgekit.session import Model
from edgekit.tensors import Array
from edgekit.verify import answers, differ, worst

ENDINGS = tuple(inspection.INSPECT)
TILED = ("upscale", "stylize")  # tasks that bring a picture of any size to files of fixed sizes
TAKES = frozenset({"example_inputs", "names", "dynamic", "mean", "std"})
RELATIVE = 1e-3  # of the largest value, between engines in fp32


@dataclass
class Wrapping:
    """One bundle in the making: where it is staged, what was asked, and what went wrong so far."""

    stage: Path
    options: ExportOptions
    asked: Asked
    failures: list[ExportError] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


def is_model_file(reference: object) -> bool:
    """Whether it is the path of a finished model file, going by its ending."""
    return isinstance(reference, (str, Path)) and Path(reference).suffix in ENDINGS and ":" not in Path(reference).name


def wrap(files: Path | Mapping[str, Path], out: Path, options: ExportOptions, asked: Asked) -> Bundle:
    """Write a bundle of a finished model file, or of several by component; an .onnx becomes OpenVINO IR as well.

    Each file runs in its engine on `asked.example_inputs`, or on drawn ones that it takes; every other engine that
    reads it, and every file made from it, is compared with that. The file itself is not changed, except that
    `asked.mean` and `asked.std` put a normalisation before an .onnx.

    Raises:
        InputError: damaged, empty, of another format than its ending says, or it runs on no inputs tried.
        EngineError: its engine refuses it. UnsafePath: external data outside its folder. NotInstalled.
        ExportError, ParityError: a format failed, or engines disagree; the bundle is written first.
    """

    named = {"model": files} if isinstance(files, Path) else dict(files)
    refuse_idle(asked, TAKES, f"the finished model file '{next(iter(named.values()))}'")
    with bundles.staged(out) as stage:
        work = Wrapping(stage, options, asked)
        opened_files = {name: _model(name, path, work) for name, path in named.items()}
        said = {next(iter(named)): asked}
        if len(named) > 1:
            said = _said({name: model for name, (model, _, _) in opened_files.items()}, asked)
        sources, components = {}, {}
        for name, (model, facts, copied) in opened_files.items():
            mine = replace(work, asked=said[name])  # failures and notes are shared
            work.notes[name] = {"file": named[name].name, **facts.provenance()}
            sources[name], components[name] = _component(name, model, copied, mine)
        task = Task(asked.task, dict(asked.settings)) if asked.task else None
        manifest = Manifest(
            name=out.name,
            summary=options.summary,
            licence=options.licence,
            provenance={"files": work.notes, **options.provenance, "tools": tool_versions()},
            task=measured.completed(task, sources) if task else None,
            components=components,
        )
        bundles.write(stage, manifest)
        require_task(Bundle(stage, manifest))
    bundle = Bundle.open(out)
    if work.failures:
        raise joined(work.failures, bundle)
    return bundle


def _model(name: str, path: Path, work: Wrapping) -> tuple[Model, inspection.Facts, list[str]]:
    """Inspect a file and copy it to the stage; the copy, its facts, and the names of what was copied."""
    work.options.progress(f"inspect {path.name}")
    facts = inspection.inspect(path)
    copied = _copied(path, f"{name}-{facts.precision}", work)
    return Model(work.stage / copied[0], SUFFIXES[path.suffix], facts.precision, files=None), facts, copied


def _said(models: Mapping[str, Model], asked: Asked) -> dict[str, Asked]:
    """What is said of each of several files."""
    found = {name: tensors(model) for name, model in models.items()}
    shapes = {name: [s.shape for s in inputs] for name, (inputs, _) in found.items()}
    names = {name: [s.name for s in (*inputs, *outputs)] for name, (inputs, outputs) in found.items()}
    return with_mean(by_component(asked, names), shapes)


def _component(name: str, model: Model, copied: Sequence[str], work: Wrapping) -> tuple[FileSource, Component]:
    """Run a file of the stage, compare what else reads it, and convert it where that can be done."""
    if len(work.asked.mean):
        _normalize(model.path, work.asked)
    source = of_file(model, work.asked)
    entries = tuple(bundles.file_entry(work.stage, file) for file in copied)
    own = Variant(format=model.format, precision=model.precision, files=entries)  # type: ignore[arg-type]
    compared: dict[str, str] = {source.engine: "the reference"}
    variants = [msgspec.structs.replace(own, parity=_agreement(source, own, compared, work))]
    variants += _converted(name, source, own, work)
    work.notes[name]["engines"] = compared
    held = golden(name, source, source.first_sizes, work.stage)
    component = Component(source.inputs, source.outputs, tuple(variants), held)
    fixed = not any(isinstance(d, str) for s in source.inputs for d in s.shape)
    if work.asked.task in TILED and fixed and source.inputs[0].layout:
        component = _one_of_many(component)
    return source, component


def _one_of_many(component: Component) -> Component:
    """The same with free heights and widths, its files made for one size of them."""
    freed, sizes = tiled(component.inputs, component.outputs)
    count = len(component.inputs)
    variants = (
        msgspec.structs.replace(v, inputs=component.inputs, outputs=component.outputs, sizes=sizes)
        for v in component.variants
    )
    return msgspec.structs.replace(
        component, inputs=tuple(freed[:count]), outputs=tuple(freed[count:]), variants=tuple(variants)
    )


def _copied(path: Path, stem: str, work: Wrapping) -> list[str]:
    """Copy a model with what belongs to it; the names in the stage, the file to open first."""
    first = f"{stem}{path.suffix}"
    if path.suffix == ".xml":
        files = {first: path, f"{stem}.bin": path.with_suffix(".bin")}
    elif path.suffix == ".onnx":
        beside = require_inside(path)  # their places are written in the model, and stay as they are
        files = {first: path, **{p.relative_to(path.parent).as_posix(): p for p in beside}}
        if bundles.MANIFEST in files or any(name.startswith("golden/") for name in files) or len(files) <= len(beside):
            raise InputError(f"'{path}' keeps weights in {sorted(files)}: names that a bundle needs; save it anew")
    else:
        files = {first: path}
    for name, source in files.items():
        if (work.stage / name).exists():
            raise InputError(f"two components have a file '{name}': save one under another name")
        (work.stage / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, work.stage / name)
    return list(files)


def _agreement(source: FileSource, variant: Variant, compared: dict[str, str], work: Wrapping) -> Parity | None:
    """What the other engines that read a file answer, against the reference; None where no other reads it."""
    assert source.model is not None
    truth = source.answers({})
    others: list[tuple[str, Any]] = [(e, None) for e in ENGINES[variant.format] if e != source.engine]
    if variant.format == "tflite":  # one engine with two sets of kernels
        others = [("litert", LiteRtOptions(xnnpack=False))]
    found = []
    for engine, options in others:
        what = "litert without XNNPACK" if options else engine
        if not runtime(engine).installed():
            compared[what] = "not installed"
            continue
        work.options.progress(f"compare {variant} in {what}")
        try:
            with opened(engine, source.model, options) as session:
                results = [answers(session, p, source.inputs, source.outputs) for p in source.probes]
            found.append(_judged(results, truth, source, f"{variant} in {what}", work))
            compared[what] = f"largest error {found[-1].max_error:.2g}"
        except ParityError as error:
            compared[what] = "departs"
            work.failures.append(error)
        except (EngineError, TensorError) as error:
            compared[what] = f"cannot read it: {error}"
    return found[0] if found else None


def _judged(
    results: Sequence[Sequence[Array]], truth: Sequence[Sequence[Array]], source: FileSource, what: str, work: Wrapping
) -> Parity:
    """Their parity.

    Raises:
        ParityError: in fp32 beyond the tolerance stated, or RELATIVE of the largest value; else far off.
    """
    by_output = {
        spec.name: worst([differ(r[i], t[i]) for r, t in zip(results, truth, strict=True)])
        for i, spec in enumerate(source.outputs)
    }
    overall = worst(list(by_output.values()))
    precision = source.model.precision if source.model else "fp32"
    tolerance = work.options.tolerance
    for name, difference in by_output.items():
        exact = difference.within(tolerance) if tolerance else difference.integer or difference.relative <= RELATIVE
        if not (exact if precision == "fp32" else difference.snr_db >= parity.INT8_FLOOR_DB):
            raise ParityError(
                f"{what} departs from {source.engine} in '{name}': largest error {difference.error:.2g} "
                f"(SNR {difference.snr_db:.0f} dB); run it with runtime='{source.engine}'"
            )
    return Parity(
        max_error=overall.error,
        snr_db=round(overall.snr_db, 2),
        inputs=len(results),
        relative=overall.relative,
        reference=source.engine,
    )


def _converted(name: str, source: FileSource, own: Variant, work: Wrapping) -> list[Variant]:
    """The formats that were asked for and can be made of this one: OpenVINO IR of an .onnx."""
    made = []
    for format in work.options.formats:
        if format == own.format:
            continue
        if (own.format, format) == ("onnx", "openvino"):
            try:
                made.append(_to_openvino(name, source, own, work))
            except ExportError as error:
                work.failures.append(error)
        elif tuple(work.options.formats) != FORMATS:  # asked for by name, and not only as one of all
            work.failures.append(
                ExportError(
                    f"{format}: an {own.format} file is not converted to it: export the PyTorch module, or a .pt2"
                )
            )
    return made


def _to_openvino(name: str, source: FileSource, own: Variant, work: Wrapping) -> Variant:
    try:
        from edgekit.exporters.formats.openvino_ import from_onnx
    except ImportError as error:
        raise ExportError(str(NotInstalled.named("openvino export", "openvino", "export"))) from error
    work.options.progress(f"openvino {own.precision}")
    try:
        files = from_onnx(work.stage / own.path, work.stage, f"{name}-{own.precision}")
        model = Model(work.stage / files[0], "openvino", own.precision, source.inputs, source.outputs)
        with opened("openvino", model) as session:
            results = [answers(session, p, source.inputs, source.outputs) for p in source.probes]
    except (RuntimeError, TensorError) as error:  # of the converter, and EngineError
        raise ExportError(f"openvino: '{own.path}' does not convert: {last_line(error, 300)}") from error
    variant = Variant(
        format="openvino", precision=own.precision, files=tuple(bundles.file_entry(work.stage, f) for f in files)
    )
    measured = _judged(results, source.answers({}), source, str(variant), work)
    return msgspec.structs.replace(variant, parity=measured)


def _normalize(path: Path, asked: Asked) -> None:
    """Put (image − mean) / std behind the only image input of an .onnx, which keeps its name."""
    import onnx
    from onnx import TensorProto, helper

    if path.suffix != ".onnx":
        raise InputError(f"got mean and std for '{path.name}': they go into an .onnx or a module, not into this format")
    model = onnx.load(path, load_external_data=False)
    held = {t.name for t in model.graph.initializer}
    images = [i for i in model.graph.input if i.name not in held and len(i.type.tensor_type.shape.dim) == 4]
    if len(images) != 1 or images[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise InputError(f"got mean and std for '{path.name}': expected one float32 image among its inputs")
    (image,) = images
    require_normal(asked.mean, asked.std)
    sides, count = [d.dim_value for d in image.type.tensor_type.shape.dim], len(asked.mean)
    if count != 1 and count not in (sides[1], sides[3]) and sides[1] and sides[3]:
        raise InputError(f"got a mean of {count} channels for '{image.name}' of '{path.name}', which is {sides}")
    shape = [1, 1, 1, -1] if sides[3] == count != sides[1] else [1, -1, 1, 1]
    normalized, centred, *held_names = _unused(model.graph, image.name, ("normalized", "centred", "mean", "std"))
    for graph in inspection.graphs(model.graph):
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == image.name:
                    node.input[place] = normalized
    for name, numbers in zip(held_names, (asked.mean, asked.std), strict=True):
        array = np.asarray(numbers, np.float32).reshape(shape)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.insert(0, helper.make_node("Sub", [image.name, held_names[0]], [centred]))
    model.graph.node.insert(1, helper.make_node("Div", [centred, held_names[1]], [normalized]))
    onnx.save(model, path)


def _unused(graph: Any, name: str, ends: Sequence[str]) -> list[str]:
    """`name` with each ending, and as many more underscores as keep it apart from every value there is."""
    graphs = list(inspection.graphs(graph))
    known = {v for g in graphs for node in g.node for v in (*node.input, *node.output)}
    known |= {v.name for g in graphs for v in (*g.input, *g.output, *g.initializer)}
    space = "_"
    while any(f"{name}{space}{end}" in known for end in ends):
        space += "_"
    return [f"{name}{space}{end}" for end in ends]
