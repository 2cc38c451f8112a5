"""What the commands share: progress as lines where there is no terminal."""

from __future__ import annotations

import pytest

from edgekit.cli import show


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `show` sees; the test sets them."""
    now = [0.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: now[0])
    return now


def test_a_log_is_told_what_is_under_way(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show.steps(3) as begin:
        begin("onnx")
        clock[0] = show.EVERY_S + 1
        begin("openvino")
        begin("tflite")  # at once: no second line
        clock[0] *= 2
        begin("comparing …")
    told = capsys.readouterr()
    assert told.err.splitlines() == ["openvino (1 of 3)", "comparing … (2 of 3)"]
    assert told.out == ""


def test_what_is_soon_done_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress_bar() as progress:
        bar = progress.add_task("tiles", total=2)
        progress.advance(bar)
        progress.advance(bar)
    assert capsys.readouterr().err == ""


def test_a_long_row_of_tiles_is_counted(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress_bar() as progress:
        bar = progress.add_task("tiles", total=200)
        for done in range(1, 101):
            clock[0] = done / 4
            progress.advance(bar)
    assert capsys.readouterr().err.splitlines() == ["tiles (40 of 200)", "tiles (80 of 200)"]
