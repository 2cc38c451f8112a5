"""What a device does: zoo, devices, run, verify, doctor."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.text import Text

import edgekit
from edgekit.cli.show import (
    command,
    json_option,
    new_table,
    out_console,
    print_json,
    progress_bar,
    task_options,
)
from edgekit.errors import InputError

LEVELS = {"ok": "green", "note": "yellow", "problem": "red"}


@command("edgekit zoo --json")
@json_option
def zoo(as_json: bool) -> None:
    """List the bundles that ship with edgekit."""
    from edgekit.bundle import Bundle, shipped

    bundles = [Bundle.open(folder) for folder in shipped().values()]
    rows = [_described(bundle) for bundle in bundles]
    if as_json:
        print_json(rows)
        return
    table = new_table("name", "what", "quality, fp32 → int8", "MB")
    for row in rows:
        table.add_row(row["name"], row["summary"], row["quality"], f"{row['bytes'] / 1e6:.1f}")
    out_console.print(table)
    return


@command("edgekit devices")
@json_option
def devices(as_json: bool) -> None:
    """List engines and devices, usable or not."""
    rows = [msgspec.to_builtins(d) for d in edgekit.devices() if d.runtime != "reference"]
    if as_json:
        print_json(rows)
        return
    table = new_table("engine", "device", "name", "precisions", "")
    for row in rows:
        state = "usable" if row["usable"] else Text(row["why"], "yellow")
        table.add_row(row["runtime"], row["name"], row["title"], ", ".join(row["precisions"]), state)
    out_console.print(table)
    return


@command("edgekit run sr-x2 photo.jpg -o large.png --runtime openvino --precision int8")
@click.argument("bundle")
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The image file to write, where the task makes one.")
@task_options
@json_option
def run(
    bundle: str,
    image: Path,
    out: Path | None,
    runtime: str,
    device: str,
    precision: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run a bundle's task on an image file."""
    from edgekit.bundle import Bundle

    opened = Bundle.open(bundle)
    name = opened.manifest.task.name if opened.manifest.task else ""
    if name not in RUNS:
        raise InputError(f"{opened.name} is of task '{name}': `edgekit run` knows {', '.join(RUNS)}")
    request = {"runtime": runtime, "device": device, "precision": precision, "threads": threads}
    answer, text = RUNS[name](opened, request, image, out)
    if as_json:
        print_json(answer)
        return
    placed = answer["placement"]
    ran = f"{placed['runtime']} {placed['device']} {placed['precision']} ({answer['why']})"
    took = f"{answer['seconds']:.2f} s" if answer["seconds"] >= 1 else f"{answer['seconds'] * 1e3:.1f} ms"
    out_console.print(f"{text} in {took} on {ran}", soft_wrap=True)


def _upscale(bundle: Any, request: dict[str, Any], image: Path, out: Path | None) -> tuple[dict[str, Any], str]:
    """Enlarge the image file to `out`."""
    from edgekit import images

    if out is None:
        raise InputError(f"{bundle.name} makes an image: name its file with -o")
    images.writable(out)
    picture = images.read_image(image)
    images.writable(out, picture.shape[2])
    with edgekit.load(bundle, **request) as upscale, progress_bar() as progress:
        count = upscale.tile_count(picture)
        bar = progress.add_task("tiles", total=count, visible=count > 1)
        start = time.perf_counter()
        result = upscale(picture, progress=lambda: progress.advance(bar))
        seconds = time.perf_counter() - start
        info = upscale.info()
    images.write_image(out, result, consume=True)
    sizes = f"({picture.shape[1]} × {picture.shape[0]}) → {out} ({result.shape[1]} × {result.shape[0]})"
    return {"out": str(out), "shape": list(result.shape), "seconds": seconds, **info}, f"{image} {sizes}"


def _classify(bundle: Any, request: dict[str, Any], image: Path, out: Path | None) -> tuple[dict[str, Any], str]:
    """Say what is on the image file."""
    from edgekit import images

    if out is not None:
        raise InputError(f"{bundle.name} makes no image: leave out -o")
    picture = images.read_image(image)
    with edgekit.load(bundle, **request) as classify:
        start = time.perf_counter()
        labels = classify(picture, top_k=3)
        seconds = time.perf_counter() - start
        info = classify.info()
    text = ", ".join(f"{label.name} {label.probability:.0%}" for label in labels)
    return {"top": [label._asdict() for label in labels], "seconds": seconds, **info}, f"{image}: {text}"


RUNS = {"upscale": _upscale, "classify": _classify}


@command("edgekit verify sr-x2")
@click.argument("bundle")
@json_option
def verify(bundle: str, as_json: bool) -> None:
    """Check a bundle's files and its answers on this machine.

    The golden values run on every engine that is installed; exit code 1 if one answers wrongly.
    """
    from edgekit.bundle import Bundle
    from edgekit.verify import verify as check

    opened = Bundle.open(bundle)
    verdicts = list(check(opened))
    wrong = any(v.ok is False for v in verdicts)
    if as_json:
        rows = [{"runtime": v.runtime, "variant": str(v.variant), "ok": v.ok, "max_error": v.max_error, "note": v.note}
                for v in verdicts]  # fmt: skip
        print_json({"bundle": opened.name, "ok": not wrong, "verdicts": rows})
    else:
        table = new_table("engine", "file", "verdict", "error", "")
        for v in verdicts:
            verdict = {True: Text("right", "green"), False: Text("wrong", "red"), None: Text("not compared")}[v.ok]
            error = "" if v.max_error is None else f"{v.max_error:.1e}"
            table.add_row(v.runtime, str(v.variant), verdict, error, v.note)
        out_console.print(table)
        files = len(opened.manifest.file_entries())
        out_console.print(
            f"{opened.name}: {files} files are those that were exported" + (", answers are not" if wrong else "")
        )
    sys.exit(1 if wrong else 0)


@command("edgekit doctor")
@json_option
def doctor(as_json: bool) -> None:
    """Say what this machine has and what it lacks."""
    from edgekit import machine
    from edgekit.doctor import findings

    facts, found = machine.facts(), findings()
    code = 1 if any(f.level == "problem" for f in found) else 0
    if as_json:
        print_json({"facts": facts, "findings": found})
        sys.exit(code)
    table = new_table("", "")
    for key, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = (", ".join(value) or "none: int8 will gain little") if isinstance(value, list) else text
        table.add_row(key.replace("_", " "), str(text if text is not None else "unknown"))
    out_console.print(table)
    for finding in found:
        out_console.print(finding.level, style=LEVELS[finding.level], end=" ")
        out_console.print(finding.text, soft_wrap=True)
    sys.exit(code)


def _described(bundle: Any) -> dict[str, Any]:
    variants = bundle.component().variants
    precisions = list(dict.fromkeys(v.precision for v in variants))
    best = {p: next((v.quality for v in variants if v.precision == p and v.quality), None) for p in precisions}
    values = " → ".join(f"{q.value:.2f}" for q in best.values() if q)
    metric = next((q.metric for q in best.values() if q), "")
    return {
        "name": bundle.name,
        "task": bundle.manifest.task.name if bundle.manifest.task else "",
        "summary": bundle.manifest.summary,
        "formats": list(dict.fromkeys(v.format for v in variants)),
        "precisions": precisions,
        "quality": f"{values} {metric}".strip(),
        "bytes": sum(e.bytes for e in bundle.manifest.file_entries()),
    }
