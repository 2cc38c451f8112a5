"""Completion: the forms that a shipped bundle leaves out, made from its weights and its int8 ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from edgekit import bundle as bundles
from edgekit import manifest as manifests
from edgekit.bundle import Bundle
from edgekit.errors import ExportError
from edgekit.exporters.formats.openvino_ import from_onnx
from edgekit.exporters.graphs import Graph
from edgekit.exporters.proof.places import message_of
from edgekit.exporters.sources import from_bundle
from edgekit.exporters.writing import FORMATS, ExportOptions, compared, convert
from edgekit.manifest import Variant
from edgekit.runtimes.external_data import require_inside


def complete(
    source: str | Path | Bundle,
    out: str | Path,
    formats: Sequence[str] = FORMATS,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Write a bundle with every fp32 file of these formats, and OpenVINO's own int8 files, to the folder `out`.

    fp32 files are converted from the PyTorch weights that the bundle carries; OpenVINO's int8 files hold the
    int8 ONNX file's numbers. Each new file is run in its engine and compared. No data is needed.

    Raises:
        BundleError: it carries no weights. ExportError, ParityError: a conversion failed; nothing is written.
    """
    opened = source if isinstance(source, Bundle) else Bundle.open(source)
    out = Path(out).absolute()
    manifests.check_name(out.name)
    options = ExportOptions(formats=formats, progress=progress)
    with bundles.staged(out) as stage:
        opened.copy_files(stage)
        components = {
            name: msgspec.structs.replace(component, variants=(*component.variants, *made))
            for name, component in opened.manifest.components.items()
            for made in [_missing(opened, name, stage, options)]
        }
        bundles.write(stage, msgspec.structs.replace(opened.manifest, name=out.name, components=components))
    return Bundle.open(out)


def _missing(bundle: Bundle, name: str, stage: Path, options: ExportOptions) -> list[Variant]:
    """Convert what a component has no file of."""
    component, source = bundle.component(name), from_bundle(bundle, name)
    sizes = dict.fromkeys(tuple(v.sizes.items()) for v in component.variants if v.sizes)
    options = replace(options, buckets=[dict(bucket) for bucket in sizes])
    have = {(v.format, v.precision) for v in component.variants}
    made: list[Variant] = []
    for format in options.formats:
        if (format, "fp32") not in have:
            made += convert(
                Graph(source.module, source, component=name, progress=options.progress), format, stage, options
            )
    if "openvino" in options.formats and ("onnx", "int8") in have and ("openvino", "int8") not in have:
        int8 = next(v for v in component.variants if (v.format, v.precision) == ("onnx", "int8"))
        options.progress(f"openvino int8 of {int8.path}")
        files = _to_openvino(bundle, int8, stage, f"{name}-int8")
        entries = tuple(bundles.file_entry(stage, file) for file in files)
        graph = Graph(source.module, source, "int8", name, options.progress)
        made.append(compared(Variant(format="openvino", precision="int8", files=entries), graph, stage, options))
    return made


def _to_openvino(bundle: Bundle, variant: Variant, stage: Path, stem: str) -> tuple[str, str]:
    """Convert a bundle's ONNX file, after what it refers to was found inside the bundle; the names of the files.

    Raises:
        BundleError: its external data lies elsewhere. ExportError: OpenVINO refuses it.
    """
    path = bundle.model_path(variant)
    require_inside(path, [bundle.file(entry) for entry in variant.files])
    try:
        return from_onnx(path, stage, stem)
    except RuntimeError as error:
        raise ExportError(f"openvino: '{variant.path}' does not convert: {message_of(error)}") from error
