"""Measuring: every case in a process of its own, a crash is a row, reports and profiles say what was found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sdk.doubles import replace_file

import edgekit
from edgekit import machine
from edgekit.benchmarks import Case, MeasureOptions, Report, Row, measure, race
from edgekit.benchmarks.cases import cases_of, component_cases, usual_sizes
from edgekit.benchmarks.reports import figures
from edgekit.benchmarks.sampling import timed
from edgekit.benchmarks.tuning import remember
from edgekit.benchmarks.worker import golden_inputs, runs_of
from edgekit.bundle import Bundle, shipped
from edgekit.errors import DeviceUnavailable, HashMismatch
from edgekit.session import Device

QUICK = MeasureOptions(size=(64, 64), rounds=2, seconds=0.02)


def test_measures_task_and_model_in_rounds() -> None:
    told: list[tuple[int, int, str]] = []
    options = MeasureOptions(size=(64, 64), rounds=2, seconds=0.02, progress=lambda *step: told.append(step))
    result = measure("sr-x2", ["onnxruntime"], options=options)
    assert [r.case.precision for r in result.rows] == ["fp32", "int8"]
    for row in result.rows:
        assert not row.error and len(row.model_ms) >= 4 and len(row.task_ms) >= 4
        assert row.load_ms and row.first_ms and row.peak_mb and row.bytes and row.quality
        assert row.placement["device"] == "cpu" and row.placement["precision"] == row.case.precision
    assert told[-1][:2] == (6, 6) and result.machine["processor"]


def test_saves_raw_samples(tmp_path: Path) -> None:
    result = measure("sr-x2", ["onnxruntime"], ["int8"], options=QUICK)
    result.save(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    (kept,) = read["reports"]
    assert read["schema"] == 2 and kept["rows"][0]["model_ms"] == [round(ms, 4) for ms in result.rows[0].model_ms]


def test_a_crash_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = race.Process

    class Crashing(real):  # type: ignore[misc,valid-type]
        count = 0

        def ask(self, command: dict, timeout_s: float) -> dict:  # type: ignore[type-arg]
            if command["do"] == "round" and command["seconds"] and self is Crashing.first:
                self._process.kill()
            return super().ask(command, timeout_s)

        def __init__(self, command: list[str], *, title: str) -> None:
            super().__init__(command, title=title)
            Crashing.first = getattr(Crashing, "first", self)

    monkeypatch.setattr(race, "Process", Crashing)
    result = measure("sr-x2", ["onnxruntime"], options=QUICK)
    dead, alive = result.rows
    assert "died of SIGKILL" in dead.error and not alive.error and alive.model_ms
    rows = figures.figures(result)
    assert rows[0].marks == "failed" and "died" in figures.footnotes(result)[0]


def test_an_error_of_the_engine_is_a_row(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped()["sr-x2"], tmp_path / "sr-x2")
    replace_file(folder, "model-int8.onnx", b"no model at all")
    result = measure(folder, ["onnxruntime"], options=QUICK)
    assert result.rows[0].error == "" and "EngineError" in result.rows[1].error


def test_a_damaged_bundle_is_not_measured(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped()["sr-x2"], tmp_path / "sr-x2")
    (folder / "model-int8.onnx").write_bytes(b"damaged")
    with pytest.raises(HashMismatch, match="model-int8"):
        measure(folder, options=QUICK)


def test_nothing_to_measure_says_so() -> None:
    with pytest.raises(DeviceUnavailable, match="int4-weights"):
        measure("sr-x2", precisions=["int4-weights"], options=QUICK)


def made_up(bundle: Bundle, medians: dict[tuple[str, str], float]) -> Report:
    rows = [
        Row(Case(str(bundle.folder), r, "cpu", p), model_ms=[ms] * 3, task_ms=[ms + 1] * 3, task_counts=[1] * 3)
        for (r, p), ms in medians.items()
    ]
    return Report(bundle.name, bundle.hash, machine.facts(), "made up", rows)


def test_auto_avoids_an_int8_that_is_slower_and_the_table_says_so() -> None:
    bundle = Bundle.open("sr-x2")
    measured = made_up(bundle, {("openvino", "fp32"): 10.0, ("openvino", "int8"): 14.0, ("litert", "fp32"): 12.0})
    chosen = remember(bundle, measured)
    assert (chosen.runtime, chosen.variant.precision) == ("openvino", "fp32") and "11 ms" in chosen.why
    rows = figures.figures(measured, chosen)
    assert rows[0].marks == "← auto" and rows[1].marks == "slower than fp32"
    upscaler = edgekit.load("sr-x2")
    assert upscaler.placement().precision == "fp32" and "measured here" in upscaler.info()["why"]


def test_timing_takes_two_samples_at_least() -> None:
    assert len(timed(lambda: None, 0.0)) == 2


def test_cases_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    names = {case.runtime for case in cases_of(Bundle.open("sr-x2"))}
    assert names == {"onnxruntime", "litert"}


def test_components_are_measured_alone_at_the_sizes_of_their_files() -> None:
    options = MeasureOptions(components=("model",), rounds=2, seconds=0.01)
    rows = measure("sr-x4", ["litert"], ["int8"], options=options).rows
    assert [r.case.sizes for r in rows] == [{"height": 64, "width": 64}, {"height": 180, "width": 320}]
    for row in rows:
        assert not row.error and len(row.round_ms) == 2 and len(row.model_ms) >= 4 and not row.task_ms
        assert row.round_ms[0] == pytest.approx(sorted(row.model_ms[:2])[0], rel=9) and row.placement["threads"]
    assert rows[1].bytes == rows[0].bytes < 100_000


def test_free_sizes_are_measured_at_those_of_the_largest_file() -> None:
    bundle = Bundle.open("sr-x4")
    assert usual_sizes(bundle, "model") == {"height": 180, "width": 320}
    assert usual_sizes(Bundle.open("digits-vae"), "decoder") == {}
    cases = component_cases(bundle, "model", ["onnxruntime", "litert"], ["int8"])
    assert next((c.runtime, c.sizes) for c in cases) == ("onnxruntime", {}) and len(cases) == 3


def test_rounds_end_when_they_say_enough() -> None:
    asked: list[int] = []

    def enough(rows: Sequence[Row]) -> bool:
        asked.append(len(rows))
        return len(rows[0].round_ms) >= 3

    options = MeasureOptions(components=("model",), rounds=50, seconds=0.01, enough=enough)
    row = measure("digits-cnn", ["onnxruntime"], ["int8"], options=options).rows[0]
    assert len(row.round_ms) == 3 and asked == [1, 1, 1]


def test_one_use_of_a_task_runs_each_component_so_often() -> None:
    task = edgekit.load("digits-vae", "onnxruntime", precision="int8")
    picture = np.zeros((32, 32, 3), np.uint8)
    assert runs_of(task, lambda: task.once(picture)) == {"encoder": 1, "decoder": 1}
    assert runs_of(task, lambda: task.interpolate(picture, picture, 4)) == {"encoder": 2, "decoder": 4}


def test_golden_values_fill_other_sizes() -> None:
    bundle = Bundle.open("sr-x4")
    (image,) = golden_inputs(bundle, "model", {"height": 100, "width": 70})
    golden = bundle.golden()["image"]
    assert image.shape == (1, 3, 100, 70) and image.dtype == np.float32
    side = min(golden.shape[2], 70)
    assert np.array_equal(image[:, :, :side, :side], golden[:, :, :side, :side])


def test_all_devices_are_those_that_an_engine_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.runtimes.litert import LiteRtRuntime

    known = [Device("litert", "cpu", ""), Device("litert", "gpu", ""), Device("litert", "npu", "", usable=False)]
    monkeypatch.setattr(LiteRtRuntime, "devices", lambda self: known)
    cases = cases_of(Bundle.open("sr-x2"), ["litert"], ["int8"], ["all", "cpu"], [1, 2])
    assert [(c.device, c.threads) for c in cases] == [("cpu", 1), ("cpu", 2), ("gpu", 1), ("gpu", 2)]
