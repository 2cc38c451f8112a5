"""`edgekit live` as a user calls it: reports, recordings, signals, and one clear line where something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli import main
from edgekit.video import VideoReader

COMMON = ["--view", "null", "--source", "synthetic", "--size", "128x96", "--runtime", "onnxruntime"]


def live(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["live", *map(str, arguments)])


def test_the_report_has_the_settled_names(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    done = live(*COMMON, "--seconds", "0.7", "--report", out, "--effect", "style-wave", "--precision", "int8")
    assert done.exit_code == 0, done.output
    values = json.loads(out.read_text())
    assert values["fps"] > 0 and values["model_ms"] > 0 and values["dropped"] == 0
    assert 0 < values["age_ms"]["p50"] <= values["age_ms"]["p95"]
    assert (values["engine"], values["device"], values["precision"]) == ("onnxruntime", "cpu", "int8")
    assert values["size"] == {"source": [128, 96], "working": [128, 96], "shown": [128, 96]}
    assert values["controller"] == {"target_fps": 0.0, "scale": 1.0, "every": 1, "actions": []}
    assert values["overhead_share"] is not None and values["machine"]["cores"] >= 1
    assert "fps · age" in done.output and "onnxruntime cpu int8" in done.output


def test_a_file_is_written_frame_by_frame(tmp_path: Path) -> None:
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    assert live(*COMMON, "--seconds", "0.5", "--fps", "20", "--effect", "none", "--record", first).exit_code == 0
    done = live(
        "--source", first, "--view", "file", "--record", second, "--effect", "sr-x2", "--runtime", "onnxruntime"
    )
    assert done.exit_code == 0, done.output
    with VideoReader(first) as before, VideoReader(second) as after:
        assert len(list(after)) == len(list(before)) > 4
        assert (after.facts.width, after.facts.height) == (256, 192)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "nothing.mp4", "--view", "null"], "camera's number"),
        (["--source", "63", "--view", "null"], "--source synthetic"),
        (["--source", "picamera", "--view", "null"], "python3-picamera2"),
        ([*COMMON, "--effect", "digits-gan"], "of task 'generate'"),
        ([*COMMON, "--effect", "no-such"], "no bundle 'no-such'"),
        ([*COMMON, "--size", "640"], "WIDTHxHEIGHT"),
        ([*COMMON, "--record", "out.gif"], "expected one of the endings"),
        ([*COMMON, "--report", "/no/such/r.json"], "no folder"),
        ([*COMMON, "--view", "file"], "--record OUT.mp4"),
        ([*COMMON, "--source", "browser"], "--view web"),
        ([*COMMON, "--key", "k.pem"], "--certificate"),
        ([*COMMON, "--device", "npu"], "npu"),
        ([*COMMON, "--precision", "int3"], "int3"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: list[str], words: str) -> None:
    done = live(*arguments)
    assert done.exit_code == 2 and words in done.output.replace("\n", " "), done.output
    assert "Traceback" not in done.output


def test_no_display_is_no_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    done = live("--source", "synthetic", "--view", "window")
    assert done.exit_code == 2 and "--view web" in done.output


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_cleanly(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    """Ctrl-C, and what systemd sends; the recording and the report are whole."""
    out, report = tmp_path / "o.mp4", tmp_path / "r.json"
    command = [sys.executable, "-m", "edgekit.cli", "live", *COMMON, "--effect", "none", "--fps", "30"]
    command += ["--record", str(out), "--report", str(report)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ, cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    partial = tmp_path / ".o.partial.mp4"
    end = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    running.send_signal(sent)
    said, _ = running.communicate(timeout=20)
    assert running.returncode == code, said
    assert "Traceback" not in said and "fps" in said
    assert json.loads(report.read_text())["frames"] > 0
    with VideoReader(out) as reader:
        assert len(list(reader)) > 1


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_service_is_one(tmp_path: Path) -> None:
    text = files("edgekit.demos.live").joinpath("edgekit-live.service").read_text()
    assert "--host 0.0.0.0" in text and "EDGEKIT_LIVE_TOKEN" in text
    unit = tmp_path / "edgekit-live.service"
    unit.write_text(text.replace("/home/pi/edgekit/.venv/bin/edgekit", "/bin/true").replace("User=pi", "User=root"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_the_example_of_the_docs_runs() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "live.md"
    code = page.read_text().partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0 and "(240, 320, 3)" in done.stdout, done.stderr
