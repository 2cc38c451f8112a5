"""The emulated boards and their answers, made once for all tests; skips with the reason where they cannot be had."""

from __future__ import annotations

import os

import pytest
from pi import packages
from pi.workshop import Everything, Workshop, all_answers


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    if not os.environ.get("EDGEKIT_PI"):
        pytest.skip("emulated boards: `make test-pi` fetches an arm64 system and wheels for it")
    scratch = tmp_path_factory.mktemp("pi")
    try:
        guest, emulator = packages.system()
        sites = {engine: packages.site(engine, guest) for engine in packages.ENGINES}
    except packages.Unavailable as error:
        pytest.skip(f"no emulated board: {error}")
    try:
        ours = packages.wheel(scratch / "edgekit")
    except packages.Unavailable as error:
        pytest.fail(f"no wheel of edgekit: {error}")
    return Workshop(guest, emulator, sites, ours, scratch).counting()


@pytest.fixture(scope="session")
def answers(workshop: Workshop) -> Everything:
    return all_answers(workshop)


@pytest.fixture
def counted(workshop: Workshop, answers: Everything) -> Everything:
    """The answers, where their instructions were counted."""
    if workshop.uncounted:
        pytest.skip(workshop.uncounted)
    return answers
