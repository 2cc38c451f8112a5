"""From trained networks to a bundle that ships: export, int8, quality, sample sheet and metrics, for every recipe."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from torch import nn

from edgekit import bundle as bundles
from edgekit import images, machine
from edgekit.bundle import Bundle
from edgekit.images import UInt8
from edgekit.manifest import Task
from edgekit.tensors import Array
from edgekit.zoo.training import training_seconds
from edgekit.zoo.tuning import fine_tuned, stage_of

if TYPE_CHECKING:  # the converters are imported by `publish` alone: a session of a zoo network needs none
    from edgekit.exporters import Source
    from edgekit.quantization import Quantized
    from edgekit.quantization.correction.qat import QatOptions
    from edgekit.quantization.metrics.metric import Metric

SMALL = 120_000  # parameters up to which a bundle ships fp32 as TFLite too


@dataclass(frozen=True)
class ZooRecipe:
    """A bundle of the zoo as `edgekit train NAME` makes it: `build(data, recipe, place)`."""

    recipe: Any
    build: Callable[[Path, Any, Place], Quantized]


@dataclass(frozen=True)
class Place:
    """Where a recipe finds its checkpoints (`runs`), writes its bundle (`out`), and tells its steps.

    With `qat` its int8 files are made from weights that were fine-tuned for int8.
    """

    runs: Path
    out: Path
    progress: Callable[[str], None]
    qat: bool = False


@dataclass(frozen=True)
class Trained:
    """What a recipe's training hands to `publish`.

    `sources` and `calibration` are by component. `metric` is measured for every engine and precision;
    int8 may lose `max_drop` of it. `sheet` draws (uint8 RGB) or writes a sample of the finished bundle;
    `figures` measures what else is to be said of it. `keep_float` and `tolerance` are as for `quantize`
    and `export`; `buckets` are the sizes of .tflite files where dimensions are free; `stages` are the trainings
    beside the first, whose time counts too. `practice` gives a component's inputs for step n of fine-tuning, the
    training's own; the calibration's serve where it is left out. `tuning` is how that is done.
    """

    sources: Mapping[str, Source]
    task: Task
    summary: str
    data: str
    calibration: Mapping[str, Sequence[tuple[Array, ...]]]
    metric: Metric
    max_drop: float
    sheet: Callable[[Bundle], UInt8 | str]
    figures: Callable[[Bundle], Mapping[str, Any]] = field(default=lambda bundle: {})
    keep_float: Sequence[str] = ()
    buckets: Sequence[Mapping[str, int]] = ()
    tolerance: float = 1e-4
    stages: Sequence[str] = ()
    practice: Mapping[str, Callable[[int], Sequence[tuple[Array, ...]]]] = field(default_factory=dict)
    tuning: QatOptions | None = None

    def kept(self, component: str) -> tuple[str, ...]:
        """The patterns of one component's layers that stay float."""
        prefix = "" if len(self.sources) == 1 else f"{component}/"
        return tuple(p.removeprefix(prefix) for p in self.keep_float if p.startswith(prefix))

    @property
    def parameters(self) -> int:
        return sum(p.numel() for source in self.sources.values() for p in source.module.parameters())


def publish(name: str, trained: Trained, recipe: Any, place: Place) -> Quantized:
    """Write the bundle, and weights (safetensors), metrics.json and a sample sheet to `runs`/`name`/.

    The weights are rounded to float16 first, so that every file, whatever its precision on disk, holds the
    same numbers. With `qat` the int8 files come from fine-tuned weights, which are recorded beside the trained ones
    and travel in no bundle: every file is compared with the trained network in fp32. ONNX and TFLite files are
    written, which OpenVINO and LiteRT read; `edgekit build` makes the other forms. Measured figures are in the
    bundle's provenance too.

    Raises:
        ExportError, QuantizationError.
    """
    for source in trained.sources.values():
        round_weights(source.module)
    bundles.refuse_other(place.out)
    tuned = fine_tuned(name, trained, place) if place.qat else {}
    seconds = round(training_seconds(place.runs, name, (*trained.stages, *map(stage_of, tuned))))
    provenance = {
        "recipe": f"edgekit train {name}{' --qat' if place.qat else ''}",
        "settings": asdict(recipe),
        "data": trained.data,
        "training_seconds": seconds,
        "parameters": trained.parameters,
    }
    with tempfile.TemporaryDirectory() as scratch:
        made = _made(trained, tuned, provenance, replace(place, out=Path(scratch, place.out.name)))
        place.progress("figures and sample sheet")
        bundle = _with_figures(made.bundle, trained.figures(made.bundle))
        _records(bundle, trained, made, place.runs / name)
        save_weights(tuned, place.runs / name, "-qat")
        with bundles.staged(place.out) as stage:
            shutil.copytree(bundle.folder, stage, dirs_exist_ok=True)
    place.progress(f"{name} was trained in {seconds // 60} min {seconds % 60} s; records in {place.runs / name}")
    return replace(made, bundle=Bundle.open(place.out))


def _made(trained: Trained, tuned: Mapping[str, Source], provenance: Mapping[str, Any], place: Place) -> Quantized:
    """The bundle in fp32, and in int8 from the tuned networks where there are some, at `place.out`."""
    from edgekit.exporters import ExportOptions, export
    from edgekit.quantization import QuantizeOptions, quantize

    options = ExportOptions(
        formats=("onnx", "tflite") if trained.parameters <= SMALL else ("onnx",),
        buckets=trained.buckets,
        tolerance=trained.tolerance,
        task=trained.task,
        summary=trained.summary,
        licence="Apache-2.0",
        provenance=provenance,
        progress=place.progress,
    )
    int8 = QuantizeOptions(
        keep_float=trained.keep_float,
        correct=() if tuned else QuantizeOptions().correct,  # what was learnt is final: its weights lie on their levels
        formats=("onnx", "tflite"),
        buckets=trained.buckets,
        keep_slower=True,  # what is slower here may be faster elsewhere: it is marked, and `auto` leaves it
        tuned=tuned,
        progress=place.progress,
    )
    exported = export(trained.sources, place.out, options=options)
    return quantize(
        exported,
        trained.calibration,
        trained.metric,
        max_drop=trained.max_drop,
        source=trained.sources,
        out=place.out,
        options=int8,
    )


@torch.no_grad()
def round_weights(module: nn.Module) -> None:
    """Round every float parameter and buffer to what float16 holds, and stay in float32."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype == torch.float32:
            tensor.copy_(tensor.half().float())


def _with_figures(bundle: Bundle, figures: Mapping[str, Any]) -> Bundle:
    provenance = {**bundle.manifest.provenance, "figures": dict(figures)}
    bundles.write(bundle.folder, msgspec.structs.replace(bundle.manifest, provenance=provenance))
    return Bundle.open(bundle.folder)


def save_weights(sources: Mapping[str, Source], folder: Path, ending: str = "") -> None:
    """The weights of each component, as COMPONENT.safetensors with an ending of its name."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for component, source in sources.items():
        state = {key: value.contiguous() for key, value in source.module.state_dict().items()}
        save_file(state, folder / f"{component}{ending}.safetensors")


def _records(bundle: Bundle, trained: Trained, result: Quantized, folder: Path) -> None:
    """weights, metrics.json and the sample sheet."""
    save_weights(trained.sources, folder)
    sheet = trained.sheet(bundle)
    if isinstance(sheet, str):
        (folder / "sheet.txt").write_text(sheet, encoding="utf-8")
    else:
        images.write_image(folder / "sheet.png", sheet)
    files = [
        {"component": c, "file": str(v), "bytes": v.bytes, "quality": v.quality, "parity": v.parity}
        for c, component in bundle.manifest.components.items()
        for v in component.variants
    ]
    metrics = {
        "name": folder.name,
        "provenance": bundle.manifest.provenance,
        "machine": machine.facts(),
        "files": files,
        "kept_float": result.kept_float,
        "target_met": result.met,
    }
    (folder / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(metrics), indent=1))
