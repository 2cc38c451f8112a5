"""Tables of 80 columns that cut nothing, Markdown, what is no latency, runs compared, files read back."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from benchmarks.doubles import HOSTILE, MACHINE, report, row, usual
from rich.console import Console

from edgekit.benchmarks import Report, Thorough, measure, published, records
from edgekit.benchmarks.options import MeasureOptions
from edgekit.benchmarks.projections import projections
from edgekit.benchmarks.records import STOPPED, Case, Row
from edgekit.benchmarks.reports import comparison, figures, table
from edgekit.benchmarks.reports.comparison import CompareOptions, compare, judged
from edgekit.bundle import Bundle
from edgekit.errors import InputError

COUNTS = '{"emulator": "qemu (Debian)", "rows": [{"bundle": "sr-x2", "component": "model", "engine": "litert", "precision": "int8", "boards": {"Pi 5": {"instructions": 21700000}}}]}'  # fmt: skip


def printed(found: Report, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    for named in table.tables(found, figures.figures(found)):
        console.print(table.drawn(named, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_and_cut_nothing(width: int) -> None:
    text = printed(usual(), width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for word in ("onnxruntime", "openvino", "int8-weights", "37.30", "p50 ms", "vs fp32", "slower than fp32", "failed"):
        assert word in text
    assert ("p95" in text) == (width > 80)


def test_a_simulator_has_no_latency() -> None:
    text = printed(usual(), 200)
    assert "777" not in text and "778" not in text  # its milliseconds
    simulated = text[text.index("no latency: a simulator") :]
    assert "int8-weights" in simulated and "simulator" in simulated and "ethos-u55-128, M cycles" in simulated


def test_figures_of_a_row() -> None:
    found = figures.figures(usual())[1]
    assert found.gain == pytest.approx(21 / 11, rel=0.05) and found.stages_ms == (0.5, 10.0, 0.5)
    assert found.load_ms == 42.0 and found.cpu_ms == 21.0 and found.paced_ms == 12.0 and found.per_second == 100.0
    low, high = found.latency[50].low, found.latency[50].high
    assert low <= found.latency[50].value <= high and set(found.latency) == {50, 90, 95, 99}
    assert found.bound_ms is not None and found.bound_ms >= found.latency[90].value
    grown = figures.figures(usual())[1]
    assert grown.mb_per_hour is not None and grown.mb_per_hour.value == pytest.approx(120, rel=0.5) and grown.grows


def test_another_precision_than_the_file_has_is_told() -> None:
    placement = {"version": "1", "kind": "hardware", "operators": {}, "precision": "fp32"}
    notes = figures.footnotes(report([row("openvino", "int8", 9.0, placement=placement), row("litert", "int8", 9.0)]))
    assert [n for n in notes if "computed" in n] == ["openvino int8: the engine says that it computed in fp32"]


def test_devices_and_threads_show_where_they_differ() -> None:
    rows = [row("openvino", "fp32", 20.0), row("openvino", "fp32", 12.0)]
    rows[1].case = msgspec.structs.replace(rows[1].case, threads=2, device="gpu")
    text = printed(report(rows), 100)
    assert "threads" in text and "gpu" in text and rows[1].label == "openvino fp32 gpu 2 threads"
    assert "threads" not in printed(usual(), 100) and "device" not in printed(report(rows[:1]), 100)


def test_markdown_is_not_broken_by_words() -> None:
    found = usual(HOSTILE)
    text = table.markdown(found, figures.figures(found))
    assert "<script" not in text and "| engine | precision | dB PSNR | p50 ms |" in text
    assert any(line.startswith("- litert int8 failed: it died") for line in text.splitlines())
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| o")}
    assert len(widths) <= 3  # one for each table


def test_reports_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    records.save(path, [usual(), usual("other")])
    first, second = records.load(path)
    assert (first.bundle, second.bundle) == ("sr-x2", "other") and first.rows[1].rounds()[2][0] > 0
    assert [len(r) for r in first.rows[0].rounds("model")] == [40] * 3 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "bundle": "x"}', "is of schema 1, this edgekit reads schema 2: measure again"),
        ('{"bundle": "x"}', "cannot read"),
        ("[]", "cannot read"),
        ("no json", "cannot read"),
        ('{"schema": 2, "edgekit": "0", "reports": [{"bundle": 3}]}', "cannot read"),
    ],
)
def test_what_is_no_report_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=said):
        records.load(tmp_path / "r.json")
    with pytest.raises(InputError, match="cannot read"):
        records.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.5, 0.9, "faster"),
        (1.05, 1.2, "slower"),
        (0.99, 1.03, "no difference"),
        (0.8, 1.3, "too noisy to tell"),
        (1.01, 1.05, "no difference"),
    ],
)
def test_a_verdict_knows_noise(low: float, high: float, said: str) -> None:
    assert judged(low, high) == said


def test_two_runs_are_compared() -> None:
    before, after = report([row("openvino", "fp32", 20.0), row("openvino", "int8", 10.0)]), report(
        [row("openvino", "fp32", 20.0), row("openvino", "int8", 13.0)]
    )  # fmt: skip
    same, slower = compare([before], [after]).rows
    assert same.verdict == "no difference" and same.ratio == 1.0
    assert slower.verdict == "slower" and slower.low > 1.1 and slower.ratio == pytest.approx(14 / 11, rel=0.05)
    console = Console(file=io.StringIO(), width=80)
    console.print(comparison.table(compare([before], [after])))
    assert isinstance(console.file, io.StringIO) and "…" not in console.file.getvalue().replace(" … ", "")


def test_too_few_rounds_say_nothing() -> None:
    short = report([row("openvino", "fp32", 20.0), row("openvino", "int8", 30.0)])
    for r in short.rows:
        r.task_ms, r.task_counts = r.task_ms[: sum(r.task_counts[:2])], r.task_counts[:2]
    assert {change.verdict for change in compare([short], [report([row("openvino", "int8", 10.0)])]).rows} == {
        "too few rounds"
    }
    found = figures.figures(short)[1]
    assert not found.slower and "slower" not in found.marks and "%" not in printed(short, 200).split("what it takes")[0]


def test_rows_that_ctrl_c_left_out_are_not_failures() -> None:
    stopped = report([row("openvino", "fp32", 20.0), Row(Case("sr-x2", "litert", "cpu", "int8"), error=STOPPED)])
    stopped.stopped = True
    text = printed(stopped, 200)
    assert "not measured" in text and "failed" not in text


def test_quality_of_other_data_is_told_apart() -> None:
    mixed = usual()
    mixed.rows[1].quality = {**(mixed.rows[1].quality or mixed.rows[0].quality or {}), "data": "other photos"}
    notes = " ".join(figures.footnotes(mixed))
    assert "quality of openvino int8: other photos; of others on other data" in notes


def test_only_what_is_certain_to_be_faster_than_autos_choice_is_named() -> None:
    rows = figures.figures(usual())
    assert figures.faster(rows) is None
    chosen = [replace(f, chosen=f.row.label == "onnxruntime fp32") for f in rows]
    found = figures.faster(chosen)
    assert found is not None and found.row.label == "openvino int8"


def test_an_hour_in_which_all_was_slower_does_not_count_beside_a_row() -> None:
    before = report([row("openvino", "fp32", 20.0), row("openvino", "int8", 10.0)])
    after = report([row("openvino", "fp32", 40.0), row("openvino", "int8", 21.0)])
    (alone,) = compare([before], [after], CompareOptions(beside="openvino fp32")).rows
    assert [r.verdict for r in compare([before], [after]).rows] == ["slower", "slower"]
    assert alone.label == "openvino int8" and alone.ratio == pytest.approx(1.02, abs=0.06)
    with pytest.raises(InputError, match="no row 'litert fp32': there are openvino fp32, openvino int8"):
        compare([before], [after], CompareOptions(beside="litert fp32"))


def test_unlike_machines_and_inputs_are_not_mixed() -> None:
    before, rows = usual(), usual().rows
    other = report(rows, machine={**MACHINE, "processor": "another"}, input="a photo of 8×8")
    with pytest.raises(InputError, match="processor a processor and another; sr-x2 was given a photo of 640×360 and"):
        compare([before], [other])
    assert (
        compare([before], [other], CompareOptions(unlike=True)).notes[0] == "unlike: processor a processor and another"
    )
    newer = report(rows, machine={**MACHINE, "packages": {"openvino": "2"}})
    assert "openvino: 1, then 2" in compare([before], [newer]).notes
    with pytest.raises(InputError, match="nothing to compare"):
        compare([before], [usual("another")])


def test_instructions_of_an_emulator(tmp_path: Path) -> None:
    (tmp_path / "counts.json").write_text(COUNTS)
    (found,) = projections(Bundle.open("sr-x2"), [str(tmp_path / "counts.json")])
    assert (found.what, found.value, found.source) == ("Pi 5, M instructions", 21.7, "qemu")
    (tmp_path / "counts.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a file as docs/raspberry-pi.json"):
        projections(Bundle.open("sr-x2"), [str(tmp_path / "counts.json")])


def test_everything_beside_latency_is_measured() -> None:
    thorough = Thorough(fps=50, loads=2, drop_cache=True)
    options = MeasureOptions(size=(64, 64), rounds=2, seconds=0.05, thorough=thorough)
    found = measure("sr-x2", ["onnxruntime"], ["int8"], options=options)
    (row,) = found.rows
    assert len(row.loads) == 2 and len(row.details) == 2 and len(row.per_second) == 3 and len(found.states) == 3
    assert sum(row.task_counts) == len(row.task_ms) and [len(r) for r in row.rounds()] == row.task_counts
    detail = row.details[0]
    assert detail.model_cpu_ms > 0 and detail.task_cpu_ms and detail.rss_mb and len(detail.paced_ms) >= 2
    assert all(min(stage) >= 0 and stage[1] > 0 for stage in detail.stages_ms) and found.asked["fps"] == 50
    assert row.loads[0].cached is None or row.loads[0].cached <= 1.0


def test_published_figures_go_between_the_marks() -> None:
    page = f"before\n{published.BEGIN}\nold\n{published.END}\nafter\n"
    told = published.laid_out(published.laid_out(page, [usual()]), [usual("other")])
    assert told.startswith("before\n") and told.endswith("after\n") and "### other" in told and "old" not in told
    with pytest.raises(InputError, match="to write between"):
        published.laid_out("no marks", [])
    docs = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert published.laid_out(docs.read_text(encoding="utf-8"), [])
