"""Runtimes and tasks of other packages: a sound one is one of ours, a broken one is warned of and passed over."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from runtimes.contract import Case, RuntimeContract

import edgekit
from edgekit import choice, registry
from edgekit.bundle import Bundle
from edgekit.cli import main
from edgekit.doctor import findings
from edgekit.errors import InputError, NotInstalled, PluginError
from edgekit.opening import open_session, runtime
from edgekit.session import Model

EXAMPLE = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's package as pip installs it."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    source.mkdir()
    for path in EXAMPLE.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps")
    subprocess.run([*pip, "--no-build-isolation", "--target", folder / "site", source], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))


class Brought:
    """Writes packages that bring an entry point each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, code: str, table: str = "runtimes", package: str = "") -> None:
        module = f"brought_{len(list(self.folder.iterdir()))}_{self.folder.parent.name.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(code)
        info = self.folder / f"{(package or module).replace('-', '_')}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package or module}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[edgekit.{table}]\n{name} = {module}:It\n")


@pytest.fixture
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brought:
    registry.warn_once.cache_clear()
    (tmp_path / "brought").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "brought"))
    return Brought(tmp_path / "brought")


SOUND = """
from edgekit.runtimes.reference import ReferenceRuntime
class It(ReferenceRuntime):
    name = "{name}"
    formats = ("onnx",)
"""
BROKEN = {
    "ImportError": ("import no_such_engine", "No module named 'no_such_engine'"),
    "an error of its own": ("raise OSError('libengine.so: not found')", "OSError: libengine.so: not found"),
    "no such attribute": ("Other = 1", "has no attribute 'It'"),
    "no class": ("It = 3", "no subclass of edgekit.session.Runtime"),
    "another class": ("class It: pass", "no subclass of edgekit.session.Runtime"),
    "half a class": (
        "from edgekit.session import Runtime\nclass It(Runtime):\n    name = 'broken'\n    def version(self): return '1'",
        "lacks devices, open, extra, formats, options",
    ),
    "another name": (SOUND.format(name="other"), "calls itself 'other'"),
}


# A sound one


@pytest.mark.usefixtures("example")
class TestExample(RuntimeContract):
    @pytest.fixture
    def case(self) -> Case:
        image = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
        component = (bundle := Bundle.open("sr-x2")).component()
        variant = next(v for v in component.variants if (v.format, v.precision) == ("onnx", "fp32"))
        with open_session(bundle, "onnxruntime", precision="fp32") as session:
            (expected,) = session.run({component.inputs[0].name: image}).values()
        model = Model(bundle.model_path(variant), "onnx", "fp32", component.inputs, component.outputs)
        return Case("onnx-reference", model, image, expected, "onnx")


@pytest.mark.usefixtures("example")
def test_a_runtime_of_another_package_is_one_of_ours() -> None:
    assert registry.names("runtimes")[-1] == "onnx-reference"
    assert any(d.runtime == "onnx-reference" and d.usable for d in edgekit.devices())
    assert any(f.level == "ok" and f.text.startswith("onnx-reference ") for f in findings())
    with open_session("digits-cnn", "onnx-reference") as session:
        assert session.placement().runtime == "onnx-reference"
    options = choice.candidates(Bundle.open("digits-cnn"), "model", "auto", "auto")
    assert ("onnx-reference", "fp32") in {(engine, variant.precision) for engine, variant in options}
    assert options[0][0] != "onnx-reference"  # after the engines that were measured


def test_a_task_of_another_package_is_loaded_by_its_name(brought: Brought) -> None:
    brought("invert", "from edgekit.tasks.upscale import Upscaler\nclass It(Upscaler):\n    name = 'invert'", "tasks")
    assert registry.find("tasks", "invert").name == "invert"
    assert registry.names("tasks")[-1] == "invert"


# Broken ones


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_runtime_is_warned_of_once_and_passed_over(brought: Brought, kind: str) -> None:
    code, words = BROKEN[kind]
    brought("broken", code, package="edgekit-broken")
    with pytest.warns(RuntimeWarning, match="'broken' of the package edgekit-broken 2.0.*passed over") as warned:
        assert "broken" not in registry.names("runtimes")
    assert len(warned) == 1 and words in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(d.runtime != "broken" for d in edgekit.devices())
        open_session("digits-cnn").close()
    with pytest.raises(PluginError, match="'broken' of the package edgekit-broken 2.0") as refused:
        open_session("digits-cnn", "broken")
    assert words in str(refused.value)
    assert any(f.level == "problem" and words in f.text for f in findings())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("method", ["version", "devices"])
def test_a_runtime_that_fails_when_asked_takes_nothing_down(brought: Brought, method: str) -> None:
    code = SOUND.format(name="failing") + f"    def {method}(self): raise OSError('driver gone')\n"
    brought("failing", code)
    rows = [d for d in edgekit.devices() if d.runtime == "failing"]
    assert rows and (method == "version" or (not rows[0].usable and "driver gone" in rows[0].why))
    assert edgekit.open_session("digits-cnn").placement().runtime != "failing"
    assert method == "devices" or any("driver gone" in f.text for f in findings())
    if method == "version":
        with pytest.raises(NotInstalled, match="failing is broken .OSError: driver gone"):
            open_session("digits-cnn", "failing")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_command_line_lives_with_a_broken_one(brought: Brought) -> None:
    brought("broken", "raise OSError('libengine.so: not found')")
    for verb in ("devices", "doctor"):
        done = CliRunner().invoke(main, [verb])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert "libengine.so" in done.output


def test_the_name_of_one_of_ours_is_not_taken(brought: Brought) -> None:
    brought("onnxruntime", SOUND.format(name="onnxruntime"), package="edgekit-shadow")
    with pytest.warns(RuntimeWarning, match="edgekit-shadow 2.0 has the name of one that edgekit brings"):
        assert registry.names("runtimes").count("onnxruntime") == 1
    assert type(runtime("onnxruntime")).__module__ == "edgekit.runtimes.onnxruntime_"


def test_two_packages_of_one_name_are_told_apart(brought: Brought) -> None:
    brought("twin", SOUND.format(name="twin"), package="edgekit-twin-a")
    brought("twin", SOUND.format(name="twin"), package="edgekit-twin-b")
    with pytest.warns(RuntimeWarning, match="has the name of another package's"):
        assert registry.names("runtimes").count("twin") == 1


def test_a_broken_task_gives_its_error(brought: Brought) -> None:
    brought("paint", "import no_such_engine", "tasks")
    with pytest.warns(RuntimeWarning, match="the task 'paint'"):
        assert "paint" not in registry.names("tasks")
    with pytest.raises(PluginError, match="no_such_engine"):
        registry.find("tasks", "paint")
    with (
        pytest.warns(RuntimeWarning) if False else warnings.catch_warnings(),
        pytest.raises(InputError, match="no task"),
    ):
        registry.find("tasks", "pain")
