"""Tuning: the fastest of made-up speeds is found and the slower are let go; failures, limits, stops; the command."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from sdk.doubles import replace_file

import edgekit
from edgekit import choice, profile
from edgekit.benchmarks import TuneOptions, candidates, halving, race, tune, tuned_choice, tuning
from edgekit.benchmarks.candidates import thread_counts
from edgekit.benchmarks.conditions import State
from edgekit.bundle import Bundle, shipped
from edgekit.cli import main
from edgekit.errors import DeviceUnavailable, EngineError, HashMismatch, InputError
from edgekit.selection import Limits
from edgekit.session import Device

PEAK_MB = {"openvino": 180.0, "onnxruntime": 90.0, "litert": 60.0}
SPEEDS = {  # of two threads
    ("openvino", "int8"): 10.0,
    ("onnxruntime", "int8"): 20.0,
    ("litert", "int8"): 15.0,
    ("openvino", "fp32"): 25.0,
    ("onnxruntime", "fp32"): 40.0,
    ("litert", "fp32"): 60.0,
}


class Made:
    """A process of made-up speed: one thread is half as fast, a thousandth is noise, and all drifts; tiles cost a tenth
    of the speed and save half of the memory.
    """

    speeds: ClassVar[dict[tuple[str, str], float]] = {}
    calls: ClassVar[list[tuple[str, str, int]]] = []
    fault: ClassVar[Callable[[tuple[str, str, int]], None]] = staticmethod(lambda key: None)
    drift: ClassVar[float] = 1.0
    drifts: ClassVar[float] = 1.01  # by so much with every call

    def __init__(self, command: list[str], *, title: str) -> None:
        self.key = ("", "", 0)
        self.random = random.Random(1)

    def ask(self, command: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if command["do"] == "open":
            case = command["case"]
            own = None if case["runtime"] == "onnxruntime" else 2  # which does not tell
            self.key = (case["runtime"], case["precision"], case["threads"] or 2)
            self.tile = case["tile"]
            return {"placement": {"threads": case["threads"] or own, "kind": "hardware"}}
        Made.calls.append(self.key)
        Made.fault(self.key)
        Made.drift *= Made.drifts
        ms = self.speeds[self.key[:2]] * (1 if self.key[2] == 2 else 2) * (1.1 if self.tile else 1) * Made.drift
        peak_mb = PEAK_MB[self.key[0]] / (2 if self.tile else 1)
        return {"task_ms": [ms * self.random.gauss(1, 0.001) for _ in range(3)], "peak_mb": peak_mb}

    def stop(self) -> None:
        pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> type[Made]:
    monkeypatch.setattr(race, "Process", Made)
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    monkeypatch.setattr(Made, "speeds", dict(SPEEDS))
    monkeypatch.setattr(Made, "fault", staticmethod(lambda key: None))
    Made.calls.clear()
    Made.drift = 1.0
    return Made


def rounds_of(*key: Any) -> int:
    return Made.calls.count(key)


def test_the_fastest_is_found_and_the_slower_are_let_go(made: type[Made]) -> None:
    tuned = tune("sr-x2")
    assert (tuned.choice.runtime, tuned.choice.variant.precision, tuned.met) == ("openvino", "int8", True)
    assert "measured here" in tuned.choice.why and tuned.rows[0].runtime == "openvino"
    assert rounds_of("litert", "fp32", 2) == 2 and rounds_of("litert", "fp32", 1) == 0
    assert rounds_of("openvino", "int8", 2) >= halving.TOLD_APART
    assert "as fast" not in tuned.choice.why
    assert edgekit.load("sr-x2").info()["why"].startswith(tuned.choice.why)


def test_a_drift_does_not_make_those_look_fast_that_dropped_out_early(made: type[Made]) -> None:
    rows = {(r.runtime, r.precision, r.threads or 2): r for r in tune("sr-x2").rows if not r.tile}
    assert made.drift > 1.3
    for (runtime, precision, threads), row in rows.items():
        truth = SPEEDS[runtime, precision] * (1 if threads == 2 else 2) / SPEEDS["openvino", "int8"]
        assert row.p50_ms is not None and row.p50_ms / rows["openvino", "int8", 2].ms == pytest.approx(truth, rel=0.15)


def test_an_engines_own_count_is_not_raced_twice(made: type[Made]) -> None:
    rows = tune("sr-x2").rows
    counts = [(r.threads, r.ran) for r in rows if (r.runtime, r.precision, r.tile) == ("openvino", "int8", None)]
    assert sorted(counts, key=str) == [(1, 1), (None, 2)]
    assert {r.threads for r in rows if r.runtime == "onnxruntime" and r.precision == "int8"} >= {None, 1}


def test_two_as_fast_are_told_apart_no_further_and_the_smaller_is_taken(
    made: type[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.speeds["litert", "int8"] = 10.1
    monkeypatch.setattr(Made, "drifts", 1.0)
    tuned = tune("sr-x2")
    assert tuned.choice.runtime == "litert" and "as fast as openvino int8" in tuned.choice.why
    assert "60 MB of memory for 180" in tuned.choice.why
    assert rounds_of("litert", "int8", 2) < halving.MOST_ROUNDS


def test_limits_choose_and_the_front_is_kept_in(made: type[Made]) -> None:
    tuned = tune("sr-x2", options=TuneOptions(limits=Limits(min_quality=37.28), front=True))
    assert tuned.choice.variant.precision == "fp32" and tuned.choice.runtime == "openvino" and tuned.met
    fronted = {(r.runtime, r.precision) for r in tuned.front}
    assert fronted >= {("openvino", "int8"), ("litert", "int8"), ("openvino", "fp32")}
    assert rounds_of("openvino", "fp32", 2) >= halving.TOLD_APART


def test_smaller_tiles_are_taken_where_memory_asks_for_them(made: type[Made]) -> None:
    tuned = tune("sr-x2", options=TuneOptions(limits=Limits(max_memory_mb=100.0)))
    tile = tuned.choice.tile
    assert (tuned.choice.runtime, tuned.met) == ("openvino", True) and tile in (128, 256)
    assert {r.tile for r in tuned.rows if r.runtime == "litert" and r.precision == "int8"} == {None, 64, 256}
    with edgekit.load("sr-x2") as upscale:
        assert upscale.info()["tile_sizes"] == f"any up to {tile}" and f"tiles of {tile}" in upscale.info()["why"]
    assert candidates.tile_sizes(Bundle.open("digits-cnn"), (360, 640)) == {}


def test_a_crash_is_a_row_and_the_rest_goes_on(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(key: tuple[str, str, int]) -> None:
        if key[:2] == ("openvino", "int8") and rounds_of(*key) >= 3:
            raise EngineError("the measured process died with exit code -11")

    monkeypatch.setattr(Made, "fault", staticmethod(dies))
    tuned = tune("sr-x2")
    dead = next(r for r in tuned.rows if r.error)
    assert "exit code -11" in dead.error and dead.p50_ms is None
    assert tuned.choice.runtime == "litert"


def test_nothing_that_runs_says_why(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(key: tuple[str, str, int]) -> None:
        raise EngineError("the driver is gone")

    monkeypatch.setattr(Made, "fault", staticmethod(dies))
    with pytest.raises(EngineError, match="nothing of sr-x2 could be measured.*the driver is gone"):
        tune("sr-x2")
    assert profile.load(Bundle.open("sr-x2")) is None


def test_a_stop_keeps_what_was_measured(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(key: tuple[str, str, int]) -> None:
        if len(Made.calls) == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(Made, "fault", staticmethod(stopped))
    tuned = tune("sr-x2")
    assert tuned.stopped and "(stopped early)" in tuned.choice.why
    Made.calls.clear()
    monkeypatch.setattr(Made, "fault", staticmethod(lambda key: stopped_at_once()))
    with pytest.raises(KeyboardInterrupt):
        tune("sr-x4")
    assert profile.load(Bundle.open("sr-x4")) is None


def stopped_at_once() -> None:
    raise KeyboardInterrupt


def test_a_spent_budget_still_measures_one_round_and_says_so(made: type[Made]) -> None:
    tuned = tune("sr-x2", options=TuneOptions(budget_s=0.001))
    assert tuned.rows[0].rounds == 1 and "the budget of 0.001 s allowed 1 round" in tuned.notes[0]
    assert any("was spent before it was its turn" in r.error for r in tuned.rows)


def test_a_busy_or_hot_machine_is_told(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    states = [State(0.0, load=9.0, throttle_events=1), State(1.0, load=9.5, throttle_events=3)]
    watch = type("Watch", (), {"states": states, "seconds": 1.0, "look": lambda self: None})
    monkeypatch.setattr(tuning, "Watch", watch)
    notes = tune("sr-x2").notes
    assert any("slowed down for its heat 2 times" in note for note in notes)
    assert any("the machine was busy (load 9.0 on 2 cores)" in note for note in notes)


def test_little_memory_opens_no_more(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halving, "available_mb", lambda: 100)
    tuned = tune("sr-x2")
    assert any("100 MB of memory are free, beside" in r.error for r in tuned.rows) and tuned.choice.runtime


def test_a_device_that_is_not_there_or_no_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="nothing of sr-x2 can be measured here of what was asked for .*npu"):
        tune("sr-x2", options=TuneOptions(devices=("npu",), runtimes=("litert",)))
    fake = [Device("litert", "gpu", "llvmpipe", kind="software")]
    engine = type(candidates.find_runtime("litert"))
    monkeypatch.setattr(engine, "devices", lambda self: fake)
    with pytest.raises(DeviceUnavailable, match="llvmpipe is software, whose times say nothing"):
        tune("sr-x2", options=TuneOptions(devices=("gpu",), runtimes=("litert",)))


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ({"budget_s": 0.0}, "got budget_s=0.0"),
        ({"seconds": float("nan")}, "got seconds=nan"),
        ({"threads": (0,)}, "got threads=0"),
        ({"limits": Limits(max_memory_mb=0.0)}, "got max_memory_mb=0.0"),
        ({"devices": ("cpux",)}, "no device 'cpux'"),
        ({"runtimes": ("openvin",)}, "did you mean 'openvino'"),
        ({"precisions": ("int7",)}, "no precision 'int7'"),
    ],
)
def test_options_that_nothing_can_meet_are_refused(stated: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason.replace("(", r"\(")):
        tune("sr-x2", options=TuneOptions(**stated))


def test_what_answers_otherwise_is_not_measured(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "wrong_answers", lambda bundle, fitting: iter([(("openvino", "int8"), "1 dB off")]))
    tuned = tune("sr-x2")
    assert tuned.choice.runtime == "litert" and any(r.error == "not measured: 1 dB off" for r in tuned.rows)


def test_a_damaged_bundle_is_not_tuned(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped()["sr-x2"], tmp_path / "sr-x2")
    (folder / "model-int8.onnx").write_bytes(b"damaged")
    with pytest.raises(HashMismatch, match="model-int8"):
        tune(folder)


def test_thread_counts() -> None:
    assert [thread_counts(n) for n in (1, 2, 4, 6)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6]]


def test_real_processes(own_cache: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shipped()["digits-cnn"], tmp_path / "digits-cnn")
    replace_file(folder, "model-int8.onnx", b"no model at all")
    told: list[tuple[int, int, str]] = []
    options = TuneOptions(
        runtimes=("onnxruntime", "litert"), threads=(1,), seconds=0.02, progress=lambda *step: told.append(step)
    )
    tuned = tune(folder, options=options)
    assert tuned.choice.threads == 1 and tuned.path.is_relative_to(own_cache)
    assert any("EngineError" in r.error for r in tuned.rows) and tuned.input == "a photo of 640×360"
    assert all(r.peak_mb and r.bytes and r.quality and r.ran == 1 for r in tuned.rows if not r.error)
    assert told and all(done <= total for done, total, _ in told)
    assert edgekit.load(folder).placement().runtime == tuned.choice.runtime


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tune", "sr-x2", *arguments])


def test_the_command_tells_machines(made: type[Made]) -> None:
    result = command("--json", "--max-memory-mb", "70")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0 and (answer["runtime"], answer["precision"], answer["met"]) == ("litert", "int8", True)
    assert answer["limits"]["max_memory_mb"] == 70.0 and any(r["front"] for r in answer["rows"])
    assert answer["engines"]["litert"] and Path(answer["profile"]).is_file()


def test_nothing_within_the_limits_is_exit_code_1_and_says_what_comes_closest(made: type[Made]) -> None:
    result = command("--max-latency-ms", "1")
    assert result.exit_code == 1
    assert "nothing measured keeps within the limits, openvino int8 comes closest" in result.output


def test_the_table_fits_a_narrow_terminal(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = command("--pareto")
    lines = result.output.splitlines()
    head = next(line for line in lines if "engine" in line)
    assert head.split() == ["engine", "precision", "threads", "tile", "p50", "ms", "±", "dB", "PSNR", "MB", "KB"]
    assert sum("front" in line for line in lines) >= 3 and sum("← auto" in line for line in lines) == 1
    table = lines[lines.index(head) : lines.index(head) + 10]
    assert "…" not in "".join(table) and max(map(len, table)) <= 80


def test_what_is_known_is_shown_exported_and_taken(made: type[Made], own_cache: Path, tmp_path: Path) -> None:
    assert command("--show").exit_code == 2
    assert command("--export", str(tmp_path / "none" / "p.json")).exit_code == 2
    assert command("--export", str(tmp_path / "p.json")).exit_code == 0
    Made.calls.clear()
    assert "auto takes openvino int8: measured here" in command("--show").output and not Made.calls
    shutil.rmtree(own_cache / "profiles")
    assert "nothing is known of sr-x2 on this machine" in command("--show").output
    assert command("--import", str(tmp_path / "p.json")).exit_code == 0 and not Made.calls
    assert "measured here" in edgekit.load("sr-x2").info()["why"]
    (tmp_path / "p.json").write_text("{}")
    refused = command("--import", str(tmp_path / "p.json"))
    assert refused.exit_code == 2 and "cannot be this machine's profile" in refused.output


def test_a_stopped_command_is_exit_code_130(made: type[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Made, "fault", staticmethod(lambda key: stopped_at_once() if len(Made.calls) == 15 else None))
    result = command()
    assert result.exit_code == 130 and "stopped: what was measured is kept" in result.output


def test_the_choice_is_held_against_a_sweep(made: type[Made], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))  # which the command sets to one of its own
    monkeypatch.setattr(tuned_choice.machine, "cores", lambda: 2)
    monkeypatch.setattr(Made, "drifts", 1.0)
    arguments = ["sr-x2", "--rounds", "3", "--json", str(tmp_path / "verdicts.json")]
    result = CliRunner().invoke(tuned_choice.main, arguments)
    assert result.exit_code == 0 and "no choice is more than 5% behind" in result.output
    (verdict,) = json.loads((tmp_path / "verdicts.json").read_text())
    assert verdict["tuned"] == "openvino int8" and verdict["combinations"] == 4 * 2 + 2 * 3 + 6 * 2
    slow = tuned_choice.Verdict("b", "a", 10.8, "b", 10.0, 0.02, 30.0, 60.0, 9, "", None)
    assert not slow.kept and slow.behind == pytest.approx(0.08)
