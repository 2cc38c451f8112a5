"""The written folder: the page, the engine, the models of a bundle, and edgekit-web.json, which says what is what."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import edgekit
from edgekit import bundle as bundles
from edgekit.benchmarks.measurement import sample_photo
from edgekit.bundle import Bundle
from edgekit.demos.web import engine
from edgekit.errors import DeviceUnavailable, InputError, ManifestError
from edgekit.manifest import FileEntry, Variant
from edgekit.tasks.stylize import StylizeSettings
from edgekit.tasks.upscale import UpscaleSettings
from edgekit.tensors import TensorSpec

FACTS = "edgekit-web.json"
# what the page does, and pixels a side of its tiles: smaller than elsewhere, for phones, and so that progress shows
TASKS: dict[str, tuple[type[Any], int]] = {"upscale": (UpscaleSettings, 384), "stylize": (StylizeSettings, 640)}
MEASURED = ("int8", "fp32")  # are both sent where they have at most so many bytes in all: the page takes the faster
MEASURED_BYTES = 2**23


@dataclass(frozen=True)
class Wanted:
    """`precision`: auto, or one that the bundle has as ONNX; `webgpu`: send the engine's graphics half as well."""

    precision: str = "auto"
    webgpu: bool = False


def write(source: str | Path, out: Path, files: Path, wanted: Wanted | None = None) -> list[FileEntry]:
    """Write the folder in one step, over an empty one or an earlier one of this function.

    Args:
        source: a bundle's name, folder or .zip.
        files: what `engine.found` gives.

    Returns:
        Every file of the folder, but for edgekit-web.json itself.

    Raises:
        InputError: a task that the page does not do. DeviceUnavailable: no ONNX file of free size in that precision.
        BundleError: the bundle is damaged, or something else lies at `out`.
    """
    wanted = wanted or Wanted()
    bundle = Bundle.open(source)
    facts = _facts(bundle, wanted)
    with bundles.staged(out, FACTS) as stage:
        shutil.copytree(Path(__file__).with_name("page"), stage, dirs_exist_ok=True)
        shutil.copyfile(sample_photo(), stage / "sample.jpg")
        for kind in facts["engine"]["kinds"]:
            engine.copy(files, kind, stage / "ort")
        for entry in dict.fromkeys(e for v in _variants(bundle, wanted.precision) for e in v.files):
            target = stage / "model" / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(entry), target)
        names = sorted(p.relative_to(stage).as_posix() for p in stage.rglob("*") if p.is_file())
        entries = [bundles.file_entry(stage, name) for name in names]
        facts["files"] = entries
        (stage / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")
    return entries


def check(bundle: Bundle, out: Path, precision: str = "auto") -> None:
    """Refuse early what `write` refuses, before anything is fetched for it.

    Raises:
        As `write`.
    """
    _facts(bundle, Wanted(precision))
    bundles.refuse_other(out, FACTS)


def _facts(bundle: Bundle, wanted: Wanted) -> dict[str, Any]:
    """What the page needs to know; all of it comes from the bundle's manifest and is public."""
    manifest, settings, variants = bundle.manifest, _settings(bundle), _variants(bundle, wanted.precision)
    assert manifest.task is not None
    kinds = ["wasm", "webgpu"] if wanted.webgpu else ["wasm"]
    return {
        "schema": 1,
        "written_by": f"edgekit {edgekit.__version__}",
        "name": manifest.name,
        "version": manifest.version,
        "summary": manifest.summary,
        "licence": manifest.licence,
        "data": str(manifest.provenance.get("data", "")),
        "task": manifest.task.name,
        "settings": msgspec.to_builtins(settings),
        "tile": TASKS[manifest.task.name][1],
        "least": _least(bundle, settings.halo),
        "input": _tensor(bundle, variants[0], "inputs"),
        "output": _tensor(bundle, variants[0], "outputs"),
        "variants": [_variant(v) for v in variants],
        "engine": {
            "package": engine.ARCHIVE.package,
            "version": engine.ARCHIVE.version,
            "licence": "MIT",
            "kinds": {kind: [f"ort/{file.served}" for file in engine.KINDS[kind]] for kind in kinds},
        },
    }


def _settings(bundle: Bundle) -> Any:
    """The task's settings with their defaults filled in."""
    task = bundle.manifest.task
    if task is None or task.name not in TASKS:
        has = f"of the task '{task.name}'" if task else "of no task"
        raise InputError(f"{bundle.name} is a bundle {has}: the page does {' and '.join(TASKS)}")
    try:
        return msgspec.convert(task.settings, TASKS[task.name][0])
    except msgspec.ValidationError as error:
        raise ManifestError(f"{bundle.name}: the settings of task '{task.name}' are wrong: {error}") from error


def _variants(bundle: Bundle, precision: str) -> list[Variant]:
    """The ONNX files to send, the smallest first: of free size, with images in and out as the page has them."""
    found = [v for v in bundle.component().variants if v.format == "onnx" and not v.sizes]
    asked = MEASURED if precision == "auto" else (precision,)
    usable = sorted((v for v in found if v.precision in asked), key=lambda v: v.bytes)
    if not usable:
        have = ", ".join(v.precision for v in found) or "none"
        raise DeviceUnavailable(
            f"{bundle.name} has no ONNX file of free height and width in {' or '.join(asked)} for the page: it has {have}"
        )
    return usable if precision != "auto" or sum(v.bytes for v in usable) <= MEASURED_BYTES else usable[:1]


def _variant(variant: Variant) -> dict[str, Any]:
    return {
        "precision": variant.precision,
        "quality": str(variant.quality or ""),
        "files": [{"path": f"model/{e.path}", "bytes": e.bytes, "sha256": e.sha256} for e in variant.files],
    }


def _tensor(bundle: Bundle, variant: Variant, side: str) -> TensorSpec:
    """The one image that goes in or comes out.

    Raises:
        InputError: the graph has another number of them, or of a kind that the page does not know.
    """
    specs = getattr(variant, side) or getattr(bundle.component(), side)
    if len(specs) != 1 or specs[0].layout is None or specs[0].dtype not in ("float32", "uint8"):
        raise InputError(
            f"{bundle.name}: the page takes graphs with one image in {side}, float32 or uint8; got {list(map(str, specs))}"
        )
    spec: TensorSpec = specs[0]
    return spec


def _least(bundle: Bundle, halo: int | None) -> list[int]:
    """Height and width up to which small images are filled by their edge, as `TiledTask` has it on every engine."""
    fixed = [v.sizes for v in bundle.component().variants if v.sizes]
    return [1 if halo is None else min((s[side] for s in fixed), default=1) for side in ("height", "width")]
