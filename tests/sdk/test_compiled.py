"""Kept networks: used only where they are whole and this user's own, bounded, and never an error."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgekit import compiled
from edgekit.bundle import sha256
from edgekit.compiled import Shelf, key_of


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "compiled")


def test_gives_back_what_was_kept(shelf: Shelf) -> None:
    assert shelf.read("a") is None
    shelf.write("a", b"network")
    assert shelf.read("a") == b"network"
    assert (shelf.folder.stat().st_mode & 0o077, (shelf.folder / "a").stat().st_mode & 0o077) == (0, 0)
    shelf.drop("a")
    shelf.drop("a")
    assert shelf.read("a") is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "longer"])
def test_a_damaged_file_is_forgotten(shelf: Shelf, damage: str) -> None:
    shelf.write("a", b"network" * 100)
    path = shelf.folder / "a"
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    path.write_bytes(
        {
            "truncated": whole[:-1],
            "flipped": flipped,
            "empty": b"",
            "foreign": b"not of ours" * 9,
            "longer": whole + b"!",
        }[damage]
    )
    assert shelf.read("a") is None
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_what_others_may_write_to_is_not_read(shelf: Shelf, tmp_path: Path) -> None:
    shelf.write("a", b"network")
    (shelf.folder / "a").chmod(0o666)
    assert shelf.read("a") is None
    (shelf.folder / "a").chmod(0o600)
    shelf.folder.chmod(0o777)
    assert shelf.read("a") is None
    shelf.write("b", b"network")
    assert not (shelf.folder / "b").exists()
    shelf.folder.chmod(0o700)
    assert shelf.read("a") == b"network"
    (shelf.folder / "c").symlink_to(shelf.folder / "a")
    assert shelf.read("c") is None
    (tmp_path / "link").symlink_to(shelf.folder)
    assert Shelf(tmp_path / "link").read("a") is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    shelf = Shelf(tmp_path / "file" / "compiled")
    shelf.write("a", b"network")
    assert shelf.read("a") is None

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiled.os, "replace", full)
    shelf = Shelf(tmp_path / "full")
    shelf.write("a", b"network")
    assert not list(shelf.folder.iterdir())


def test_the_oldest_go_first(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LIMIT", 350)
    for moment, key in enumerate("abc"):
        shelf.write(key, b"0" * 40)
        os.utime(shelf.folder / key, (moment, moment))
    shelf.read("a")  # used now
    shelf.write("d", b"0" * 40)
    assert {p.name for p in shelf.folder.iterdir()} == {"a", "c", "d"}
    monkeypatch.setattr(compiled, "LARGEST", 30)
    shelf.write("e", b"0" * 40)
    assert shelf.read("e") is None


def test_many_writers_at_once_leave_a_whole_file(shelf: Shelf) -> None:
    wrong: list[bytes | None] = []
    contents = [bytes([n]) * 200_000 for n in range(4)]

    def work(content: bytes) -> None:
        for _ in range(10):
            shelf.write("a", content)
            found = shelf.read("a")
            if found not in contents:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(list(shelf.folder.iterdir())) == 1


def test_a_key_depends_on_bytes_and_settings(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    keys = [key_of([one], 1), key_of([other], 1), key_of([one], 2), key_of([one, other], 1)]
    assert len(set(keys)) == 4
    assert key_of([], 1, [sha256(one), sha256(other)]) == keys[3]  # as a manifest states them
    other.write_bytes(b"1")
    assert key_of([other], 1) == keys[0]
