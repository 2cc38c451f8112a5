"""docs/desktop.md: its program runs, and what it names is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.demos.desktop.display import NEEDS
from edgekit.images import write_image

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "desktop.md").read_text(encoding="utf-8")
PRELUDE = """
import time
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication

def until_shown(*_):
    view, = QApplication.topLevelWidgets()
    end = time.monotonic() + 60
    while view.pixmap().isNull() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)
    print(view.pixmap().width(), view.pixmap().height())

QApplication.exec = until_shown
"""


def test_the_program_on_the_page_runs(tmp_path: Path, photo: np.ndarray) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    write_image(tmp_path / "photo.jpg", photo[:80, :100])
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["200", "160"] and "Traceback" not in done.stderr


def test_what_the_page_names_is_there() -> None:
    for name in re.findall(r"`(\w+\.py|[\w-]+\.spec)`", PAGE):
        assert (ROOT / "demos" / "desktop" / name).is_file() or name == "enlarge.py", name
    assert NEEDS in PAGE.replace("\n", " ")
    assert (ROOT / "docs" / "desktop.jpg").is_file()
