"""The bars of int8: every bundle of the zoo quantized anew by the command line, with its loss, size, speed and seconds.

Run it with `python -m edgekit.benchmarks.zoo_int8 --data DIR -o out/zoo_int8.json`, and on an idle machine.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgekit import machine

SAMPLES = 100  # pictures of each class of a test set
SECONDS, SIZE, GAIN = 300, 0.35, 2.0  # the bars: of a bundle; of files over 200 kB in fp32; OpenVINO's, where asked
FORMATS = ("onnx", "openvino", "tflite")


@dataclass(frozen=True)
class Bar:
    """How a bundle is quantized, what it may lose, and whether OpenVINO must be twice as fast in int8.

    `calibration` and `validation` are files of the data folder; "random" is what the task draws itself, "NAME/train" and
    "NAME/test" a part of one, of pictures SAMPLES a class. A bundle without a metric here, whose loss only its recipe
    measures, is not held against `max_drop`.
    """

    calibration: str
    validation: str
    metric: str
    max_drop: float
    fast: bool = False


BARS = {
    "sr-x2": Bar("bsds_train.zip", "set5.zip", "psnr", 0.15, True),
    "sr-x4": Bar("bsds_train.zip", "set5.zip", "psnr", 0.15, True),
    **{
        f"style-{name}": Bar("bsds_train.zip", "content.zip", "ssim", 0.05, True)
        for name in ("wave", "scream", "shipwreck", "udnie")
    },
    "cifar-cnn": Bar("cifar10.zip/train", "cifar10.zip/test", "accuracy", 0.5, True),
    "digits-cnn": Bar("mnist.zip/train", "mnist.zip/test", "accuracy", 0.5, True),
    "digits-gan": Bar("random", "", "recognised", 1.0),
    "digits-vae": Bar("mnist.zip/train", "mnist.zip/test", "psnr", 0.5),
    "digits-diffusion": Bar("random", "", "recognised", 1.0),
    "cifar-diffusion": Bar("random", "", "", 0.005),
    **{
        name: Bar("tinyshakespeare.txt/train", "tinyshakespeare.txt/test", "nats", 0.02)
        for name in ("shakespeare-gpt", "shakespeare-gru", "shakespeare-cnn")
    },
    "folk-gru": Bar("nottingham.abc/train", "nottingham.abc/test", "nats", 0.02),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The folder with the data.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
@click.argument("names", nargs=-1)
def main(data: Path, out: Path, names: tuple[str, ...]) -> None:
    """Quantize bundles of the zoo (all if none are named) and hold them against the bars."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or BARS:
            rows.append(quantized(name, BARS[name], data, Path(folder)))
            click.echo(line(rows[-1]))
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps({"machine": machine.facts(), "rows": rows}, indent=1))
    missed = [f"{row['name']}: {what}" for row in rows for what in row["missed"]]
    click.echo("every bar is met" if not missed else "missed: " + "; ".join(missed))


def quantized(name: str, bar: Bar, data: Path, scratch: Path) -> dict[str, Any]:
    """One bundle, quantized for three formats by `edgekit quantize`, and what it came to."""
    command = [sys.executable, "-m", "edgekit.cli", "quantize", name, "--json", "--keep-slower"]
    command += [
        "--calibration",
        "random" if bar.calibration == "random" else str(_part(bar.calibration, data, scratch)),
    ]
    command += ["--validation", str(_part(bar.validation, data, scratch))] if bar.validation else []
    command += ["--metric", bar.metric, "--max-drop", str(bar.max_drop)] if bar.metric else []
    command += ["-o", str(scratch / name)]
    for format in FORMATS:
        command += ["--format", format]
    started, before = time.monotonic(), _processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds, spent = time.monotonic() - started, _processor_seconds() - before
    try:
        told = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {"name": name, "error": done.stderr[-2000:], "missed": ["it failed"]}
    row = {"name": name, "seconds": round(seconds, 1), "processor_seconds": round(spent, 1)}
    row |= {"kept_float": told["kept_float"], "notes": told["notes"]}
    row |= figures(told["bundle"])
    return row | {"max_drop": bar.max_drop, "missed": missed(row, bar)}


def figures(manifest: dict[str, Any]) -> dict[str, Any]:
    """Losses by file, sizes and speeds beside fp32, and the lowest agreement of two engines."""
    components = manifest["components"].values()
    variants = [v for c in components for v in c["variants"]]
    int8 = [v for v in variants if v["precision"] == "int8"]
    whole = {
        p: sum(_bytes(v) for v in variants if (v["format"], v["precision"]) == ("onnx", p)) for p in ("fp32", "int8")
    }
    return {
        "drops": {v["format"]: v["quality"]["drop"] for v in int8 if "quality" in v},
        "fp32_kb": whole["fp32"] // 1000,
        "size": round(whole["int8"] / whole["fp32"], 3),
        "gains": {f"{s['runtime']} {v['format']}": round(s["fp32_ms"] / s["ms"], 2) for v in int8 for s in v.get("speed", ())},
        "ms": {f"{s['runtime']} {v['format']}": [s["fp32_ms"], s["ms"]] for v in int8 for s in v.get("speed", ())},
        "agreement": [
            [*a["engines"], a["snr_db"], a.get("note", "")]
            for c in components for a in c.get("agreement", ()) if a["precision"] == "int8"
        ],
    }  # fmt: skip


def missed(row: dict[str, Any], bar: Bar) -> list[str]:
    """The bars that a bundle misses, in words."""
    found = [f"{f} loses {drop:.4g} of {bar.max_drop}" for f, drop in row["drops"].items() if drop > bar.max_drop]
    if row["seconds"] > SECONDS:
        found.append(f"{row['seconds']:.0f} s")
    if row["fp32_kb"] > 200 and row["size"] > SIZE:
        found.append(f"{row['size']:.2f} of the size")
    if bar.fast and machine.int8_units():
        gain = max((g for engine, g in row["gains"].items() if engine.startswith("openvino")), default=0.0)
        found += [f"OpenVINO {gain:.2f}×"] if gain < GAIN else []
    low = [f"{a} and {b} agree to {db:.0f} dB" for a, b, db, note in row["agreement"] if db < 40 and not note]
    return found + low


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['name']}: failed\n{row['error']}"
    drops = " ".join(f"{f} {d:+.4f}" for f, d in row["drops"].items())
    gains = " ".join(f"{e} {g:.2f}×" for e, g in row["gains"].items())
    lowest = min((a[2] for a in row["agreement"]), default=0.0)
    return (
        f"{row['name']}: {row['seconds']:.0f} s ({row['processor_seconds']:.0f} of a processor); drop {drops}; size {row['size']:.2f}; {gains}; "
        f"agreement ≥ {lowest:.0f} dB; {', '.join(row['missed']) or 'bars met'}"
    )


def _processor_seconds() -> float:
    """What ended child processes have used, which another load on the machine hardly changes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _bytes(variant: dict[str, Any]) -> int:
    return sum(int(f["bytes"]) for f in variant["files"])


def _part(named: str, data: Path, scratch: Path) -> Path:
    """A file of the data folder; its training or test part alone where that is asked for, tunes as they are trained on."""
    source, _, part = named.partition("/")
    if not part:
        return data / source
    place = scratch / f"{part}-{source}"
    if not place.exists():
        if place.suffix == ".zip":
            _pictures(data / source, part, place)
        else:
            from edgekit.zoo import text

            train, test = text.read_split(data, source)
            place.write_text({"train": train, "test": test}[part], encoding="utf-8")
    return place


def _pictures(source: Path, part: str, place: Path) -> None:
    partial = place.with_suffix(".partial")
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(partial, "w") as kept:
        names = [n for n in archive.namelist() if n.startswith(f"{part}/") and not n.endswith("/")]
        for label in sorted({n.split("/")[1] for n in names}):
            for name in sorted(n for n in names if n.split("/")[1] == label)[:SAMPLES]:
                kept.writestr(name, archive.read(name))
    partial.rename(place)


if __name__ == "__main__":
    main()
