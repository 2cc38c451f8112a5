"""ONNX Runtime's WebGPU provider on Mesa's software Vulkan: a GPU's arithmetic and operators, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from devices.conftest import Guests
from devices.workshop import Guest

PROGRAM = Path(__file__).with_name("guest.py")
CLOSE_DB = 90  # of fp32 on two devices; measured 109 and more


@pytest.fixture(scope="session")
def guest(guests: Guests, mesa: dict[str, str]) -> Guest:
    return guests("onnxruntime-webgpu", "onnxruntime-webgpu==1.27.0", variables=mesa)


@pytest.fixture(scope="session")
def answers(guest: Guest) -> list[dict[str, Any]]:
    return guest.run(PROGRAM, "agree", "gpu", "fp32")


def test_it_is_listed_as_software(guest: Guest) -> None:
    (row,) = (row for row in guest.run(PROGRAM, "rows") if row["provider"] == "webgpu")
    assert (row["usable"], row["kind"], row["name"]) == (True, "software", "gpu")
    assert "llvmpipe" in row["title"] and "int8" not in row["precisions"]


def test_without_a_driver_it_is_not_usable_and_says_what_it_takes(guests: Guests, mesa: dict[str, str]) -> None:
    blind = guests(
        "onnxruntime-webgpu", "onnxruntime-webgpu==1.27.0", variables=mesa | {"VK_DRIVER_FILES": "/dev/null"}
    )
    (row,) = (row for row in blind.run(PROGRAM, "rows") if row["provider"] == "webgpu")
    assert not row["usable"] and "No supported adapters" in row["why"] and "Vulkan" in row["remedy"]
    refused = blind.run(PROGRAM, "refuse", "gpu", "fp32")[0]
    assert refused["error"] == "DeviceUnavailable" and "No supported adapters" in refused["said"]


def test_every_network_answers_as_on_the_processor(answers: list[dict[str, Any]]) -> None:
    assert len(answers) == 6
    for answer in answers:
        assert min(answer["snr_db"].values()) > CLOSE_DB, answer
        assert answer["repeats"]


def test_every_operator_runs_there_and_added_transposes_are_counted(answers: list[dict[str, Any]]) -> None:
    for placement in (answer["placement"] for answer in answers):
        assert (placement["device"], placement["kind"], placement["precision"]) == ("gpu", "software", "fp32")
        assert {name.split()[0] for name in placement["operators"]} == {"WebGpu"}
        assert any(name in placement["operators"] for name in ("WebGpu Conv", "WebGpu FusedConv", "WebGpu Gemm"))
        assert placement["inserted"].get("Transpose", 0) >= 1  # from channels first to channels last


def test_what_does_not_fit_is_named_by_operator(guest: Guest) -> None:
    refused = guest.run(PROGRAM, "refuse", "gpu", "int8")
    for row in refused[:6]:
        assert row["error"] == "DeviceUnavailable" and "× QuantizeLinear would run on the processor" in row["said"], row
    assert refused[-1]["error"] == "DeviceUnavailable" and "gpu:1" in refused[-1]["said"]
