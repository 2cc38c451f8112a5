"""Programs frozen with PyInstaller, by the hooks that an installed edgekit brings: they run without Python, and give the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import registry
from edgekit.images import read_image, write_image
from edgekit.opening import runtime

pytest.importorskip("PyInstaller", reason="freezing needs PyInstaller: pip install pyinstaller")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import sys
import edgekit
from edgekit.images import read_image, write_image

with edgekit.load("sr-x2", sys.argv[3], isolate=sys.argv[4:] == ["isolated"]) as upscale:
    write_image(sys.argv[2], upscale(read_image(sys.argv[1])))
    print(upscale.placement().runtime)
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edgekit as a wheel installs it: PyInstaller does not see through an editable install."""
    folder = tmp_path_factory.mktemp("installed")
    for name in run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "src" / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    run(*pip, "--no-build-isolation", "--target", folder / "site", folder / "src", cwd=folder)
    return folder / "site"


def frozen(installed: Path, folder: Path, *arguments: object) -> Path:
    """PyInstaller's folder of programs."""
    run(sys.executable, "-m", "PyInstaller", "--log-level", "WARN", *arguments, cwd=folder, PYTHONPATH=str(installed))
    return folder / "dist"


def test_a_script_of_somebody_else_freezes_without_a_word_about_edgekit(
    installed: Path, tmp_path: Path, photo: np.ndarray
) -> None:
    (tmp_path / "enlarge.py").write_text(SCRIPT)
    write_image(tmp_path / "a.png", photo[:90, :120])
    program = frozen(installed, tmp_path, "enlarge.py") / "enlarge" / "enlarge"
    engines = [name for name in registry.device_runtimes() if runtime(name).installed()]
    assert engines
    for engine in engines:
        said = run(program, "a.png", f"{engine}.png", engine, cwd=tmp_path, PATH="/nowhere")
        assert said.strip() == engine
        expected = edgekit.load("sr-x2", engine)(photo[:90, :120])
        np.testing.assert_array_equal(read_image(tmp_path / f"{engine}.png"), expected)
    said = run(program, "a.png", "isolated.png", engines[-1], "isolated", cwd=tmp_path, PATH="/nowhere")
    assert said.strip() == engines[-1]  # in a process of its own, which is the same program
    np.testing.assert_array_equal(read_image(tmp_path / "isolated.png"), expected)
    packages = {path.name for path in (program.parent / "_internal").iterdir()}
    assert not packages & {"torch", "transformers", "jaxlib", "onnx", "litert_torch", "scipy"}


def test_the_desktop_program_freezes_by_its_spec(installed: Path, tmp_path: Path, photo: np.ndarray) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    engines = [name for name in registry.device_runtimes() if runtime(name).installed()]
    assert "onnxruntime" in engines
    spec = installed / "edgekit" / "demos" / "desktop" / "edgekit-desktop.spec"
    without = [part for name in ("openvino", "ai_edge_litert") for part in ("--without", name)]
    program = frozen(installed, tmp_path, spec, "--", *without) / "edgekit-desktop" / "edgekit-desktop"
    write_image(tmp_path / "a.png", photo)
    for bundle in ("sr-x2", "style-wave"):
        said = run(program, "a.png", "--bundle", bundle, "--save", f"{bundle}.png", cwd=tmp_path, QT_QPA_PLATFORM="offscreen")  # fmt: skip
        ran = re.search(rf"{bundle}   ·   onnxruntime (int8|fp32) on cpu", said)  # as this processor is better at
        assert ran is not None
        expected = edgekit.load(bundle, "onnxruntime", precision=ran[1])(photo)
        np.testing.assert_array_equal(read_image(tmp_path / f"{bundle}.png"), expected)
    carried = {path.name for path in (program.parent / "_internal" / "edgekit" / "zoo" / "bundles").iterdir()}
    assert carried == {"sr-x2", "sr-x4", "style-wave", "style-scream", "style-shipwreck", "style-udnie"}
    assert not (program.parent / "_internal" / "openvino").exists()
