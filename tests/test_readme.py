"""Every block of the README runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle, shipped
from edgekit.images import read_image, write_image
from edgekit.manifest import Quality

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


PAGES = "".join(
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("export.md", "devices.md", "robustness.md")
)


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    "code", blocks("python") + blocks("python", PAGES), ids=lambda code: code.splitlines()[-1][:40]
)
def test_python_blocks_run(code: str, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "photo.jpg", photo)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if "large.png" in code:
        assert read_image(tmp_path / "large.png").shape == (1024, 1024, 3)


@pytest.mark.parametrize("line", [line for block in blocks("shell") for line in block.strip().splitlines()])
def test_shell_lines_run(line: str, tmp_path: Path, photo: np.ndarray) -> None:
    write_image(tmp_path / "photo.jpg", photo)
    done = subprocess.run(f"{BIN}/{line}", shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_named_commands_and_files_exist() -> None:
    from edgekit.cli import COMMANDS

    for name in re.findall(r"`edgekit (\w+)", TEXT):
        assert name in COMMANDS
    for target in re.findall(r"make (\w+)", TEXT):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for path in re.findall(r"\]\(([\w./]+)\)", TEXT):
        assert (ROOT / path).exists(), path


def test_the_table_says_what_the_bundles_say() -> None:
    rows = {row.split("`")[1]: row for row in TEXT.splitlines() if row.startswith("| `")}
    assert set(rows) == set(shipped())
    for name, row in rows.items():
        bundle = Bundle.open(name)
        variants = [v for component in bundle.manifest.components.values() for v in component.variants]
        worst = {
            precision: str(max((v.quality for v in variants if v.quality and v.precision == precision), key=drop))
            for precision in ("fp32", "int8")
        }
        assert worst["fp32"] in row and f"| {worst['int8'].split()[0]} |" in row, (name, worst)
        assert f"{bundle.manifest.provenance['parameters']:,}" in row


def test_all_that_ships_fits_the_budget() -> None:
    sizes = {name: sum(e.bytes for e in Bundle.open(name).manifest.file_entries()) for name in shipped()}
    assert sum(sizes.values()) <= 60e6, sizes


def drop(quality: Quality) -> float:
    return quality.drop
