"""The command line: help with examples, answers in JSON, and errors of one line with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sdk.doubles import DOUBLING, INPUT, OUTPUT, edit_manifest, replace_file, write_double

from edgekit.bundle import Bundle, find, shipped
from edgekit.cli import main
from edgekit.errors import BundleNotFound, EdgekitError
from edgekit.images import read_image, write_image
from edgekit.runtimes.reference import Function

DOUBLE = ("--runtime", "reference", "--precision", "fp32")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def json_of(*arguments: str | Path, code: int = 0) -> Any:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def refused(*arguments: str | Path) -> str:
    """The one line that a user's error gives."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), f"{result.output}\n{result.exception!r}"
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def photo_file(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    write_image(path, np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    return path


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return write_double(tmp_path / "double").folder


# Help


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_helps_with_an_example(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    described, _, example = result.output.partition("Example:")
    assert example.split()[:2] == ["edgekit", name]
    assert [word for word in example.split() if word.startswith("-") and word not in described] == []


def test_help_and_version() -> None:
    assert "edgekit run sr-x2" in run("-h").output
    assert "0.1.0" in run("--version").output


def test_the_console_script_answers() -> None:
    script = Path(sys.executable).parent / "edgekit"
    done = subprocess.run([script, "zoo", "--json"], capture_output=True, text=True, check=True)
    assert [row["name"] for row in json.loads(done.stdout)] == sorted(shipped())


def test_the_console_script_refuses_in_one_line(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "edgekit"
    done = subprocess.run([script, "verify", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


# JSON


def test_zoo_in_json() -> None:
    rows = json_of("zoo", "--json")
    assert [row["name"] for row in rows] == sorted(shipped())
    for row in rows:
        assert {"name", "task", "summary", "formats", "precisions", "quality", "bytes"} <= set(row)
        assert set(row["formats"]) >= {"onnx", "tflite"}
        assert set(row["precisions"]) >= {"fp32", "int8"}


def test_devices_in_json() -> None:
    rows = json_of("devices", "--json")
    assert all({"runtime", "name", "title", "precisions", "usable", "why"} <= set(row) for row in rows)
    assert {row["runtime"] for row in rows} >= {"openvino", "onnxruntime", "litert", "torch"}


@pytest.mark.parametrize("columns", [80, 120])
def test_devices_lose_no_word_in_a_terminal(columns: int) -> None:
    environment = {**os.environ, "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "edgekit.cli", "devices"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True).stdout
    assert max(map(len, told.splitlines())) <= columns
    words = " ".join(told.split())
    for row in json_of("devices", "--json"):
        if row["runtime"] != "reference":
            assert row["title"] in words
            assert all(word in words for word in f"{row['why']} {row['remedy']}".split())


def test_devices_in_json_say_what_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (row,) = (row for row in json_of("devices", "--json") if row["runtime"] == "openvino")
    assert not row["usable"]
    assert "pip install 'edgekit[openvino]'" in row["why"]


def test_verify_in_json(double: Path) -> None:
    answer = json_of("verify", double, "--json")
    assert (answer["bundle"], answer["ok"]) == ("double", True)
    (verdict,) = answer["verdicts"]
    assert verdict == {"component": "model", "runtime": "reference", "variant": "reference fp32", "ok": True, "max_error": 0.0,
                       "note": verdict["note"]}  # fmt: skip


def test_verify_of_wrong_answers_gives_exit_code_1(double: Path) -> None:
    replace_file(double, "model.json", msgspec.json.encode(msgspec.structs.replace(DOUBLING, offset=0.5)))
    answer = json_of("verify", double, "--json", code=1)
    assert (answer["ok"], answer["verdicts"][0]["ok"]) == (False, False)
    assert "wrong" in run("verify", double).output


def test_run_in_json(double: Path, photo_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "large.png"
    answer = json_of("run", double, photo_file, "-o", out, *DOUBLE, "--json")
    assert (answer["out"], answer["shape"], answer["scale"]) == (str(out), [40, 60, 3], 2)
    assert {"name", "task", "why", "seconds", "tile_sizes", "placement"} <= set(answer)
    assert answer["placement"]["runtime"] == "reference"
    image = read_image(photo_file)
    np.testing.assert_array_equal(read_image(out), image.repeat(2, axis=0).repeat(2, axis=1))


def test_doctor_in_json() -> None:
    answer = json_of("doctor", "--json")
    assert {"processor", "cores", "int8_units", "packages"} <= set(answer["facts"])
    assert {f["level"] for f in answer["findings"]} <= {"ok", "note", "problem"}
    assert any(f["text"].startswith("openvino ") for f in answer["findings"])


# Tables and lines for people


@pytest.mark.parametrize("name", ["zoo", "devices", "doctor"])
def test_tables_are_printed(name: str) -> None:
    result = run(name)
    assert result.exit_code == 0 or (name == "doctor" and "problem" in result.output)
    assert result.output.strip()


def test_run_says_what_ran_where(photo_file: Path, tmp_path: Path) -> None:
    result = run("run", "sr-x2", photo_file, "-o", tmp_path / "large.jpg", "--runtime", "onnxruntime", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert "(30 × 20)" in result.stdout
    assert "(60 × 40)" in result.stdout
    assert "on onnxruntime cpu" in result.stdout
    assert read_image(tmp_path / "large.jpg").shape == (40, 60, 3)


# Errors


@pytest.mark.parametrize("out", [("-o", "out.png"), ()], ids=["named", "not named"])
def test_a_missing_image_is_told_first(double: Path, tmp_path: Path, out: tuple[str, ...]) -> None:
    assert "there is no file" in refused("run", double, tmp_path / "none.png", *out, *DOUBLE)


def test_a_file_that_is_no_image(double: Path, tmp_path: Path) -> None:
    (tmp_path / "text[1].png").write_text("no image")
    line = refused("run", double, tmp_path / "text[1].png", "-o", tmp_path / "out.png", *DOUBLE)
    assert "text[1].png" in line
    assert "is not an image" in line


@pytest.mark.parametrize("name", ["run", "verify", "bench", "tune"])
def test_a_missing_bundle(name: str, photo_file: Path, tmp_path: Path) -> None:
    extra = (photo_file, "-o", tmp_path / "out.png") if name == "run" else ()
    line = refused(name, "no-such-bundle", *extra)
    assert "no bundle 'no-such-bundle'" in line
    assert "sr-x2" in line


@pytest.mark.parametrize("name", ["run", "verify"])
def test_a_bundle_with_a_changed_byte(name: str, photo_file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(find("sr-x2"), tmp_path / "changed")
    data = bytearray((folder / "model-fp32.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model-fp32.onnx").write_bytes(data)
    extra = (photo_file, "-o", tmp_path / "out.png", "--runtime", "onnxruntime", "--precision", "fp32")
    line = refused(name, folder, *(extra if name == "run" else ()))
    assert "model-fp32.onnx" in line
    assert "SHA-256" in line
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("size", ["640", "640x", "x360", "0x360", "640x0", "-1x5", "axb", "640x360x3", "6.5x3", ""])
@pytest.mark.parametrize("name", ["bench", "tune"])
def test_a_bad_size(name: str, size: str) -> None:
    assert f"got --size '{size}': expected WIDTHxHEIGHT" in refused(name, "sr-x2", f"--size={size}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--runtime", "tensorrt"), "no runtime 'tensorrt': expected one of openvino"),
        (("--precision", "int3"), "no int3 file"),
        (("--device", "npu:3", "--runtime", "onnxruntime"), "no npu:3 here"),
        (("--runtime", "onnxruntime", "--precision", "int8-dynamic"), "no int8-dynamic file"),
    ],
)
def test_what_cannot_be_had(photo_file: Path, tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    assert words in refused("run", "sr-x2", photo_file, "-o", tmp_path / "out.png", *options)
    assert not (tmp_path / "out.png").exists()


def test_a_missing_engine(photo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refused("run", "sr-x2", photo_file, "-o", tmp_path / "out.png", "--runtime", "onnxruntime")
    assert "pip install 'edgekit[onnx]'" in line


@pytest.mark.parametrize("arguments", [("fly",), ("run",), ("zoo", "--speed")])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output


def test_output_files_that_cannot_be_written(tmp_path: Path) -> None:
    case = ("--runtime", "onnxruntime", "--precision", "fp32", "--size", "8x8")
    measured = ("bench", "sr-x2", *case, "--rounds", "1", "--seconds", "0.01")
    for option in ("--json", "--md", "--html"):
        assert "nowhere" in refused(*measured, option, tmp_path / "nowhere" / "report")


def test_debug_raises_the_error_itself(tmp_path: Path) -> None:
    result = run("--debug", "verify", tmp_path / "nowhere")
    assert isinstance(result.exception, EdgekitError)
    assert "nowhere" in str(result.exception)


def test_a_manifest_without_golden_values_is_no_traceback(double: Path) -> None:
    edit_manifest(double, lambda m: m["components"]["model"].pop("golden"))
    result = run("verify", double)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)


@pytest.mark.parametrize("out", ["out.docx", "out", "nowhere/out.png"])
def test_a_failed_write_leaves_no_file(double: Path, photo_file: Path, tmp_path: Path, out: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert "cannot write" in refused("run", double, photo_file, "-o", tmp_path / out, *DOUBLE)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_engine_that_fails_leaves_the_older_file(tmp_path: Path, photo_file: Path) -> None:
    failing = write_double(tmp_path / "failing", Function((INPUT,), (OUTPUT,), fail="on purpose"))
    (tmp_path / "out.png").write_bytes(b"older")
    line = refused("run", failing.folder, photo_file, "-o", tmp_path / "out.png", *DOUBLE)
    assert "reference failed: on purpose" in line
    assert (tmp_path / "out.png").read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["failing", "out.png", "photo.png"]


def test_a_packed_bundle_runs_like_its_folder(double: Path, photo_file: Path, tmp_path: Path) -> None:
    archive = Bundle.open(double).pack(tmp_path / "double.zip")
    for number, source in enumerate((double, archive)):
        assert run("run", source, photo_file, "-o", tmp_path / f"{number}.png", *DOUBLE).exit_code == 0
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_an_upscaler_needs_a_file_to_write(photo_file: Path) -> None:
    assert "name its file with -o" in refused("run", "sr-x2", photo_file)


def test_names_with_brackets_are_printed_as_they_are(photo: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "q[b].png", np.ascontiguousarray(photo[:32, :32]))
    result = run("run", "sr-x2", tmp_path / "q[b].png", "-o", tmp_path / "p[red].png")
    assert result.exit_code == 0 and "p[red].png" in result.output and "q[b].png" in result.output


def test_debug_is_known_after_the_command_too(tmp_path: Path) -> None:
    result = run("run", "nothing", tmp_path / "a.png", "-o", tmp_path / "b.png", "--debug")
    assert isinstance(result.exception, BundleNotFound)


def test_alpha_is_not_dropped_in_silence(photo: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.dstack([photo[:32, :32], photo[:32, :32, 0]]))
    assert "JPEG has no alpha" in refused("run", "sr-x2", tmp_path / "a.png", "-o", tmp_path / "b.jpg")
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize("arguments", [("export", "a.py:b", "--input", "x=1x3", "-o", "c"), ("train", "sr-x2", "--data", ".", "-o", "c"),
                                       ("quantize", "sr-x2", "--calibration", ".")])  # fmt: skip
def test_the_hosts_commands_name_what_is_missing(arguments: tuple[str, ...]) -> None:
    code = "import sys; sys.modules['torch'] = None; from edgekit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "needs the package 'torch': pip install 'edgekit[export]'" in done.stderr
