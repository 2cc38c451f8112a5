"""Programs in a Python of their own, which sees this tree's edgekit, and what they print."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fetching import PROJECT

FOLDERS = ("runtimes", "exporters", "quantization", "zoo", "benchmarks", "demos")
LIMIT_S = 600  # a first run compiles every shader


@dataclass(frozen=True)
class Guest:
    """An environment's Python, and the variables that show it a device."""

    python: Path
    scratch: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def run(self, program: Path, *arguments: object) -> list[dict[str, Any]]:
        """The lines of JSON that a program prints; fails the test with what it said where it fails."""
        return [json.loads(line) for line in self.said(program, *arguments).splitlines() if line.startswith("{")]

    def said(self, *arguments: object) -> str:
        """What Python prints, called with these."""
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            env=os.environ | self.variables | {"PYTHONPATH": str(tree(self.scratch / "tree")), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            cwd=self.scratch,
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-3000:]}"
        return done.stdout


def tree(folder: Path) -> Path:
    """A folder to import edgekit from: links to this tree's own files."""
    package = folder / "edgekit"
    package.mkdir(parents=True, exist_ok=True)
    for source in (*(PROJECT / "sdk").iterdir(), *(PROJECT / name for name in FOLDERS)):
        link = package / source.name
        if not (link.is_symlink() and link.resolve() == source.resolve()):
            link.unlink(missing_ok=True)
            link.symlink_to(source)
    return folder
