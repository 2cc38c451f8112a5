"""torch → ONNX, OpenVINO, TFLite: `export` writes a bundle whose every file was run and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit import bundle as bundles
from edgekit import manifest as manifests
from edgekit import registry
from edgekit.asking import require_model_file
from edgekit.bundle import Bundle
from edgekit.compiled import nothing_kept
from edgekit.exporters import measured
from edgekit.exporters.readers import model_files
from edgekit.exporters.readers.reading import Asked, read
from edgekit.exporters.sources import Source, from_module, leaving_modes
from edgekit.exporters.writing import ALIASES, FORMATS, ExportOptions, check_buckets, write
from edgekit.manifest import Task
from edgekit.tensors import Array

TILED = ("upscale", "stylize")  # tasks that cut large images into tiles, so that one size serves all


@nothing_kept()
@leaving_modes
def export(
    source: Any,
    out: str | Path,
    example_inputs: Sequence[Array] = (),
    *,
    dynamic: Mapping[str, Mapping[int, Any]] | None = None,
    weights: str | Path | None = None,
    options: ExportOptions = ExportOptions(),
) -> Bundle:
    """Export a model to a bundle at the folder `out`, each file run in its engine and compared.

    Args:
        source: an nn.Module with `example_inputs`; "package.module:factory" or "file.py:factory" for one; a
            Source, or several by component ({"encoder": …, "decoder": …}); an exported program or .pt2 file; the
            weights of a published network (.pth, .safetensors); a converted model (.onnx, .xml, .tflite); a folder
            or hub name of a Hugging Face language model or a diffusers pipeline. See docs/export.md.
        out: the folder, named as the bundle; what lies there is replaced in one step when all is done.
        example_inputs: arrays in the order of `forward`, for a module.
        dynamic: free dimensions of a module's inputs, {"image": {2: "height", 3: "width"}}, or with bounds,
            {"tokens": {1: torch.export.Dim("length", max=128)}}.
        weights: a file that fills the module: safetensors, or a state dict that loads with `weights_only=True`.

    Raises:
        ExportError: a format failed. The bundle with the other formats is written first, if there are any.
        InputError: it is nothing that can be exported, or does not run on the example inputs.
    """
    require_model_file(source)
    task = Task(options.task) if isinstance(options.task, str) else options.task
    if isinstance(options.formats, str):
        options = replace(options, formats=(options.formats,))
    if task is not None:
        registry.find("tasks", ALIASES.get(task.name, task.name))
    asked = Asked(
        weights=None if weights is None else Path(weights),
        example_inputs=example_inputs,
        names=options.names,
        dynamic=dynamic or {},
        layouts=options.layouts,
        ranges=options.ranges,
        mean=options.mean,
        std=options.std,
        task=ALIASES.get(task.name, task.name) if task else None,
        settings=task.settings if task else options.settings,
    )
    out = Path(out).absolute()
    manifests.check_name(out.name)
    bundles.refuse_other(out)
    if model_files.is_model_file(source):
        return model_files.wrap(Path(source), out, options, asked)
    if isinstance(source, Mapping) and source and all(map(model_files.is_model_file, source.values())):
        return model_files.wrap({name: Path(path) for name, path in source.items()}, out, options, asked)
    prepared = read(source, asked)
    if options.mean:
        stated = {"mean": list(options.mean), "std": list(options.std)}
        prepared = replace(prepared, provenance={**prepared.provenance, "normalised": stated})
    notes = [note for described in prepared.sources.values() for note in described.notes]
    for note in notes:
        options.progress(f"{note} …")
    if notes:
        prepared = replace(prepared, provenance={**prepared.provenance, "notes": notes})
    if prepared.task is not None:
        prepared = replace(prepared, task=measured.completed(prepared.task, prepared.sources))
    check_buckets(prepared, options.buckets)
    if prepared.task is not None and prepared.task.name in TILED and not prepared.buckets:
        prepared = replace(prepared, buckets=measured.tiles(prepared.sources["model"]))
    return write(prepared, out, options)


__all__ = ["FORMATS", "ExportOptions", "Source", "export", "from_module"]
