"""What a Raspberry Pi would have installed, and edgekit's commands on it: size, imports, doctor, a photo, a live picture."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from pi.boards import BOARDS, Board
from pi.packages import ENGINES
from pi.workshop import Workshop

from edgekit.images import read_image, write_image

SIZE_LIMIT = 160e6  # bytes of edgekit and one engine, unpacked
NOT_COUNTED = ("numpy", "cv2", "opencv")
LIBRARIES = {"edgekit", "numpy", "msgspec", "platformdirs", "typing_extensions"}  # of `import edgekit`
HEAVY = {
    "asyncio",
    "multiprocessing",
    "http",
    "urllib.request",
    "ssl",
    "xml",
    "sqlite3",
    "unittest",
    "pydoc",
    "ctypes.util",
}
both_boards = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)

IMPORTED = """
import sys, numpy
before = set(sys.modules)
import edgekit
print(*sorted(set(sys.modules) - before))
"""


def size(folders: Iterable[Path]) -> int:
    """Bytes of the files in these folders."""
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_edgekit_and_one_engine_are_small(workshop: Workshop, engine: str) -> None:
    installed = sorted(workshop.sites[engine].iterdir())
    names = " ".join(path.name.lower() for path in installed)
    assert "torch" not in names and "transformers" not in names and "openvino" not in names
    counted = [path for path in installed if path.is_dir() and not path.name.startswith(NOT_COUNTED)]
    taken = size([*counted, workshop.ours])
    print(f"{engine}: {taken / 1e6:.0f} MB")
    assert taken <= SIZE_LIMIT, f"{taken / 1e6:.0f} MB"


def test_importing_edgekit_brings_little_beside_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert packages <= LIBRARIES and not HEAVY & set(modules)


@pytest.mark.slow
@both_boards
def test_doctor_knows_the_board(workshop: Workshop, board: Board) -> None:
    told = json.loads(workshop.board(board, "litert").run("-m", "edgekit.cli", "doctor", "--json"))
    facts, said = told["facts"], " ".join(finding["text"] for finding in told["findings"])
    assert facts["board"] == facts["processor"] == board.title and facts["architecture"] == "aarch64"
    assert facts["int8_units"] == (["Arm dot product"] if board.has_dot_product else [])
    assert facts["temperature_c"] == 61 and facts["throttled"] == "under-voltage since start, throttled since start"
    assert (
        f"{board.title}, 61 °C" in said and "slowed down since its start" in said and "a stronger power supply" in said
    )
    assert "litert" in said and "edgekit[onnx]" in said


@pytest.mark.slow
@both_boards
@pytest.mark.parametrize("engine", ENGINES)
def test_a_photo_is_enlarged_as_here(
    workshop: Workshop, board: Board, engine: str, photo: np.ndarray, tmp_path: Path
) -> None:
    write_image(tmp_path / "photo.png", photo[200:260, 200:264])
    command = ("-m", "edgekit.cli", "run", "sr-x2", tmp_path / "photo.png", "--precision", "int8", "--json", "-o")
    told = json.loads(workshop.board(board, engine).run(*command, tmp_path / "there.png"))
    assert told["placement"]["runtime"] == engine and told["placement"]["precision"] == "int8"
    here = [sys.executable, *map(str, command), str(tmp_path / "here.png"), "--runtime", engine]
    subprocess.run(here, check=True, capture_output=True)
    there, expected = read_image(tmp_path / "there.png"), read_image(tmp_path / "here.png")
    assert there.shape == (120, 128, 3)
    assert np.abs(there.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.slow
@both_boards
def test_a_live_picture_is_enlarged(workshop: Workshop, board: Board, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    workshop.board(board, "litert").run(
        "-m", "edgekit.cli", "live", "--source", "synthetic", "--effect", "upscale", "--size", "64x64", "--view", "null",
        "--seconds", "8", "--report", report,
    )  # fmt: skip
    told = json.loads(report.read_text())
    assert told["frames"] > 0 and (told["engine"], told["precision"]) == ("litert", "int8")
    assert told["machine"]["board"] == board.title
