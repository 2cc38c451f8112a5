"""Worker: one child for many calls; crashes, time limits and errors are told, and the next call works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.errors import ExportError, NotInstalled
from edgekit.exporters.formats.worker import Worker, WorkerDied

FUNCTION = """
    import ctypes, os, sys, time
    from edgekit.errors import NotInstalled

    calls = 0

    def work(what, seconds=0.0):
        global calls
        calls += 1
        print("said", what)
        time.sleep(seconds)
        if what == "crash":
            print("about to fall", file=sys.stderr, flush=True)
            ctypes.string_at(0)
        if what == "missing":
            raise NotInstalled.named("this", "that", "export")
        if what == "wrong":
            raise KeyError("no such thing")
        return {"pid": os.getpid(), "calls": calls, "what": what}
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    (tmp_path / "edgekit_test_work.py").write_text(textwrap.dedent(FUNCTION))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    worker = Worker("edgekit_test_work:work", "the tester")
    yield worker
    worker.stop()


def test_one_child_answers_many_calls(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    first = worker.call({"what": "µ\n\"'"}, 60)
    second = worker.call({"what": "b"}, 60)
    assert first["pid"] == second["pid"] == worker.pid != os.getpid()
    assert first["what"] == "µ\n\"'" and (first["calls"], second["calls"]) == (1, 2)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_errors_keep_their_kind_and_the_child(worker: Worker) -> None:
    with pytest.raises(NotInstalled, match=r"pip install 'edgekit\[export\]'"):
        worker.call({"what": "missing"}, 60)
    pid = worker.pid
    with pytest.raises(ExportError, match="no such thing"):
        worker.call({"what": "wrong"}, 60)
    assert worker.call({"what": "fine"}, 60)["pid"] == pid


def test_a_crash_is_told_with_its_last_words_and_another_child_starts(worker: Worker) -> None:
    pid = worker.call({"what": "fine"}, 60)["pid"]
    with pytest.raises(WorkerDied, match=r"the tester crashed \(SIGSEGV\); it printed last: .*about to fall") as caught:
        worker.call({"what": "crash"}, 60)
    assert not caught.value.slow and worker.pid is None
    assert worker.call({"what": "fine"}, 60)["pid"] != pid


def test_a_child_that_was_killed_while_idle_is_replaced_or_told(worker: Worker) -> None:
    pid = worker.call({"what": "fine"}, 60)["pid"]
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    assert worker.call({"what": "fine"}, 60)["pid"] != pid


def test_a_time_limit_ends_the_child(worker: Worker) -> None:
    worker.call({"what": "fine"}, 60)
    began = time.monotonic()
    with pytest.raises(WorkerDied, match=r"took longer than 0\.5 s .*timeout_s") as caught:
        worker.call({"what": "long", "seconds": 30.0}, 0.5)
    assert caught.value.slow and time.monotonic() - began < 5
    assert worker.call({"what": "fine"}, 60)["calls"] == 1


def test_progress_is_told_while_it_works(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.exporters.formats.worker.BEAT_S", 0.1)
    told: list[str] = []
    worker.call({"what": "fine"}, 60)
    worker.call({"what": "long", "seconds": 0.5}, 60, told.append)
    assert len(told) >= 3 and all(line.startswith("the tester at work") and line.endswith("…") for line in told)


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "edgekit_test_work.py").write_text(textwrap.dedent(FUNCTION))
    code = (
        "from edgekit.exporters.formats.worker import Worker\n"
        "print(Worker('edgekit_test_work:work', 'x').call({'what': 'fine'}, 60)['pid'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    time.sleep(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
