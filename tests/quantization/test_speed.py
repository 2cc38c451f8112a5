"""The speed guard: what is measured beside fp32, what is kept, what is said, and what a crash becomes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sdk.doubles import edit_manifest, replace_file

import edgekit.benchmarks
from edgekit import choice, machine, stated
from edgekit.benchmarks import Case, MeasureOptions, Report, Row
from edgekit.benchmarks.cases import component_cases, usual_sizes
from edgekit.benchmarks.statistics import FLOOR, noise_of
from edgekit.bundle import Bundle, find
from edgekit.exporters.sources import from_bundle
from edgekit.quantization import beside
from edgekit.quantization.speed import GuardOptions, guard

SHORT = GuardOptions(rounds=5, seconds=0.01)
Medians = Mapping[tuple[str, str], float | str]  # (runtime, precision) → ms, or an error


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A copy of a shipped bundle with fp32 files of both its formats, free to be changed."""
    return Bundle.open(shutil.copytree(find("digits-cnn"), tmp_path / "digits-cnn"))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Medians], None]:
    """Engines that take as long as they are told."""

    def told(medians: Medians) -> None:
        def measure(bundle: Bundle, runtimes: Any = (), precisions: Any = (), *, options: MeasureOptions) -> Report:
            cases = [
                msgspec.structs.replace(case, sizes=case.sizes or usual_sizes(bundle, name))
                for name in options.components
                for case in component_cases(bundle, name, runtimes, precisions)
            ]
            return Report(bundle.name, bundle.hash, {}, "", [row(case, medians) for case in cases])

        def row(case: Case, medians: Medians) -> Row:
            ms = medians.get((case.runtime, case.precision), 5.0)
            if isinstance(ms, str):
                return Row(case, error=ms)
            return Row(case, model_ms=[ms] * 10, round_ms=[ms] * 5, placement={"threads": 2})

        monkeypatch.setattr(edgekit.benchmarks, "measure", measure)

    return told


def formats(bundle: Bundle) -> set[tuple[str, str]]:
    return {(v.format, v.precision) for v in bundle.component().variants}


def test_real_files_on_every_engine_that_reads_them(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "BUSY", math.inf)  # short rounds differ widely
    found = guard(bundle, "int8", SHORT)
    assert {(r.runtime, r.format) for r in found.rows} == {
        ("openvino", "onnx"),
        ("onnxruntime", "onnx"),
        ("litert", "tflite"),
    }
    for row in found.rows:
        assert row.speed and row.speed.ms > 0 and row.speed.fp32_ms > 0 and row.speed.noise >= FLOOR
        assert row.speed.processor == machine.processor() and row.speed.threads >= 1 and not row.speed.beside
    marked = {(v.format, s.runtime) for v in found.manifest.components["model"].variants for s in v.speed}
    assert marked >= {(r.format, r.runtime) for r in found.rows if r.format not in found.dropped}


def test_a_format_that_is_slower_on_every_engine_is_not_kept(bundle: Bundle, engines: Any) -> None:
    engines({("litert", "int8"): 7.0, ("onnxruntime", "int8"): 6.0, ("openvino", "int8"): 2.0})
    found = guard(bundle, "int8", SHORT)
    assert found.dropped == ("tflite",)
    left = formats(Bundle(bundle.folder, found.manifest))
    assert ("tflite", "int8") not in left and ("onnx", "int8") in left and ("tflite", "fp32") in left
    told = " ".join(found.notes)
    assert "tflite int8 is slower than fp32 on every engine here that reads it, 7 ms beside 5 ms (0.71× ± 2%)" in told
    assert "not kept (--keep-slower keeps it)" in told
    assert "onnx int8 is slower than fp32 on onnxruntime" in told and "auto takes fp32 there" in told


def test_slower_files_are_kept_on_request_and_marked(bundle: Bundle, engines: Any) -> None:
    engines({("litert", "int8"): 7.0})
    found = guard(bundle, "int8", replace(SHORT, keep_slower=True))
    assert not found.dropped and "kept, and marked" in " ".join(found.notes)
    kept = Bundle(bundle.folder, found.manifest)
    slow = stated.whole(kept.manifest.components, "litert", "int8")
    assert slow is not None and slow.slower
    assert choice.pick(kept, "model", "litert", "cpu", "auto", {}).variant.precision == "fp32"


def test_nothing_is_kept_where_all_is_slower(bundle: Bundle, engines: Any) -> None:
    engines({(e, "int8"): 9.0 for e in ("litert", "onnxruntime", "openvino")})
    found = guard(bundle, "int8", SHORT)
    assert set(found.dropped) == {"onnx", "tflite"}
    assert formats(Bundle(bundle.folder, found.manifest)) == {("onnx", "fp32"), ("tflite", "fp32"), ("torch", "fp32")}
    assert "the bundle is as before" in found.notes[-1]


def test_within_the_noise_is_not_slower(bundle: Bundle, engines: Any) -> None:
    engines({("litert", "int8"): 5.05})
    assert not guard(bundle, "int8", SHORT).dropped


def test_a_crash_is_a_row_and_not_the_end(bundle: Bundle, engines: Any) -> None:
    engines({("litert", "int8"): "the measured process died with exit code -11", ("openvino", "int8"): 2.0})
    found = guard(bundle, "int8", SHORT)
    dead = next(r for r in found.rows if r.runtime == "litert")
    assert dead.speed is None and "exit code -11" in dead.error and not found.dropped
    assert "tflite int8 on litert could not be measured: the measured process died" in found.notes[0]


def test_a_file_that_no_engine_opens_is_a_row(bundle: Bundle) -> None:
    replace_file(bundle.folder, "model-int8.tflite", b"no model at all")
    rows = {r.runtime: r for r in guard(Bundle.open(bundle.folder), "int8", SHORT).rows}
    assert "EngineError" in rows["litert"].error and rows["onnxruntime"].speed is not None


def test_where_an_engine_has_no_fp32_the_fastest_of_the_others_stands_in(bundle: Bundle, engines: Any) -> None:
    without_fp32_tflite(bundle)
    engines({("litert", "int8"): 3.0, ("onnxruntime", "fp32"): 4.0, ("openvino", "fp32"): 6.0})
    row = next(r for r in guard(Bundle.open(bundle.folder), "int8", SHORT).rows if r.runtime == "litert")
    assert row.speed and (row.speed.fp32_ms, row.speed.beside) == (4.0, "onnxruntime")
    assert "in fp32 (onnxruntime)" in str(row)


@pytest.mark.slow
def test_an_fp32_file_is_made_in_scratch_to_compare_with(bundle: Bundle) -> None:
    without_fp32_tflite(bundle)
    opened = Bundle.open(bundle.folder)
    before = {p.name: p.read_bytes() for p in bundle.folder.iterdir() if p.is_file()}
    sources = {"model": from_bundle(opened)}
    row = next(r for r in guard(opened, "int8", replace(SHORT, sources=sources)).rows if r.runtime == "litert")
    assert row.speed and row.speed.beside == "built to compare"
    assert before == {p.name: p.read_bytes() for p in bundle.folder.iterdir() if p.is_file()}


def test_noise_is_that_of_the_rounds_ratios() -> None:
    drifting = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert noise_of([2 * ms for ms in drifting], drifting) == FLOOR  # a drift hits both alike
    assert noise_of([1.0, 1.0, 1.0, 1.0, 50.0], [1.0] * 5) == FLOOR  # one disturbed round
    restless = noise_of([0.5, 1.5, 0.7, 1.3, 1.0], [1.0] * 5)
    assert 0.2 < restless < 0.8
    assert noise_of([0.5, 1.5, 0.7, 1.3, 1.0] * 4, [1.0] * 20) == pytest.approx(restless / 2)
    assert noise_of([], []) == FLOOR and math.isfinite(noise_of([1.0], [2.0]))


def without_fp32_tflite(bundle: Bundle) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        model = manifest["components"]["model"]
        model["variants"] = [v for v in model["variants"] if (v["format"], v["precision"]) != ("tflite", "fp32")]

    edit_manifest(bundle.folder, edit)


def test_short_runs_are_measured_on_one_thread_too_and_the_faster_counts(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    medians = {("int8", None): 0.6, ("int8", 1): 0.4, ("int8", 2): 0.6, ("fp32", None): 0.8, ("fp32", 1): 0.9}
    medians["fp32", 2] = 0.8
    asked: list[Any] = []

    def measure(bundle: Bundle, runtimes: Any = (), precisions: Any = (), *, options: MeasureOptions) -> Report:
        asked.append(options.threads)
        cases = [
            msgspec.structs.replace(case, threads=threads)
            for case in component_cases(bundle, "model", runtimes, precisions)
            for threads in options.threads
        ]
        return Report(bundle.name, bundle.hash, {}, "", [row(case) for case in cases])

    def row(case: Case) -> Row:
        ms = medians[case.precision, case.threads]
        return Row(case, model_ms=[ms] * 10, round_ms=[ms] * 5, placement={"threads": case.threads or 2})

    monkeypatch.setattr(edgekit.benchmarks, "measure", measure)
    found = [gain.speed for gain in guard(bundle, "int8", SHORT).rows]
    assert asked == [(None,), (2, 1)]
    assert found and {(s.ms, s.fp32_ms, s.threads) for s in found if s} == {(0.4, 0.8, 1)}
    medians |= {("int8", None): 1.6, ("fp32", None): 2.8}
    asked.clear()
    found = [gain.speed for gain in guard(bundle, "int8", SHORT).rows]
    assert asked == [(None,)] and {(s.ms, s.threads) for s in found if s} == {(1.6, 2)}
