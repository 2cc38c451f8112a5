"""What an arm64 board would have installed, fetched into a folder of its own: Debian's Python, and wheels for aarch64.

Nothing of this machine is changed and no privilege is needed: packages are unpacked, not installed, and kept.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import platformdirs
from fetching import CONSTRAINTS, PROJECT, Unavailable, Wanted, debs, once, pip, ran, unpack

GUEST = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "libgomp1")
EMULATOR = "qemu-user"  # dynamic, not -static: it loads plugins
ENGINES = {"litert": "litert", "onnxruntime": "onnx"}  # and the extras that bring them
MANYLINUX = (17, 24, 26, 27, 28, 31, 34, 35)  # glibc 2.x; Raspberry Pi OS 12 has 2.36


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
    with once(folder() / "system", " ".join(GUEST)) as made:
        if made:
            wanted = Wanted((*GUEST, f"{EMULATOR}:amd64"), ("arm64", "amd64"))
            for archive in debs(wanted, made / "apt"):
                unpack(archive, made / ("emulator" if archive.name.endswith("_amd64.deb") else "guest"))
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
    key = hashlib.sha256(f"{needed} {version} {CONSTRAINTS.read_text()}".encode()).hexdigest()
    with once(folder() / f"site-{engine}", key) as made:
        if made:
            platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in MANYLINUX]
            pip("install", "--no-warn-conflicts", "--target", made / "packages", "--python-version", version, "--implementation", "cp",
                 *platforms, "--platform=manylinux2014_aarch64", "--only-binary=:all:", "-c", CONSTRAINTS, *needed)  # fmt: skip
    return folder() / f"site-{engine}" / "packages"


def wheel(out: Path) -> Path:
    """edgekit's own wheel of the tree as it is, built and unpacked into `out`: fresh each time."""
    listed = ran("git", "-C", PROJECT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        source = PROJECT / name
        if source.is_file() and not name.startswith(("tests/", "docs/")):
            (out / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out / "source" / name)
    ran(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation",
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
