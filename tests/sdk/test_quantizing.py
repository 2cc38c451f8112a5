"""`edgekit quantize`: what it says on the terminal, in JSON and on a page, and what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.images import write_image
from edgekit.manifest import Speed


def quantize(*arguments: object, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["quantize", *(str(a) for a in arguments)])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture
def photos(tmp_path: Path, photo: np.ndarray) -> Path:
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_image(
            tmp_path / "photos" / f"{i}.png", np.ascontiguousarray(photo[i * 90 : i * 90 + 64, i * 50 : i * 50 + 64])
        )
    return tmp_path / "photos"


@pytest.mark.slow
def test_tells_what_was_made_in_eighty_columns(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.quantization import beside

    monkeypatch.setattr(beside, "BUSY", math.inf)  # there are figures however busy it is
    monkeypatch.setattr(Speed, "slower", property(lambda self: True))  # the widest table on every processor
    page = tmp_path / "int8.html"
    asked = ("--calibration", photos, "--validation", photos, "--max-drop", "0.5", "--format", "onnx", "--keep-slower")
    told = quantize("sr-x2", *asked, "--report", page, "-o", tmp_path / "mine")
    assert "target of 0.5 dB PSNR met" in told.output and "speed beside fp32" in told.output and "slower" in told.stdout
    assert "…" not in told.stdout and max(map(len, told.stdout.splitlines()[:8])) <= 80
    assert "both calibrates and measures" in told.stderr
    assert "sr-x2" in page.read_text(encoding="utf-8") and "<script" not in page.read_text(encoding="utf-8")
    assert all(v.speed for v in Bundle.open(tmp_path / "mine").component().variants if str(v) == "onnx int8")


@pytest.mark.slow
def test_a_missed_target_is_said_and_is_the_exit_code(photos: Path, tmp_path: Path) -> None:
    asked = ("--calibration", photos, "--validation", photos, "--max-drop", "0", "--attempts", "2", "--correct", "none")
    told = quantize("sr-x2", *asked, "--format", "onnx", "--no-timing", "--json", "-o", tmp_path / "mine", code=1)
    found = json.loads(told.stdout)
    assert not found["met"] and len(found["attempts"]) == 2 and found["worst_drop"] > 0
    assert any("2 attempts were made" in note for note in found["notes"])
    assert {layer["name"] for layer in found["layers"]["model"]} >= {"head", "body.0", "tail"}


def test_where_nothing_is_kept_it_says_so_and_writes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.quantization.speed import Guarded
    from edgekit.quantization.trial import Trial, speed

    def all_slower(bundle: Bundle, precision: str, options: object) -> Guarded:
        return Guarded(speed._without(bundle.manifest, precision, ("onnx",)), (), ("onnx",), ("all is slower",))

    monkeypatch.setattr(speed, "guard", all_slower)
    monkeypatch.setattr(Trial, "compare_engines", lambda self: [])
    asked = ("--calibration", photos, "--validation", photos, "--max-drop", "9", "--correct", "none")
    told = quantize("sr-x2", *asked, "--format", "onnx", "-o", tmp_path / "mine", code=1).stdout
    assert "all is slower" in told and "target of 9" in told and "not met" in told
    assert "wrote" not in told and not (tmp_path / "mine").exists()


def test_refuses_what_it_cannot_do(photos: Path, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        return quantize("sr-x2", *arguments, "-o", tmp_path / "mine", code=2).stderr

    assert "needs calibration inputs" in said()
    assert "--max-drop needs --validation" in said("--calibration", photos, "--max-drop", "1")
    assert "without validation data" in said("--calibration", photos, "--metric", "psnr")
    assert "no calibration data at" in said("--calibration", tmp_path / "nowhere")
    assert "'int3' is not one of" in said("--scheme", "int3")
    assert "nowhere" in said("--calibration", photos, "--report", tmp_path / "nowhere" / "page.html")
    assert "ships with edgekit" in quantize("sr-x2", "--calibration", photos, code=2).stderr
    assert not (tmp_path / "mine").exists()
