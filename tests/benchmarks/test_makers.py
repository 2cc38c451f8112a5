"""Peers that write or draw: each served by its own Python, run in turns; one that fails is a row with the reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgekit.benchmarks.peers import diffusion, text
from edgekit.benchmarks.peers.gguf_file import renamed
from edgekit.benchmarks.peers.makers import Measured, Peer, opened, report, taken
from edgekit.errors import EngineError

PEERS = """
import os, time

class Sound:
    packages = ("msgspec", "no-such-package")
    def __init__(self, folder, precision, threads):
        print("what engines print does no harm")
        self.folder, self.runs = folder, 0
    def run(self, count):
        self.runs += 1
        return {"read_s": 2.0, "write_s": 1.0 * (count - 1), "runs": self.runs, "folder": self.folder}

class Faster(Sound):
    def run(self, count):
        return {"read_s": 1.0, "write_s": 0.5 * (count - 1), "text": "abx"}

class Refusing(Sound):
    def __init__(self, **settings):
        raise ValueError("it has no such precision")

class Crashing(Sound):
    def run(self, count):
        os._exit(3)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Measured]:
    place = tmp_path_factory.mktemp("peers")
    (place / "peers.py").write_text(PEERS)
    settings = {"precision": "fp32", "threads": 1}
    peers = [Peer(kind.lower(), "fp32", kind, settings) for kind in ("Sound", "Faster", "Refusing", "Crashing")]
    return taken(place / "peers.py", {p: (Path(sys.executable), place) for p in peers}, 3, {"count": 5})


def test_each_runs_once_a_round_after_one_to_warm_up(rows: list[Measured]) -> None:
    sound, faster, refusing, crashing = rows
    assert [run["runs"] for run in sound.runs] == [2, 3, 2] and len(faster.runs) == 3  # all opened anew for the third
    assert sound.opened["load_s"] >= 0 and sound.opened["versions"]["no-such-package"] == "not installed"
    assert refusing.error == "ValueError: it has no such precision" and not refusing.runs
    assert "exit code 3" in crashing.error


def test_the_tables_say_ratios_and_failures(rows: list[Measured], tmp_path: Path) -> None:
    for spent, row in ((0.2, rows[0]), (0.1, rows[1])):
        assert row.runs[0]["processor_s"] >= 0
        row.runs = [{**run, "processor_s": spent} for run in row.runs]
    told = [text.row_of(row, rows[0], 5, 10) for row in rows]
    assert (
        told[1] | {"read_ratio": 2.0, "write_ratio": 2.0, "prompt_tokens_s": 10.0, "written_tokens_s": 2.0} == told[1]
    )
    lines = text.table(told).splitlines()
    assert lines[3] == "| faster | fp32 | 10 | 2.00 | 2.0 | 2.00 | 2.00 |"
    assert "no such precision" in lines[4]
    report(tmp_path, "text", {}, told[:1], rows[:1], text.table)
    report(tmp_path, "text", {}, told[1:], rows[1:], text.table)  # what is measured with --only is added
    (file,) = tmp_path.glob("*-text.json")
    content = json.loads(file.read_text())
    assert content["machine"] and len(content["raw"]) == 4 and file.with_suffix(".md").read_text() == text.table(told)


def test_images_and_steps() -> None:
    base, other = Measured(_peer("diffusers, eager")), Measured(_peer("edgekit"))
    base.runs = [
        {"image_s": 4.0, "step_s": 0.4, "processor_s": 6.0},
        {"image_s": 8.0, "step_s": 0.8, "processor_s": 6.0},
    ]
    other.runs = [
        {"image_s": 2.0, "step_s": 0.1, "processor_s": 3.0},
        {"image_s": 4.0, "step_s": 0.2, "processor_s": 3.0},
    ]
    told = diffusion.row_of("prompt", other, base)
    assert (told["image_ratio"], told["step_ratio"]) == (2.0, 4.0)
    failed = diffusion.row_of("prompt", Measured(_peer("x"), error="no wheel"), base)
    lines = diffusion.table([told, failed], 10).splitlines()
    assert lines[2] == "| prompt | edgekit | fp32 | 3.00 | 2.00 | 150 | 4.00 | 2.00 |" and "no wheel" in lines[3]


def test_an_environment_that_cannot_be_had_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgekit.benchmarks.peers import makers

    def refused(name: str, place: Path) -> Path:
        raise EngineError(f"{name} cannot be installed: no wheel")

    monkeypatch.setattr(makers, "python_of", refused)
    peer = _peer("x")
    ready, failed = opened([("bundle", peer)], tmp_path, tmp_path, lambda *_: tmp_path)
    assert not ready and failed[0].peer is peer and "no wheel" in failed[0].error


def test_every_peer_is_listed_once() -> None:
    for listed in (text.peers(2), diffusion.peers("prompt", 2), diffusion.peers("pixels", 2)):
        names = [(peer.name, peer.precision) for _, peer in listed]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("transformer.h.3.attn.c_attn.weight", ("blk.3.attn_qkv.weight", True)),
        ("transformer.h.11.ln_2.weight", ("blk.11.ffn_norm.weight", False)),
        ("h.0.mlp.c_proj.bias", ("blk.0.ffn_down.bias", False)),
        ("transformer.wte.weight", ("token_embd.weight", False)),
        ("ln_f.bias", ("output_norm.bias", False)),
    ],
)
def test_names_of_tensors_in_gguf(name: str, wanted: tuple[str, bool]) -> None:
    assert renamed(name) == wanted


def _peer(name: str) -> Peer:
    return Peer(name, "fp32", "Sound", {})
