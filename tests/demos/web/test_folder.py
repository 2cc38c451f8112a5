"""`edgekit web`: what lies in the folder, what it refuses, and that a stranger's folder is never replaced."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgekit.bundle import Bundle, sha256, shipped
from edgekit.cli import main
from edgekit.demos.web import engine, folder, npm
from edgekit.errors import BundleError, DeviceUnavailable, HashMismatch, InputError, NotInstalled


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the npm package, unpacked, whose digests are the pinned ones for the length of a test."""
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    kinds: dict[str, Any] = {}
    for kind, files in engine.KINDS.items():
        for file in files:
            (dist / file.name).write_text(f"{kind} {file.name}")
        kinds[kind] = tuple(
            replace(f, bytes=(dist / f.name).stat().st_size, sha256=sha256(dist / f.name)) for f in files
        )
    monkeypatch.setattr(engine, "KINDS", kinds)
    monkeypatch.setattr(engine, "FILES", tuple(file for files in kinds.values() for file in files))
    return tmp_path / "package"


def packed(package: Path) -> Path:
    path = package.with_suffix(".tgz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(package, "package")
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["web", *map(str, arguments)])


def test_the_folder_is_whole_and_says_what_is_in_it(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run("style-wave", out, "--ort", package, "--json")
    assert answer.exit_code == 0, answer.output
    facts = json.loads((out / folder.FACTS).read_text())
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found == {entry["path"] for entry in facts["files"]} | {folder.FACTS}
    assert {"index.html", "page.js", "worker.js", "isolate.js", "sample.jpg", "ort/ort.wasm.min.js"} <= found
    assert not [name for name in found if name.endswith(".mjs") or "asyncify" in name]
    for entry in facts["files"]:
        data = (out / entry["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    settings = Bundle.open("style-wave").manifest.task.settings  # type: ignore[union-attr]
    assert facts["settings"] == settings and facts["licence"] == "Apache-2.0" and facts["least"] == [256, 336]
    assert [v["precision"] for v in facts["variants"]] == ["int8", "fp32"]
    assert json.loads(answer.output)["bytes"] == sum(entry["bytes"] for entry in facts["files"])


def test_options_send_less_or_more(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("sr-x2", out, "--ort", packed(package), "--precision", "fp32", "--webgpu").exit_code == 0
    facts = json.loads((out / folder.FACTS).read_text())
    assert [v["precision"] for v in facts["variants"]] == ["fp32"] and set(facts["engine"]["kinds"]) == {
        "wasm",
        "webgpu",
    }
    assert all((out / path).is_file() for paths in facts["engine"]["kinds"].values() for path in paths)
    assert run("sr-x4", out, "--ort", package).exit_code == 0  # one of its own is replaced whole
    assert json.loads((out / folder.FACTS).read_text())["name"] == "sr-x4"
    assert not (out / "ort" / "ort.webgpu.min.js").exists()


def test_a_strangers_folder_stays_as_it_is(package: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    answer = run("sr-x2", tmp_path / "mine", "--ort", package)
    assert answer.exit_code == 2 and "name a new folder" in answer.output.replace("\n", " ")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["index.html"]
    bundle = Bundle.open("sr-x2")
    with pytest.raises(BundleError):
        folder.write("sr-x2", bundle.folder, package / "dist")
    assert bundle.check_files() > 0


def test_nothing_is_left_of_a_failed_writing(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> list[Path]:
        raise OSError("the disk is full")

    monkeypatch.setattr(engine, "copy", fail)
    with pytest.raises(OSError, match="disk"):
        folder.write("sr-x2", tmp_path / "out", package / "dist")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("name", sorted(set(shipped()) - {"sr-x2", "sr-x4"}))
def test_each_task_is_done_or_refused_by_name(name: str, tmp_path: Path) -> None:
    bundle = Bundle.open(name)
    assert bundle.manifest.task is not None
    if bundle.manifest.task.name in folder.TASKS:
        folder.check(bundle, tmp_path / "out")
    else:
        with pytest.raises(InputError, match=f"{name} is a bundle of the task .* the page does upscale"):
            folder.check(bundle, tmp_path / "out")


def test_a_precision_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="width in fp16 for the page: it has .*int8"):
        folder.check(Bundle.open("sr-x2"), tmp_path / "out", "fp16")


def test_the_engine_is_fetched_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, fetched = packed(package).read_bytes(), []

    def fetch(archive: npm.Archive, out: Path, address: str, progress: Any) -> None:
        fetched.append(address)
        out.write_bytes(data)

    monkeypatch.setattr(npm, "fetch", fetch)
    first = engine.found(address="https://npm.test")
    assert engine.found(address="https://npm.test") == first and fetched == ["https://npm.test/"]
    (first / "ort.wasm.min.mjs").write_text("damaged")
    assert engine.found(address="https://npm.test") == first and len(fetched) == 2
    assert sorted(p.name for p in first.parent.iterdir()) == [first.name]


def test_what_is_no_engine_says_how_to_get_one(package: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="npm pack onnxruntime-web@"):
        engine.found(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no ort.wasm.min.mjs"):
        engine.found(tmp_path / "empty")
    (tmp_path / "no.tgz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a readable .tgz"):
        engine.found(tmp_path / "no.tgz")
    (package / "dist" / "ort.wasm.min.mjs").write_text("another version")
    for place in (package, packed(package)):
        with pytest.raises(HashMismatch, match="ort.wasm.min.mjs.* is not that of"):
            engine.found(place)
    with pytest.raises(NotInstalled, match=r"cannot be fetched.*--ort onnxruntime-web-"):
        engine.found(address="http://127.0.0.1:1/")
