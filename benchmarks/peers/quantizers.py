"""int8 of edgekit beside NNCF, onnxruntime.quantization and ai-edge-quantizer: quality, size, time, speed, agreement.

Run it with `python -m edgekit.benchmarks.peers.quantizers --data DIR`: the folder holds CIFAR-10, MNIST, BSDS, Set5 and
Shakespeare as the zoo's recipes take them. It writes DATE-quantizers.json and .md to benchmarks/peers/results.
"""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from edgekit import bundle as bundles
from edgekit.benchmarks.peers.networks import NETWORKS, drawn
from edgekit.benchmarks.peers.tools import TOOLS
from edgekit.bundle import Bundle
from edgekit.errors import EdgekitError
from edgekit.exporters.graphs import Graph
from edgekit.exporters.proof.parity import ENGINES
from edgekit.exporters.sizing import fitted
from edgekit.exporters.sources import Source, from_bundle
from edgekit.exporters.writing import ExportOptions, convert, golden, tool_versions
from edgekit.machine import facts
from edgekit.manifest import Component, Manifest, Task
from edgekit.opening import open_session
from edgekit.quantization import calibration
from edgekit.quantization.metrics.chosen import metric_of
from edgekit.quantization.metrics.metric import Metric
from edgekit.quantization.schemes.scheme import Job
from edgekit.tensors import Array
from edgekit.verify import answers, compare

COUNT, HELD = 32, 8  # inputs to calibrate, and others to measure on
ROUNDS, RUNS = 7, 6
OWN = {"onnxruntime": "onnxruntime.quantization", "openvino": "NNCF", "litert": "ai-edge-quantizer"}
ZOO = {  # calibration, metric, validation
    "sr-x2": ("bsds_train.zip", "psnr", "set5.zip"),
    "style-wave": ("bsds_train.zip", "ssim", "content.zip"),
    "cifar-cnn": ("cifar10.zip", "accuracy", ""),
    "digits-gan": ("", "recognised", ""),
    "digits-vae": ("mnist.zip", "psnr", ""),
    "cifar-diffusion": ("", "snr", ""),
    "shakespeare-gpt": ("tinyshakespeare.txt", "nats", ""),
}


@dataclass
class Case:
    """A bundle's networks with what they are calibrated and measured on, and the metric of its task where it has one."""

    name: str
    sources: dict[str, Source]
    seen: dict[str, list[tuple[Array, ...]]]
    held: dict[str, list[tuple[Array, ...]]]
    task: Task | None = None
    files: Bundle | None = None
    metric: Metric | None = None


def case_of(name: str, data: Path, scratch: Path) -> Case:
    """A case by name: a bundle of the zoo, or a network of outside."""
    if name in NETWORKS:
        source, inputs = drawn(name, COUNT + HELD)
        return Case(name, {"model": source}, {"model": inputs[:COUNT]}, {"model": inputs[COUNT:]})
    bundle = Bundle.open(name)
    seen_at, metric, valid_at = ZOO[name]
    place = _pictures(data / seen_at, "train", scratch) if seen_at in ARCHIVES else data / seen_at
    taken = calibration.from_path(bundle, place, COUNT + HELD) if seen_at else calibration.drawn(bundle, COUNT + HELD)
    held = _pictures(data / seen_at, "test", scratch) if seen_at in ARCHIVES else data / (valid_at or seen_at)
    made = None if metric == "snr" else metric_of(metric, bundle, _end(held, scratch) if metric == "nats" else held)
    spread = {n: [x[i] for i in np.random.default_rng(0).permutation(len(x))] for n, x in taken.items()}
    return Case(
        name,
        {n: from_bundle(bundle, n) for n in bundle.manifest.components},
        {n: x[:-HELD] for n, x in spread.items()},
        {n: x[-HELD:] for n, x in spread.items()},
        bundle.manifest.task,
        bundle,
        made,
    )


ARCHIVES = ("cifar10.zip", "mnist.zip")


def _pictures(archive: Path, part: str, scratch: Path, count: int = 600) -> Path:
    """Some pictures of an archive's train/ or test/, spread over the classes, in a folder for each."""
    import zipfile

    out = scratch / f"{archive.stem}-{part}"
    if not out.is_dir():
        with zipfile.ZipFile(archive) as held:
            names = sorted(n for n in held.namelist() if n.startswith(f"{part}/") and not n.endswith("/"))
            for name in [names[i] for i in np.linspace(0, len(names) - 1, count).astype(int)]:
                target = out / Path(name).parent.name / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(held.read(name))
    return out


def _end(text: Path, scratch: Path) -> Path:
    """The last tenth of a text, which the network was not trained on."""
    whole = text.read_text(encoding="utf-8")
    (scratch / "end.txt").write_text(whole[-len(whole) // 10 :], encoding="utf-8")
    return scratch / "end.txt"


def exported(case: Case, folder: Path) -> Bundle:
    """A bundle of the case in fp32, every format."""
    bucket = _sizes(case)
    components = {}
    for name, source in case.sources.items():
        graph = Graph(source.module, source, component=name)
        options = ExportOptions(buckets=[bucket] if bucket else [], tolerance=1e-2)
        variants = [v for f in ("onnx", "openvino", "tflite") for v in convert(graph, f, folder, options)]
        components[name] = Component(
            source.inputs, source.outputs, tuple(variants), golden(name, source, bucket or source.first_sizes, folder)
        )
    extra = case.files.manifest.files if case.files else ()
    for entry in extra:
        assert case.files is not None
        (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(case.files.folder / entry.path, folder / entry.path)
    manifest = Manifest(name=folder.name, task=case.task, files=extra, components=components)
    bundles.write(folder, manifest)
    return Bundle.open(folder)


def _sizes(case: Case) -> dict[str, int]:
    """The sizes that free dimensions have in the first input; the inputs of all are brought to them."""
    sizes: dict[str, int] = {}
    for name, source in case.sources.items():
        for spec, array in zip(source.inputs, case.seen[name][0], strict=True):
            sizes |= {d: n for d, n in zip(spec.shape, array.shape, strict=True) if isinstance(d, str)}
        shapes = [spec.bound(sizes).shape for spec in source.inputs]
        for inputs in (case.seen, case.held):
            inputs[name] = [tuple(fitted(a, s) for a, s in zip(x, shapes, strict=True)) for x in inputs[name]]
    return sizes


def quantized(case: Case, fp32: Bundle, tool: str, folder: Path) -> tuple[Bundle, float]:
    """The bundle with a tool's int8 files, and the processor seconds that they took."""
    shutil.copytree(fp32.folder, folder)
    components, began = {}, processor_seconds()
    for name, component in fp32.manifest.components.items():
        job = Job(name, component, folder, case.sources[name], None, case.seen[name])
        made = TOOLS[tool](job, folder)
        components[name] = msgspec.structs.replace(component, variants=(*component.variants, *made))
    seconds = processor_seconds() - began
    bundles.write(folder, msgspec.structs.replace(fp32.manifest, name=folder.name, components=components))
    return Bundle.open(folder), seconds


def versions() -> dict[str, str]:
    """Of the tools that are compared, and of what they stand on."""
    return {**tool_versions(), **{name: version(name) for name in ("nncf", "ai-edge-quantizer")}}


def processor_seconds() -> float:
    """What this process and its children have used: unlike the clock's, the same on a busy machine."""
    import psutil  # type: ignore[import-untyped]  # comes with NNCF

    own = psutil.Process()
    times = [p.cpu_times() for p in (own, *own.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


Answers = dict[str, list[list[Array]]]  # of every component, to each held-out input


def outputs(bundle: Bundle, case: Case, engine: str, precision: str) -> Answers:
    """What a variant answers to the held-out inputs."""
    found = {}
    for name, component in bundle.manifest.components.items():
        with open_session(bundle, engine, precision=precision, component=name, threads=1) as session:
            found[name] = [answers(session, x, component.inputs, component.outputs) for x in case.held[name]]
    return found


def snr_db(found: Answers, truth: Answers) -> float:
    """The noise of all inputs together: of every output its own, the worst counts."""
    pairs = [
        tuple(np.concatenate([answer[i].ravel() for answer in side[name]]) for side in (found, truth))
        for name in truth
        for i in range(len(truth[name][0]))
    ]
    return min(compare([f], [t])[1] for f, t in pairs)


def gains(bundles_of: dict[str, Bundle], fp32: Bundle, case: Case, engine: str) -> dict[str, float]:
    """How many times as fast as fp32 each tool's file is, all run in turn, one thread; the main component's."""
    main = fp32.main
    opened = {"fp32": open_session(fp32, engine, precision="fp32", component=main, threads=1)}
    for tool, bundle in bundles_of.items():
        opened[tool] = open_session(bundle, engine, precision="int8", component=main, threads=1)
    component = fp32.component(main)
    taken: dict[str, list[float]] = {tool: [] for tool in opened}
    for _ in range(ROUNDS):
        for tool, session in opened.items():
            answers(session, case.held[main][0], component.inputs, component.outputs)
            samples = []
            for inputs in itertools.islice(itertools.cycle(case.held[main]), RUNS):
                began = time.perf_counter()
                answers(session, inputs, component.inputs, component.outputs)
                samples.append(time.perf_counter() - began)
            taken[tool].append(min(samples))
    for session in opened.values():
        session.close()
    return {t: float(np.median(np.divide(taken["fp32"], taken[t]))) for t in bundles_of}


def measured(case: Case, scratch: Path) -> dict[str, Any]:
    """Every tool on one case."""
    folder = scratch / "fp32"
    folder.mkdir()
    fp32 = exported(case, folder)
    made: dict[str, Bundle] = {}
    result: dict[str, Any] = {"case": case.name, "tools": {}, "errors": {}}
    for tool in TOOLS:
        try:
            made[tool], seconds = quantized(case, fp32, tool, scratch / f"t{len(result['tools'])}")
        except Exception as error:  # a tool that refuses is a row
            result["errors"][tool] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            shutil.rmtree(scratch / f"t{len(result['tools'])}", ignore_errors=True)
            continue
        result["tools"][tool] = {"seconds": round(seconds, 2), "engines": {}}
    answered: dict[tuple[str, str], Answers] = {}
    for format, engine in ENGINES.items():
        if format == "torch":
            continue
        truth = outputs(fp32, case, engine, "fp32")
        if case.metric is not None:
            result.setdefault("fp32", {})[engine] = round(case.metric.value(fp32, engine, "fp32"), 4)
        having = {t: b for t, b in made.items() if any(v.format == format and v.precision == "int8" for v in _all(b))}
        for tool, bundle in list(having.items()):
            try:
                found = outputs(bundle, case, engine, "int8")
            except EdgekitError as error:
                result["errors"][f"{tool} on {engine}"] = str(error)[:200]
                del having[tool]
                continue
            answered[(tool, engine)] = found
            row = {"snr_db": round(snr_db(found, truth), 2), "size": round(_bytes(bundle, format), 3)}
            if case.metric is not None:
                row["metric"] = round(case.metric.value(bundle, engine, "int8"), 4)
            result["tools"][tool]["engines"][engine] = row
        for tool, gain in gains(having, fp32, case, engine).items():
            result["tools"][tool]["engines"][engine]["gain"] = round(gain, 2)
    result["agreement_db"] = _agreement(answered)
    result["metric"] = case.metric.name if case.metric else None
    return result


def _all(bundle: Bundle) -> list[Any]:
    return [v for c in bundle.manifest.components.values() for v in c.variants]


def _bytes(bundle: Bundle, format: str) -> float:
    """int8 bytes as a part of fp32 ones."""
    total = {p: sum(v.bytes for v in _all(bundle) if (v.format, v.precision) == (format, p)) for p in ("int8", "fp32")}
    return float(total["int8"] / total["fp32"])


def _agreement(answered: dict[tuple[str, str], Answers]) -> dict[str, float]:
    """SNR between the engines on the files of one maker: edgekit, its converted files, or each format's own tool."""
    makers = {"edgekit": "edgekit", "edgekit, converted files": "edgekit, converted files"}
    found = {}
    for maker in (*makers, "own tools"):
        engines = {e: a for (t, e), a in answered.items() if makers.get(t, "own tools") == maker}
        for (first, a), (second, b) in itertools.combinations(engines.items(), 2):
            found[f"{maker}: {first} – {second}"] = round(snr_db(b, a), 1)
    return found


def table(results: Sequence[dict[str, Any]]) -> str:
    """All of it as Markdown: a row for each network and engine, a column for each maker."""
    lines = [
        "| network, engine | fp32 | edgekit | edgekit, converted files | the format's own tool |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in results:
        for engine in ("onnxruntime", "openvino", "litert"):
            made = {t: r["engines"][engine] for t, r in result["tools"].items() if engine in r["engines"]}
            cells = [_cell(made.get(tool)) for tool in ("edgekit", "edgekit, converted files", OWN[engine])]
            fp32 = f"{result['fp32'][engine]:.4g}" if "fp32" in result else "–"
            lines.append(f"| {result['case']}, {engine} | {fp32} | {' | '.join(cells)} |")
    pairs = list(itertools.combinations(("onnxruntime", "openvino", "litert"), 2))
    heads = " | ".join(f"{a} – {b}" for a, b in pairs)
    lines += ["", f"| int8 outputs agree to, dB | files of | {heads} |", "| --- | --- |" + " --- |" * len(pairs)]
    for result in results:
        for maker in dict.fromkeys(k.partition(": ")[0] for k in result["agreement_db"]):
            found = [result["agreement_db"].get(f"{maker}: {a} – {b}") for a, b in pairs]
            told = " | ".join("–" if f is None else f"{f:.0f}" for f in found)
            lines.append(f"| {result['case']} | {maker} | {told} |")
    lines += ["", f"| processor seconds | {' | '.join(TOOLS)} |", "| --- |" + " --- |" * len(TOOLS)]
    for result in results:
        took = [result["tools"].get(tool, {}).get("seconds") for tool in TOOLS]
        seconds = " | ".join("–" if s is None else f"{s:.1f}" for s in took)
        lines.append(f"| {result['case']} | {seconds} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    """Metric, SNR, speed beside fp32 and size beside fp32."""
    if row is None:
        return "–"
    metric = f"{row['metric']:.4g}; " if "metric" in row else ""
    return f"{metric}{row['snr_db']:.1f} dB; {row['gain']:.2f}×; {row['size']:.2f}"


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="The recipes' data.")
@click.option("--only", multiple=True, help="Cases by name; all where left out.")
@click.option("-o", "--out", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(data: Path, only: Sequence[str], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"{datetime.date.today():%Y-%m-%d}-quantizers"
    known = json.loads(Path(f"{stem}.json").read_text())["results"] if Path(f"{stem}.json").is_file() else []
    results = {result["case"]: result for result in known}  # of today: --only adds to it
    for name in only or [*ZOO, *NETWORKS]:
        with tempfile.TemporaryDirectory(prefix="edgekit-peers-") as scratch:
            began = time.perf_counter()
            try:
                results[name] = measured(case_of(name, data, Path(scratch)), Path(scratch))
            except EdgekitError as error:
                click.echo(f"{name}: {error}", err=True)
                continue
            click.echo(f"{name}: {time.perf_counter() - began:.0f} s", err=True)
        ordered = [results[case] for case in (*ZOO, *NETWORKS) if case in results]
        report = {"machine": facts(), "tools": versions(), "calibrated_on": COUNT, "results": ordered}
        Path(f"{stem}.json").write_text(json.dumps(report, indent=1, default=str), encoding="utf-8")
        Path(f"{stem}.md").write_text(table(ordered), encoding="utf-8")
    click.echo(table([results[case] for case in (*ZOO, *NETWORKS) if case in results]))


if __name__ == "__main__":
    main()
