"""Bundles are marked in their place and nothing else of them changes; auto's choice is judged beside every fp32."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from edgekit import machine
from edgekit.benchmarks import Case, MeasureOptions, Report, Row, auto_choice, mark_speed
from edgekit.benchmarks.auto_choice import judge, table
from edgekit.benchmarks.cases import cases_of
from edgekit.benchmarks.mark_speed import MarkOptions, mark
from edgekit.bundle import Bundle, find
from edgekit.errors import BundleError
from edgekit.quantization import beside

SHORT = MarkOptions(rounds=5, seconds=0.01, inputs="random")


@pytest.fixture(autouse=True)
def never_too_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of ten milliseconds differ widely, and every file is to have figures."""
    monkeypatch.setattr(beside, "BUSY", math.inf)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(find("digits-cnn"), tmp_path / "digits-cnn"))


def without_marks(manifest: dict[str, Any]) -> dict[str, Any]:
    for component in manifest["components"].values():
        component.pop("agreement", None)
        for variant in component["variants"]:
            variant.pop("speed", None)
    return manifest


def test_marks_are_written_in_place_and_nothing_else_changes(folder: Path) -> None:
    before = (folder / "bundle.json").read_bytes()
    files = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "bundle.json"}
    lines = mark(folder, SHORT)
    after = (folder / "bundle.json").read_bytes()
    marked, unmarked = (mark_speed._formatted(without_marks(json.loads(data))) for data in (after, before))
    assert marked == unmarked and files == {p: p.read_bytes() for p in files}
    bundle = Bundle.open(folder)
    assert bundle.check_files()
    found = {(s.runtime, s.processor) for v in bundle.component().variants for s in v.speed}
    here = machine.processor()
    assert found >= {("openvino", here), ("onnxruntime", here), ("litert", here)}  # beside those of other processors
    assert {a.engines for a in bundle.component().agreement} >= {("onnxruntime", "openvino")}
    assert any(line.startswith("onnx int8 on openvino: ") for line in lines)


def test_marking_again_replaces_the_marks(folder: Path) -> None:
    mark(folder, SHORT)
    count = [len(v.speed) for v in Bundle.open(folder).component().variants]
    mark(folder, SHORT)
    assert [len(v.speed) for v in Bundle.open(folder).component().variants] == count


def test_without_vnni_agreement_stays_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "int8_units", lambda root=None: ())
    before = Bundle.open(folder).component().agreement
    assert before and any(mark_speed.UNLIKE in line for line in mark(folder, SHORT))
    assert Bundle.open(folder).component().agreement == before


def test_a_manifest_of_another_hand_is_not_rewritten(folder: Path) -> None:
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(BundleError, match="not in the form that edgekit writes"):
        mark(folder, SHORT)


@pytest.mark.usefixtures("with_vnni")
@pytest.mark.parametrize(("int8_ms", "slower"), [(1.0, False), (4.05, False), (4.5, True)])
def test_auto_is_judged_beside_the_best_fp32(monkeypatch: pytest.MonkeyPatch, int8_ms: float, slower: bool) -> None:
    bundle = Bundle.open("digits-cnn")
    taken = auto_choice.choice.pick(bundle, "model", "auto", "cpu", "auto", {}).runtime

    def measure(bundle: Bundle, runtimes: Any = (), precisions: Any = (), *, options: MeasureOptions) -> Report:
        def row(case: Case) -> Row:
            ms = int8_ms if case.precision == "int8" else 4.0 if case.runtime == "litert" else 6.0
            return Row(case, model_ms=[ms] * 5, round_ms=[ms] * 5)

        return Report(bundle.name, "", {}, "", [row(c) for c in cases_of(bundle, precisions=precisions)])

    monkeypatch.setattr(auto_choice, "measure", measure)
    verdict = judge(bundle, MeasureOptions())
    assert (verdict.auto, verdict.fp32, verdict.fp32_ms) == (f"{taken} int8", "litert fp32", 4.0)
    assert verdict.slower is slower and len(table([verdict]).rows) == 1


def test_a_choice_that_could_not_be_measured_counts_as_slower() -> None:
    broken = auto_choice.Verdict("b", "openvino int8", math.nan, "litert fp32", 1.0, 0.02, "", "it crashed")
    assert broken.slower
