"""What PyInstaller asks an installed edgekit for: the folder of its hooks (entry point "pyinstaller40", "hook-dirs")."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """The folder whose hook-NAME.py files PyInstaller runs when a program imports NAME."""
    return [str(Path(__file__).parent)]
