"""Shared fixtures: a cache of its own for every run, real data where it is present, small models of every format."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGEKIT_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure() -> None:
    """With the root on sys.path, `runtimes.x` and `edgekit.runtimes.x` would be two modules: run plain `pytest`.

    What is started in the background of a shell ignores Ctrl-C, and so would the programs that tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if any(Path(place or ".").resolve() == ROOT for place in sys.path):
        raise pytest.UsageError("the project's root is on sys.path: run `pytest`, not `python -m pytest`")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's profiles and unpacked bundles."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDGEKIT_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """A test that fails by its random weights fails again."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def with_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes is that of a processor with int8 dot products, whatever this one has."""
    from edgekit import machine, stated

    monkeypatch.setattr(machine, "int8_units", lambda root=None: ("AVX512-VNNI",))
    monkeypatch.setattr(stated, "processor", lambda: "a processor that no manifest knows")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real training and test data; skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at '{DATA}': set EDGEKIT_DATA")
    return DATA


@pytest.fixture
def photo() -> np.ndarray:
    """The photo that ships, 512 × 512 RGB."""
    from edgekit.benchmarks.measurement import sample_photo
    from edgekit.images import read_image

    return read_image(sample_photo())
