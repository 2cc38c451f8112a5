"""Report: what a run was like, as JSON and in one line."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from edgekit import machine
from edgekit.demos.live.pipeline import Pipeline
from edgekit.errors import InputError


def status(pipeline: Pipeline) -> dict[str, Any]:
    """What a view shows beside the picture."""
    places = pipeline.placements
    return {
        **pipeline.figures.recent(),
        "dropped": pipeline.dropped,
        "engine": listed(place["engine"] for place in places),
        "device": listed(place["device"] for place in places),
        "precision": listed(place["precision"] for place in places),
        "size": pipeline.controller.summary(pipeline.working) if pipeline.working else "",
        "source": pipeline.capture.title,
        "state": pipeline.capture.state,
        "notice": pipeline.capture.message or pipeline.notice,
    }


def report(pipeline: Pipeline) -> dict[str, Any]:
    """The whole run: fps, age_ms (p50, p95), model_ms, dropped, and what explains them."""
    places, capture, wish = pipeline.placements, pipeline.capture, pipeline.wished
    return {
        **pipeline.figures.whole(),
        "dropped": pipeline.dropped,
        "skipped": pipeline.skipped,
        "frames": pipeline.figures.frames,
        "captured": capture.captured,
        "seconds": round(pipeline.seconds, 2),
        "effect": wish.effect,
        "models": places,
        "engine": listed(place["engine"] for place in places),
        "device": listed(place["device"] for place in places),
        "precision": listed(place["precision"] for place in places),
        "size": {
            "source": _sides(pipeline.source_size),
            "working": _sides(pipeline.working),
            "shown": _sides(pipeline.shown_size),
        },
        "controller": {
            "target_fps": pipeline.controller.target_fps,
            "scale": pipeline.controller.scale,
            "every": pipeline.controller.every,
            "actions": [asdict(action) for action in pipeline.controller.actions],
        },
        "source": {
            "name": capture.title,
            "fps": round(capture.fps, 3),
            "state": capture.state,
            "message": capture.message,
            "reconnects": capture.reconnects,
        },
        "machine": machine.facts(),
    }


def require_writable(path: Path | None) -> None:
    """Refuse a report that cannot be written, before the run.

    Raises:
        InputError.
    """
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        reason = "it is a folder" if path.is_dir() else f"there is no folder '{path.parent}'"
        raise InputError(f"cannot write the report '{path}': {reason}")


def save(path: Path, values: dict[str, Any]) -> None:
    """Write a report at once or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(values), indent=1))
    partial.replace(path)


def line(values: dict[str, Any]) -> str:
    """One line of figures: "24.8 fps · age 48 ms, p95 61 · model 31.2 ms · openvino cpu int8 · 640 × 480 · 3 dropped"."""
    age = values["age_ms"]
    parts = [f"{values['fps']:.1f} fps"]
    if age["p50"] is not None:
        parts.append(f"age {age['p50']:.0f} ms, p95 {age['p95']:.0f}")
    if values["model_ms"] is not None:
        parts.append(f"model {values['model_ms']:.1f} ms")
    if values["engine"]:
        parts.append(f"{values['engine']} {values['device']} {values['precision']}")
    if isinstance(values["size"], str) and values["size"]:
        parts.append(values["size"])
    parts.append(f"{values['dropped']} dropped")
    return " · ".join(parts)


def listed(names: Any) -> str:
    """Different names, in their order: "openvino", "openvino + litert"."""
    return " + ".join(dict.fromkeys(names))


def _sides(size: tuple[int, int] | None) -> list[int] | None:
    """Width and height, as people say them."""
    return [size[1], size[0]] if size else None
