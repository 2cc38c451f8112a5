"""edgekit bench: what it writes and prints, what it refuses before the work, what it keeps when it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.doubles import report, row, usual
from click.testing import CliRunner, Result

from edgekit import machine
from edgekit.benchmarks import records
from edgekit.cli import main
from edgekit.isolation.process import Process

QUICK = ("--size", "64x64", "--rounds", "2", "--seconds", "0.02", "--loads", "1")


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["bench", *map(str, arguments)])


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_two_bundles_with_every_report(tmp_path: Path) -> None:
    files = [tmp_path / f"b.{kind}" for kind in ("json", "md", "html")]
    asked = ("--runtimes", "onnxruntime", "--precisions", "int8", "--threads", "1,2", "--paced", "60")
    result = run("sr-x2", "digits-cnn", *asked, *QUICK, "--json", files[0], "--md", files[1], "--html", files[2])
    assert result.exit_code == 0, result.output
    found = records.load(files[0])
    labels = [row.label for row in found[0].rows]
    assert labels == ["onnxruntime int8 1 thread", "onnxruntime int8 2 threads"]
    assert [r.bundle for r in found] == ["sr-x2", "digits-cnn"] and all(r.details[0].paced_ms for r in found[0].rows)
    assert "### digits-cnn" in files[1].read_text() and "<svg" in files[2].read_text()
    tables = [line for line in result.output.splitlines() if line.startswith(" ")]
    assert max(map(len, tables)) <= 80 and "threads" in result.output


def test_json_alone_is_printed(tmp_path: Path) -> None:
    result = run("digits-cnn", "--runtime", "onnxruntime", "--precision", "int8", *QUICK, "--json")
    read = json.loads(result.stdout)
    assert read["schema"] == 2 and len(read["reports"][0]["rows"]) == 1


def test_a_missing_device_is_a_row_and_the_rest_goes_on() -> None:
    asked = ("--runtimes", "onnxruntime", "--precisions", "int8", "--devices", "cpu,npu:3")
    result = run("digits-cnn", *asked, *QUICK)
    assert result.exit_code == 1 and "onnxruntime int8 npu:3 failed: DeviceUnavailable" in result.output
    assert any("device" in line for line in result.output.splitlines() if line.startswith(" engine"))


def test_a_missing_engine_that_was_named_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError('no', name='onnxruntime')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])  # the measured process finds modules where this does
    result = run("digits-cnn", "--runtimes", "onnxruntime,litert", "--precisions", "int8", *QUICK)
    assert result.exit_code == 1 and "pip install 'edgekit[onnx]'" in result.output
    assert "litert" in result.output and "failed" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sr-x2", "--runtimes", "openvinos"), "no runtime 'openvinos' (did you mean 'openvino'?)"),
        (("sr-x2", "--precisions", "int9"), "no precision 'int9' (did you mean 'int8'?): expected one of fp32"),
        (("sr-x2", "--devices", "cpo"), "no device 'cpo' (did you mean 'cpu'?): expected one of cpu, gpu, npu, all"),
        (("sr-x2", "--precisions", "int4-weights"), "nothing of sr-x2 can be measured: no installed engine of any has a file of ['int4-weights']; it has"),
        (("sr-x2", "no-such-bundle"), "no bundle 'no-such-bundle'"),
        (("sr-x2", "--json", "nowhere/b.json"), "cannot write 'nowhere/b.json': there is no folder 'nowhere'"),
        (("sr-x2", "--html", "."), "cannot write '.': it is a folder"),
        (("sr-x2", "--threads", "1,x"), "got 'x': expected numbers from 1 to 1024"),
        (("sr-x2", "--estimates", "nowhere.json"), "cannot read 'nowhere.json' as instruction counts"),
        ((), "Missing argument 'BUNDLE…'"),
        (("compare", "a.json"), "Missing argument 'AFTER'"),
        (("show", "nowhere.json"), "cannot read 'nowhere.json'"),
    ],
)  # fmt: skip
def test_refused_before_the_work(arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Process, "ask", lambda *given: pytest.fail("it measured"))
    assert words in refused(*arguments)


def test_a_page_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'edgekit[report]'" in refused("sr-x2", "--html", tmp_path / "b.html")


def test_a_run_is_shown_again(tmp_path: Path) -> None:
    records.save(tmp_path / "b.json", [usual()])
    result = run("show", tmp_path / "b.json", "--md", tmp_path / "b.md", "--html", tmp_path / "b.html")
    assert result.exit_code == 0 and "openvino" in result.output and "auto takes" not in result.output
    assert "…" not in result.output and (tmp_path / "b.md").exists() and (tmp_path / "b.html").exists()


def test_compare_fails_where_it_is_asked_to(tmp_path: Path) -> None:
    for name, ms in (("before", 10.0), ("after", 13.0)):
        records.save(tmp_path / f"{name}.json", [report([row("openvino", "int8", ms)])])
    files = tmp_path / "before.json", tmp_path / "after.json"
    assert run("compare", *files).exit_code == 0 and "slower" in run("compare", *files).output
    assert run("compare", *files, "--fail-over", "10%").exit_code == 1
    assert run("compare", *files, "--fail-over", "40%").exit_code == 0
    assert run("compare", *reversed(files), "--fail-over", "0").exit_code == 0
    told = json.loads(run("compare", *files, "--json").stdout)
    assert told["rows"][0]["verdict"] == "slower" and "expected a percentage" in refused("compare", *files, "--fail-over", "x")  # fmt: skip


def test_runs_of_unlike_machines_are_refused(tmp_path: Path) -> None:
    other: dict[str, Any] = {**machine.facts(), "processor": "another"}
    for name, facts in (("a", machine.facts()), ("b", other)):
        records.save(tmp_path / f"{name}.json", [report([row("openvino", "int8", 9.0)], machine=facts)])
    assert "not comparable: processor" in refused("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert run("compare", tmp_path / "a.json", tmp_path / "b.json", "--unlike").exit_code == 0


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    asked = ["digits-cnn", "--runtimes", "onnxruntime", "--loads", "1", "--rounds", "9999", "--seconds", "0.05"]
    command = [sys.executable, "-m", "edgekit.cli", "bench", *asked, "--json", str(out)]
    log = tmp_path / "log"
    with log.open("w") as said:
        process = subprocess.Popen(command, stderr=said, stdout=said)
    began = time.monotonic()
    while not _children(process.pid) and time.monotonic() - began < 60:
        time.sleep(0.05)
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log.read_text()
    (found,) = records.load(out)
    assert found.stopped and "stopped by Ctrl-C" in log.read_text()
    assert all(r.task_ms or r.error == "stopped before it was measured" for r in found.rows)


def _children(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
    except OSError:
        return "unknown"
