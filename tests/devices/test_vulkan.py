"""Vulkan's adapters, told for what they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from devices.workshop import Guest

from edgekit.runtimes import vulkan

PROGRAM = "from edgekit.runtimes import vulkan; print(*(f'{a.name}|{a.kind}' for a in vulkan.adapters()), sep='\\n')"


def test_mesa_on_the_processor_is_software(mesa: dict[str, str], tmp_path: Path) -> None:
    told = Guest(Path(sys.executable), tmp_path, mesa).said("-c", PROGRAM).splitlines()
    assert told and all(line.startswith("llvmpipe") and line.endswith("|software") for line in told)


def test_no_loader_is_no_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vulkan.LOADERS, sys.platform, "libvulkan-of-no-machine.so")
    assert vulkan.adapters() == []
