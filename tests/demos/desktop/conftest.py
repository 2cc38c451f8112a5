"""A Qt application without a screen, and a window in it; skipped with the reason where Qt does not load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgekit.demos.desktop.window import Window


@pytest.fixture(scope="session")
def application() -> Iterator[object]:
    """The one QApplication of the test process, on Qt's platform without a screen."""
    widgets = pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    before = os.environ.get("QT_QPA_PLATFORM")
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    yield widgets.QApplication.instance() or widgets.QApplication(["edgekit"])
    if before is None:
        del os.environ["QT_QPA_PLATFORM"]
    else:
        os.environ["QT_QPA_PLATFORM"] = before


@pytest.fixture
def window(application: object) -> Iterator[Window]:
    """The program's window, shown, and shut down afterwards."""
    from edgekit.demos.desktop.window import Window

    made = Window()
    made.resize(1000, 700)
    made.show()
    yield made
    made.close()
    made.shut()
