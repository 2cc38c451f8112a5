"""What people install: wheel and sdist build, and the wheel upscales a photo in a venv without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.images import read_image, write_image

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist of a copy of the tracked files, so that nothing untracked is packed by chance."""
    folder = tmp_path_factory.mktemp("build")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "src" / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "src", cwd=folder)
    return folder / "dist"


@pytest.mark.slow
def test_wheel_and_sdist_hold_what_they_must(built: Path) -> None:
    (wheel,), (sdist,) = list(built.glob("*.whl")), list(built.glob("*.tar.gz"))
    names = zipfile.ZipFile(wheel).namelist()
    for path in ("edgekit/zoo/bundles/sr-x2/bundle.json", "edgekit/zoo/bundles/sr-x2/golden/model-image.npy",
                 "edgekit/demos/photos/astronaut.jpg", "edgekit/tasks/upscale.py", "edgekit/py.typed",
                 "edgekit/demos/web/page/index.html", "edgekit/quantization/report/page.html"):  # fmt: skip
        assert path in names
    assert wheel.stat().st_size <= 50e6
    assert not [name for name in names if name.startswith(("tests", "sdk"))]
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/sdk/cli/__init__.py") for name in archive.getnames())


@pytest.mark.slow
def test_the_wheel_upscales_a_photo_without_pytorch(built: Path, tmp_path: Path, photo: np.ndarray) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = next(built.glob("*.whl"))
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(*pip, f"edgekit[onnx] @ file://{wheel}", cwd=tmp_path)
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "torch" not in installed and "onnxruntime" in installed and "openvino" not in installed
    write_image(tmp_path / "photo.png", photo)
    edgekit = tmp_path / "venv" / "bin" / "edgekit"
    answer = json.loads(run(edgekit, "run", "sr-x2", "photo.png", "-o", "large.png", "--json", cwd=tmp_path))
    assert answer["placement"]["runtime"] == "onnxruntime"
    assert read_image(tmp_path / "large.png").shape == (1024, 1024, 3)
    assert "edgekit[openvino]" in run(edgekit, "doctor", cwd=tmp_path)
