"""Qualcomm's NPU through the HTP simulator of onnxruntime-qnn: the real compiler and arithmetic, and no real time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from devices.conftest import Guests
from devices.workshop import Guest

PROGRAM = Path(__file__).with_name("guest.py")
LOST_DB = 3  # of what int8 keeps of fp32: two roundings of the same network; measured within 1.7, and 2.3 better
HALF_DB = 45  # of floats in 16 bits; measured 48 and more


@pytest.fixture(scope="session")
def guest(guests: Guests) -> Guest:
    return guests("onnxruntime-qnn", "onnxruntime==1.31.1", "onnxruntime-qnn==2.7.0")


@pytest.fixture(scope="session")
def answers(guest: Guest) -> list[dict[str, Any]]:
    return guest.run(PROGRAM, "agree", "npu", "int8")


def test_it_is_listed_as_a_simulator(guest: Guest) -> None:
    (row,) = (row for row in guest.run(PROGRAM, "rows") if row["provider"] == "qnn")
    assert (row["usable"], row["kind"], row["name"]) == (True, "simulator", "npu")
    assert row["precisions"] == ["int8", "fp16"]


def test_int8_is_as_near_to_fp32_as_on_the_processor(answers: list[dict[str, Any]]) -> None:
    assert len(answers) == 6
    for answer in answers:
        assert answer["repeats"]
        for there, here in answer["to_fp32_db"].values():
            assert there > here - LOST_DB, answer


def test_every_operator_runs_there(answers: list[dict[str, Any]]) -> None:
    for placement in (answer["placement"] for answer in answers):
        assert (placement["device"], placement["kind"], placement["precision"]) == ("npu", "simulator", "int8")
        assert {name.split()[0] for name in placement["operators"]} == {"QNN"}
        assert placement["inserted"]["Transpose"] >= 1


def test_floats_in_16_bits_are_had_when_asked_for_and_told(guest: Guest) -> None:
    for answer in guest.run(PROGRAM, "agree", "npu", "fp32"):
        assert answer["placement"]["precision"] == "fp16"
        assert min(answer["snr_db"].values()) > HALF_DB, answer


def test_what_cannot_be_had_is_refused_with_the_remedy(guest: Guest) -> None:
    *float32, backend, folder, sizes, second = guest.run(PROGRAM, "refuse", "npu", "fp32")
    for row in float32:
        assert (
            row["error"] == "DeviceUnavailable"
            and "computes float operators in 16 bits: use precision='int8'" in row["said"]
        )
    # a backend that is not there makes the engine leave all to the processor, without a word of it
    assert backend["error"] == "DeviceUnavailable" and "would run on the processor" in backend["said"]
    assert "9 × Conv" in backend["said"]
    assert folder["error"] == "InputError" and "it is no folder to write to" in folder["said"]
    assert sizes["error"] == "DeviceUnavailable" and "sizes={'height': …, 'width': …}" in sizes["said"]
    assert second["error"] == "DeviceUnavailable" and "npu:1" in second["said"]


def test_a_network_compiled_ahead_of_time_gives_the_same_bits_and_is_mended(guest: Guest, tmp_path: Path) -> None:
    rows = guest.run(PROGRAM, "keep", "npu", "int8", tmp_path)
    assert len(rows) == 6
    for number, row in enumerate(rows, 1):
        assert row["same"] and row["written_once"] and row["files"] == number
        assert row["placement"]["operators"] == {"QNN EPContext": 1} and row["placement"]["precision"] == "int8"
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".onnx"]
