"""edgekit run and edgekit gallery: every family from the shell, bad input, and Ctrl-C."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
from sdk.test_cli import json_of, refused, run

from edgekit import music
from edgekit.images import read_image, write_image
from edgekit.video import VideoReader, VideoWriter

EDGEKIT = Path(sys.executable).parent / "edgekit"
DRAWING = ("digits-gan", "digits-vae", "digits-diffusion")
WRITING = ("shakespeare-gpt", "shakespeare-gru", "shakespeare-cnn")


@pytest.fixture
def photo_file(tmp_path: Path, photo: np.ndarray) -> Path:
    write_image(tmp_path / "photo.png", np.ascontiguousarray(photo[64:192, 160:320]))
    return tmp_path / "photo.png"


@pytest.mark.parametrize("name", DRAWING)
def test_draws_a_sheet_of_a_seed(name: str, tmp_path: Path) -> None:
    sheets = []
    for number in range(2):
        answer = json_of("run", name, "--labels", "3,1,4", "--seed", "7", "-o", tmp_path / f"{number}.png", "--json")
        assert answer["images"] == 3 and not answer["stopped"]
        sheets.append(read_image(tmp_path / f"{number}.png"))
    np.testing.assert_array_equal(*sheets)
    assert sheets[0].shape[1] > 3 * 32


def test_draws_colour_pictures_by_name(tmp_path: Path) -> None:
    result = run("run", "cifar-diffusion", "-n", "2", "--labels", "ship", "--steps", "3", "-o", tmp_path / "s.png")
    assert result.exit_code == 0 and "2 images" in result.stdout, result.output


def test_denoises_in_few_steps(tmp_path: Path) -> None:
    asked = ("run", "digits-diffusion", "-n", "1", "--scheduler", "few-steps", "-o", tmp_path / "s.png")
    assert run(*asked).exit_code == 0


def test_reconstructs_a_picture(photo_file: Path, tmp_path: Path) -> None:
    answer = json_of("run", "digits-vae", photo_file, "-o", tmp_path / "again.png", "--json")
    assert read_image(tmp_path / "again.png").shape == (32, 32, 3)
    assert answer["anomaly_score"] > 0


def test_stylizes_a_photo(photo_file: Path, tmp_path: Path) -> None:
    assert run("run", "style-wave", photo_file, "-o", tmp_path / "wave.jpg").exit_code == 0
    assert read_image(tmp_path / "wave.jpg").shape == (128, 160, 3)


def test_stylizes_a_video(photo: np.ndarray, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10.0) as writer:
        for offset in range(4):
            writer.write(np.ascontiguousarray(photo[offset : offset + 64, :96]))
    answer = json_of("run", "style-udnie", tmp_path / "clip.mp4", "-o", tmp_path / "udnie.mp4", "--json")
    with VideoReader(tmp_path / "udnie.mp4") as reader:
        assert answer["frames"] == 4 == len(list(reader))


def test_a_tune_on_the_screen_is_whole() -> None:
    for seed in range(1, 6):  # of which most have more than 400 characters
        tune = run("run", "folk-gru", "--seed", str(seed)).stdout
        assert tune.rstrip().endswith(("|", ":|", "|]"))


@pytest.mark.parametrize("name", WRITING)
def test_streams_text(name: str) -> None:
    result = run("run", name, "ROMEO:\n", "--max-tokens", "40", "--seed", "1")
    assert result.exit_code == 0 and result.stdout.startswith("ROMEO:\n"), result.output
    assert 1 <= len(result.stdout) - len("ROMEO:\n") <= 41 and "characters a second" in result.stderr
    assert result.stdout == run("run", name, "ROMEO:\n", "--max-tokens", "40", "--seed", "1").stdout


def test_text_ends_before_a_stop_string() -> None:
    def written(*options: str) -> str:
        return run("run", "shakespeare-gru", "ROMEO:\\n", "--max-tokens", "90", "--temperature", "0", *options).stdout

    whole = written()
    lines = whole.split("\n")
    assert written("--stop", "\\n") == f"{lines[0]}\n{lines[1]}\n"
    assert written("--stop", "qqqq", "--stop", " ") == f"{whole.split(' ')[0]}\n"
    assert written("--repetition-penalty", "1.5") != whole


def test_text_goes_to_a_file(tmp_path: Path) -> None:
    result = run("run", "shakespeare-gru", "--max-tokens", "20", "-o", tmp_path / "text.txt")
    assert result.exit_code == 0 and len((tmp_path / "text.txt").read_text()) <= 20
    assert "text.txt" in result.stdout


def test_composes_in_three_forms(tmp_path: Path) -> None:
    for form in ("abc", "mid", "wav"):
        result = run("run", "folk-gru", "--seed", "3", "-o", tmp_path / f"tune.{form}")
        assert result.exit_code == 0 and "bars" in result.stdout, result.output
    assert music.adds_up((tmp_path / "tune.abc").read_text())
    assert (tmp_path / "tune.mid").read_bytes().startswith(b"MThd")
    with wave.open(io.BytesIO((tmp_path / "tune.wav").read_bytes())) as sound:
        assert sound.getnframes() > sound.getframerate()  # more than a second


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digits-gan", "--labels", "giraffe", "-o", "s.png"), "no class 'giraffe': expected one of 0, 1"),
        (("digits-gan", "-n", "0", "-o", "s.png"), "got n=0: expected 1 to"),
        (("digits-gan",), "name its file with -o"),
        (("digits-gan", "photo.png", "-o", "s.png"), "takes no file"),
        (("digits-gan", "--temperature", "1", "-o", "s.png"), "knows no --temperature: expected -n, --labels, --seed"),
        (("digits-gan", "--seed", "-1", "-o", "s.png"), "got seed=-1"),
        (("digits-vae", "--temperature", "-1", "-o", "s.png"), "got temperature=-1"),
        (("digits-diffusion", "--steps", "0", "-o", "s.png"), "got steps=0"),
        (("digits-diffusion", "--steps", "10000", "-o", "s.png"), "got steps=10000"),
        (("digits-diffusion", "--guidance", "-1", "-o", "s.png"), "got guidance=-1"),
        (("digits-diffusion", "--scheduler", "euler", "-o", "s.png"), "no scheduler 'euler': expected one of"),
        (("style-wave", "none.mp4", "-o", "s.mp4"), "none.mp4"),
        (("style-wave", "{photo}", "-o", "s.png", "--strength", "2"), "got strength=2"),
        (("style-mona-lisa", "{photo}", "-o", "s.png"), "no bundle 'style-mona-lisa'"),
        (("shakespeare-gru", "Löwe"), "ö"),
        (("shakespeare-gru", "x" * 200_000), "200,000 characters"),
        (("shakespeare-gru", "--temperature", "-0.5"), "temperature=-0.5"),
        (("shakespeare-gru", "--top-p", "0"), "top_p=0"),
        (("shakespeare-gru", "--max-tokens", "0"), "max_tokens=0"),
        (("shakespeare-gru", "--repetition-penalty", "0"), "repetition_penalty=0"),
        (("shakespeare-gru", "--stop", ""), "got stop=''"),
        (("digits-gan", "--stop", "a", "-o", "s.png"), "knows no --stop"),
        (("folk-gru", "-o", "tune.mp3"), "expected one of the endings .abc, .mid, .wav"),
        (("sr-x2", "-o", "s.png"), "takes a photo, a folder of them, or a video: name its file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_bad_input(
    arguments: tuple[str, ...], words: str, photo_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [photo_file.name if a == "{photo}" else a for a in arguments]
    assert words in refused("run", *given)
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_a_damaged_video(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + os.urandom(500))
    assert "clip.mp4" in refused("run", "style-wave", tmp_path / "clip.mp4", "-o", tmp_path / "out.mp4")


# Ctrl-C


def heed_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would what the tests start there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_text_with_what_is_written() -> None:
    long = [str(EDGEKIT), "run", "shakespeare-gru", "--max-tokens", "100000", "--seed", "1"]
    with subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c) as process:
        assert process.stdout is not None
        begun = process.stdout.read(50)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and len(begun) == 50
    assert b"Traceback" not in errors and re.search(rb"\d+ characters", errors), errors


def test_ctrl_c_keeps_the_images_that_are_done(tmp_path: Path) -> None:
    long = [str(EDGEKIT), "run", "digits-diffusion", "-n", "2000", "--steps", "50", "-o", str(tmp_path / "s.png")]
    with subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_ctrl_c) as process:
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in errors, errors
    if (tmp_path / "s.png").exists():
        assert b"of 2000 images" in said
        assert read_image(tmp_path / "s.png").shape[0] > 32


# The gallery


@pytest.mark.slow
def test_the_gallery_shows_every_bundle(tmp_path: Path) -> None:
    from edgekit.bundle import shipped

    result = run("gallery", tmp_path / "gallery.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "gallery.html").read_text()
    for name in shipped():
        section = page.split(f"id='{name}'")[1].split("</section>")[0]
        assert section.count("<h3>") == 2 and " ms</b>" in section and "class='error'" not in section
    assert "http://" not in page and "https://" not in page.replace("https://www.w3.org", "")


def test_a_gallery_is_a_page(tmp_path: Path) -> None:
    assert "ends in .html" in refused("gallery", tmp_path / "gallery.png")
