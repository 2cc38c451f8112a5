"""Environments with one engine each, and Mesa's software Vulkan; skips with the reason where they cannot be had."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from devices import packages
from devices.workshop import Guest
from fetching import Unavailable

Guests = Callable[..., Guest]


@pytest.fixture(scope="session")
def fetched() -> None:
    if not os.environ.get("EDGEKIT_DEVICES"):
        pytest.skip("engines beside the usual ones: `make test-devices` fetches them")


@pytest.fixture(scope="session")
def mesa(fetched: None) -> dict[str, str]:
    """The variables that show a program Mesa's Vulkan on the processor: a GPU in software."""
    try:
        return packages.mesa()
    except Unavailable as error:
        pytest.skip(f"no software Vulkan: {error}")


@pytest.fixture(scope="session")
def guests(fetched: None, tmp_path_factory: pytest.TempPathFactory) -> Guests:
    """guests("onnxruntime-webgpu", "onnxruntime-webgpu==1.27.0", variables=mesa): a Python with these packages."""

    def guest(name: str, *requirements: str, variables: dict[str, str] | None = None) -> Guest:
        try:
            python = packages.engine(name, requirements)
        except Unavailable as error:
            pytest.skip(f"no {name}: {error}")
        return Guest(python, tmp_path_factory.mktemp(name), variables or {})

    return guest
