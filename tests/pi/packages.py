"""What an arm64 board would have installed, fetched into a folder of its own: Debian's Python, and wheels for aarch64.

Nothing of this machine is changed and no privilege is needed: apt works on a state of its own inside the folder, with
the sources that this machine's apt has, and packages are unpacked, not installed. Every step is done once and kept, and
a step that was interrupted begins anew.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

PROJECT = Path(__file__).resolve().parents[2]
GUEST = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
EMULATOR = "qemu-user"  # dynamic, not -static: it loads plugins
ENGINES = {"litert": "litert", "onnxruntime": "onnx"}  # and the extras that bring them
MANYLINUX = (17, 24, 26, 27, 28, 31, 34, 35)  # glibc 2.x; Raspberry Pi OS 12 has 2.36
LIMIT_S = 900


class Unavailable(Exception):
    """Something that is needed cannot be had here; says what and why."""


def folder() -> Path:
    """Where all of it is kept, outside the project: $EDGEKIT_PI_CACHE, or the user's cache."""
    return Path(os.environ.get("EDGEKIT_PI_CACHE") or platformdirs.user_cache_path("edgekit-pi"))


def system() -> tuple[Path, Path]:
    """The unpacked arm64 system, and the unpacked emulator for this machine.

    Raises:
        Unavailable: no apt here, or it cannot fetch them.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"the comparison is with x86-64 Linux, and this is {sys.platform} {platform.machine()}")
    for command in ("apt-get", "dpkg-deb"):
        if not shutil.which(command):
            raise Unavailable(f"no {command}: arm64 packages are fetched as Debian has them")
    with _once(folder() / "system", " ".join(GUEST)) as made:
        if made:
            for archive in _fetched(made / "apt"):
                part = made / ("emulator" if archive.name.endswith("_amd64.deb") else "guest")
                _ran("dpkg-deb", "-x", archive, part)
            for other in (made / "emulator/usr/bin").glob("qemu-*"):
                if other.name != "qemu-aarch64":
                    other.unlink()
            if not (made / "guest/lib").exists():  # later releases have /usr/lib alone
                (made / "guest/lib").symlink_to("usr/lib")
            shutil.rmtree(made / "apt")
    return folder() / "system/guest", folder() / "system/emulator"


def python(guest: Path) -> Path:
    """The guest's Python, such as …/usr/bin/python3.11."""
    return sorted((guest / "usr/bin").glob("python3.[0-9]*"))[-1]


def site(engine: str, guest: Path) -> Path:
    """A folder with what `pip install 'edgekit[EXTRA]'` brings on the board, but for edgekit itself.

    Raises:
        Unavailable: pip cannot fetch it.
    """
    project = _project()
    extras = [*project["optional-dependencies"][ENGINES[engine]], *project["optional-dependencies"]["image"]]
    needed = [*project["dependencies"], *(name for name in extras if not name.startswith("edgekit["))]
    version = python(guest).name.removeprefix("python")
    constraints = PROJECT / "constraints.txt"
    key = hashlib.sha256(f"{needed} {version} {constraints.read_text()}".encode()).hexdigest()
    with _once(folder() / f"site-{engine}", key) as made:
        if made:
            platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in MANYLINUX]
            _pip("install", "--target", made / "packages", "--python-version", version, "--implementation", "cp",
                 *platforms, "--platform=manylinux2014_aarch64", "--only-binary=:all:", "-c", constraints, *needed)  # fmt: skip
    return folder() / f"site-{engine}" / "packages"


def wheel(out: Path) -> Path:
    """edgekit's own wheel of the tree as it is, built and unpacked into `out`: fresh each time."""
    listed = _ran("git", "-C", PROJECT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        source = PROJECT / name
        if source.is_file() and not name.startswith(("tests/", "docs/")):
            (out / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out / "source" / name)
    _ran(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
         "--wheel-dir", out / "wheel", out / "source")  # fmt: skip
    (built,) = (out / "wheel").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(out / "packages")
    shutil.rmtree(out / "source")
    return out / "packages"


def _project() -> dict[str, Any]:
    with (PROJECT / "pyproject.toml").open("rb") as file:
        found: dict[str, Any] = tomllib.load(file)["project"]
    return found


def _fetched(state: Path) -> list[Path]:
    """The .debs of the guest and of the emulator, with all that they depend on."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64,amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # of files that are root's own; without effect for others
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Debug::NoLocking": "true",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    options = [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    updated = _ran("apt-get", *options, "update").splitlines()
    try:
        _ran("apt-get", *options, "install", "--yes", "--download-only", *GUEST, f"{EMULATOR}:amd64")
    except Unavailable as error:
        failed = [line.strip() for line in updated if line.startswith(("Err:", "  "))]
        raise Unavailable(f"{error}{'; apt-get update: ' if failed else ''}{' '.join(failed[:2])}") from error
    return sorted((state / "cache/archives").glob("*.deb"))


def _pip(*arguments: object) -> str:
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--no-warn-conflicts")
    return _ran(sys.executable, "-m", "pip", arguments[0], *options, *arguments[1:])


@contextmanager
def _once(place: Path, key: str) -> Iterator[Path | None]:
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


def _ran(*command: object) -> str:
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
