"""What a device has: zoo, devices, verify, doctor."""

from __future__ import annotations

import sys
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
)

# What stands in for a device, and what its times are worth
NOT_A_DEVICE = {
    "software": "software: times tell nothing of a GPU",
    "simulator": "simulator: times tell nothing of an NPU",
}
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
    for heading, wanted in (("usable here", True), ("not usable here", False)):
        table = new_table("engine", "device", heading)
        for row in (row for row in rows if row["usable"] is wanted):
            table.add_row(row["runtime"], row["name"], _about(row))
        if table.row_count:
            out_console.print(table)


def _about(row: dict[str, Any]) -> Text:
    """Name, provider and precisions, and below them what is in the way, or that it is no device."""
    title = f"{row['title']} ({row['provider']})" if row["provider"] not in ("", row["name"]) else row["title"]
    about = Text(": ".join(part for part in (title, ", ".join(row["precisions"])) if part))
    below = NOT_A_DEVICE.get(row["kind"], row["why"])
    if below:
        about.append(f"\n{below}" if title else below, "yellow").append(f": {row['remedy']}" if row["remedy"] else "")
    return about


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
        rows = [{"component": v.component, "runtime": v.runtime, "variant": str(v.variant), "ok": v.ok, "max_error": v.max_error, "note": v.note}
                for v in verdicts]  # fmt: skip
        print_json({"bundle": opened.name, "ok": not wrong, "verdicts": rows})
    else:
        table = new_table("engine", "file", "verdict", "error", "")
        several = len(opened.manifest.components) > 1
        for v in verdicts:
            verdict = {True: Text("right", "green"), False: Text("wrong", "red"), None: Text("not compared")}[v.ok]
            error = "" if v.max_error is None else f"{v.max_error:.1e}"
            file = f"{v.component} {v.variant}" if several else str(v.variant)
            table.add_row(v.runtime, file, verdict, error, v.note)
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
    variants = [v for component in bundle.manifest.components.values() for v in component.variants]
    precisions = list(dict.fromkeys(v.precision for v in variants))
    worst = [max((v.quality for v in variants if v.precision == p and v.quality), key=lambda q: q.drop, default=None)
             for p in precisions]  # fmt: skip
    values = [str(quality) for quality in worst if quality]
    return {
        "name": bundle.name,
        "task": bundle.manifest.task.name if bundle.manifest.task else "",
        "summary": bundle.manifest.summary,
        "formats": list(dict.fromkeys(v.format for v in variants)),
        "precisions": precisions,
        "quality": " → ".join([*(value.split()[0] for value in values[:-1]), *values[-1:]]),
        "bytes": sum(e.bytes for e in bundle.manifest.file_entries()),
    }
