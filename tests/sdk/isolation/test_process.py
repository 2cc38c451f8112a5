"""A process that is asked in lines: it dies, hangs, chatters, or goes."""

from __future__ import annotations

import signal

import pytest

from edgekit.errors import EngineError, RuntimeCrashed
from edgekit.isolation.process import MOST_SAID, Process, ending, module

WORKER = "edgekit.benchmarks.worker"


def test_one_that_died_before_it_was_asked_is_stopped_quietly() -> None:
    process = Process(module(WORKER), title="the measured process")
    process._process.kill()
    process._process.wait()
    with pytest.raises(EngineError, match="the measured process died of SIGKILL"):
        process.ask({"do": "open"})
    process.stop()
    process.stop()


def test_one_that_hangs_is_killed() -> None:
    process = Process(module(WORKER))
    with pytest.raises(RuntimeCrashed, match="did not answer for 0.5 s") as caught:
        process.ask({"do": "nothing it would answer"}, 0.5)
    assert caught.value.exit_code == -signal.SIGKILL


def test_one_that_ends_by_itself_says_with_what_code() -> None:
    process = Process(module("edgekit.no_such_module"))
    with pytest.raises(RuntimeCrashed, match="died with exit code 1: its last words were '.*no_such_module"):
        process.ask({})


def test_what_it_says_is_kept_within_bounds() -> None:
    process = Process(module(WORKER))
    process._errors.write(b"x" * (MOST_SAID + 1))
    process._errors.flush()
    with pytest.raises(RuntimeCrashed):
        process.ask({"do": "nothing"}, 0.2)
    process.stop()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-11, "SIGSEGV"),
        (-6, "SIGABRT"),
        (-4, "this processor lacks"),
        (-99, "signal 99"),
    ],
)
def test_endings_are_named(code: int, words: str) -> None:
    assert words in ending(code)
