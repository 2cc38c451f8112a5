"""Small bundles of the reference runtime, and what tests do to bundle.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.bundle import MANIFEST, Bundle, file_entry, golden_sample, staged, write
from edgekit.manifest import Component, Golden, Manifest, Task, Variant
from edgekit.runtimes.reference import Function
from edgekit.tensors import TensorSpec

MODEL = "model.json"
INPUT = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW", (0.0, 1.0))
OUTPUT = TensorSpec("upscaled", "float32", (1, 3, "2*height", "2*width"), "NCHW", (0.0, 1.0))
UPSCALE = {"scale": 2, "halo": 1}
DOUBLING = Function((INPUT,), (OUTPUT,), repeat=2)


def write_double(folder: Path, function: Function = DOUBLING, task: str | None = "upscale") -> Bundle:
    """Write a bundle whose only file enlarges an image by repetition; its golden values are right."""
    image = np.random.default_rng(0).random((1, 3, 5, 6), np.float32)
    truth = image.repeat(function.repeat, axis=2).repeat(function.repeat, axis=3)
    with staged(folder) as stage:
        (stage / MODEL).write_bytes(msgspec.json.encode(function))
        (stage / "golden").mkdir()
        np.save(stage / "golden" / "image.npy", image)
        np.save(stage / "golden" / "upscaled.npy", golden_sample(truth))
        component = Component(
            (INPUT,),
            (OUTPUT,),
            (Variant("reference", "fp32", (file_entry(stage, MODEL),)),),
            tuple(Golden(t, file_entry(stage, f"golden/{t}.npy")) for t in ("image", "upscaled")),
        )
        described = Task(task, dict(UPSCALE)) if task else None
        write(stage, Manifest(name="double", task=described, components={"model": component}))
    return Bundle.open(folder)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json in place; `change` gets it as a dict."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_file(folder: Path, path: str, content: bytes) -> None:
    """Change a file and its entry in bundle.json, as someone who made the bundle could."""
    (folder / path).write_bytes(content)
    entry = msgspec.to_builtins(file_entry(folder, path))

    def change(manifest: dict[str, Any]) -> None:
        model = manifest["components"]["model"]
        for found in [f for v in model["variants"] for f in v["files"]] + [g["file"] for g in model["golden"]]:
            if found["path"] == path:
                found.update(entry)

    edit_manifest(folder, change)
