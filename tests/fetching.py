"""What a test fetches and keeps: Debian packages unpacked into a folder, and virtual environments, none of them installed.

Nothing of this machine is changed and no privilege is needed: apt works on a state of its own inside the folder, with
the sources that this machine's apt has or with those given. Every step is done once and kept, and a step that was
interrupted begins anew.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONSTRAINTS = PROJECT / "constraints.txt"
LIMIT_S = 900


class Unavailable(Exception):
    """Something that is needed cannot be had here; says what and why."""


@dataclass(frozen=True)
class Wanted:
    """Debian packages for some architectures, native first; `sources` are lines for apt, or this machine's own."""

    packages: tuple[str, ...]
    architectures: tuple[str, ...]
    release: str = ""
    sources: tuple[str, ...] = ()


def debs(wanted: Wanted, state: Path) -> list[Path]:
    """The .debs of what is wanted and of all that they depend on, downloaded below `state`.

    Raises:
        Unavailable: no apt here, or it cannot fetch them.
    """
    for command in ("apt-get", "dpkg-deb"):
        if not shutil.which(command):
            raise Unavailable(f"no {command}: packages are fetched as Debian has them")
    for name in ("state/lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    options = [part for key, value in _apt(wanted, state).items() for part in ("-o", f"{key}={value}")]
    updated = ran("apt-get", *options, "update").splitlines()
    try:
        ran("apt-get", *options, "install", "--yes", "--download-only", *wanted.packages)
    except Unavailable as error:
        failed = [line.strip() for line in updated if line.startswith(("Err:", "  "))]
        raise Unavailable(f"{error}{'; apt-get update: ' if failed else ''}{' '.join(failed[:2])}") from error
    return sorted((state / "cache/archives").glob("*.deb"))


def _apt(wanted: Wanted, state: Path) -> Mapping[str, object]:
    settings: dict[str, object] = {
        "APT::Architecture": wanted.architectures[0],
        "APT::Architectures": ",".join(wanted.architectures),
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # of files that are root's own; without effect for others
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Debug::NoLocking": "true",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    if wanted.release:
        settings["APT::Default-Release"] = wanted.release
    if wanted.sources:
        (state / "sources.list").write_text("\n".join(wanted.sources) + "\n")
        settings |= {"Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "/dev/null"}
    return settings


def unpack(archive: Path, folder: Path) -> None:
    ran("dpkg-deb", "-x", archive, folder)


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these, pinned where constraints.txt pins them and they do not.

    Raises:
        Unavailable: pip cannot fetch them.
    """
    key = hashlib.sha256(f"{requirements} {sys.version} {CONSTRAINTS.read_text()}".encode()).hexdigest()
    with once(folder, key) as made:
        if made:
            named = {part.partition("==")[0].lower() for part in requirements}
            pins = [
                line for line in CONSTRAINTS.read_text().splitlines() if line.partition("==")[0].lower() not in named
            ]
            (made / "constraints.txt").write_text("\n".join(pins) + "\n")
            ran(sys.executable, "-m", "venv", "--without-pip", made)
            pip("--python", made / "bin/python", "install", "-c", made / "constraints.txt", *requirements)
    return folder / "bin/python"


def pip(*arguments: object) -> str:
    options = ("--quiet", "--disable-pip-version-check", "--no-input")
    return ran(sys.executable, "-m", "pip", *options, *arguments)


@contextmanager
def once(place: Path, key: str) -> Iterator[Path | None]:
    """A folder to fill, which becomes `place` when it is full; None where `place` has this key already."""
    if (place / "key").is_file() and (place / "key").read_text() == key:
        yield None
        return
    filling = place.with_name(f"{place.name}.part")
    shutil.rmtree(filling, ignore_errors=True)
    filling.mkdir(parents=True)
    yield filling
    (filling / "key").write_text(key)
    shutil.rmtree(place, ignore_errors=True)
    filling.rename(place)


def ran(*command: object) -> str:
    """What a command printed.

    Raises:
        Unavailable: it failed, or did not end.
    """
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"`{words[0]}` gave no answer within {LIMIT_S} s") from error
    if done.returncode:
        raise Unavailable(f"`{' '.join(words[:4])} …` failed: {_reason(done.stderr) or done.returncode}")
    return done.stdout


def _reason(said: str) -> str:
    """The lines that begin with an error, as apt, pip and git write them, else the last ones."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "; ".join([line for line in lines if line.lower().startswith(("e:", "error", "fatal"))][:3] or lines[-3:])
