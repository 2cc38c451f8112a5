"""The house: which folder may import which, where PyTorch may be imported, and that none is missing from the wheel."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("runtimes", "exporters", "quantization", "zoo", "benchmarks", "demos")
BELOW = {
    "sdk": set(),
    "runtimes": set(),
    "exporters": {"runtimes"},
    "quantization": {"runtimes", "exporters"},
    "zoo": {"runtimes", "exporters", "quantization"},
    "benchmarks": set(),
    "benchmarks/peers": {"runtimes", "exporters", "quantization"},  # run by hand, on the host
    "demos": {"benchmarks"},
}
TORCH_FOLDERS = {"exporters", "quantization", "zoo", "benchmarks/peers"}


def modules() -> list[Path]:
    return [p for folder in ("sdk", *FLOORS) for p in sorted((ROOT / folder).rglob("*.py"))]


def floor_of(path: Path) -> str:
    """The folder whose rules a module keeps."""
    first, second, *_ = path.relative_to(ROOT).parts
    return f"{first}/{second}" if f"{first}/{second}" in BELOW else first


def module_level_imports(path: Path) -> set[str]:
    """Names of modules imported when this one is, those for type checkers alone left out."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            pending += [*node.body, *node.orelse]
        elif isinstance(node, (ast.Try, ast.With)):
            pending += node.body
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_run_down_only(path: Path) -> None:
    folder = floor_of(path)
    floors = {name.split(".")[1] for name in module_level_imports(path) if name.startswith("edgekit.")} & set(FLOORS)
    assert floors - {folder.partition("/")[0]} <= BELOW[folder]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_stays_on_the_host(path: Path) -> None:
    heavy = {name.split(".")[0] for name in module_level_imports(path)} & {"torch", "torchao", "onnx", "litert_torch"}
    assert not heavy or floor_of(path) in TORCH_FOLDERS


def test_every_folder_is_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {"sdk": "edgekit", **{folder: f"edgekit.{folder}" for folder in FLOORS}}
    found = set()
    for folder, package in places.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inner)))
    assert found == set(settings["packages"])
    assert settings["package-dir"] == {package: folder for folder, package in places.items()}


def test_the_public_api_is_short() -> None:
    assert len((ROOT / "sdk" / "__init__.py").read_text().splitlines()) <= 40
