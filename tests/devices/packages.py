"""What stands in for hardware, fetched into a folder of its own: Mesa's software Vulkan, and engines in environments."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs
from fetching import Unavailable, Wanted, debs, environment, once, ran, unpack

MESA = ("mesa-vulkan-drivers", "libvulkan1")
OLDEST = (25, 0, 7)  # 22.3.6 has no adapter that WebGPU takes
HOSTS = ("libc6_", "libgcc-s1_", "gcc-", "libstdc++6_")  # of the system that runs it
BOOKWORM = ("bookworm", "bookworm-backports")  # Mesa is new enough in the latter alone
EDGEKIT = ("numpy", "msgspec", "click", "rich", "platformdirs")
CACHE = Path(os.environ.get("EDGEKIT_DEVICES_CACHE") or platformdirs.user_cache_path("edgekit-devices"))


def engine(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment with what edgekit needs and these.

    Raises:
        Unavailable: pip cannot fetch them.
    """
    return environment(CACHE / name, (*EDGEKIT, *requirements))


def mesa() -> dict[str, str]:
    """The environment variables by which a program finds lavapipe, Mesa's Vulkan on the processor.

    Raises:
        Unavailable: neither is it installed and new enough, nor can it be fetched.
    """
    if sys.platform != "linux":
        raise Unavailable(f"lavapipe is looked for on Linux, and this is {sys.platform}")
    shaders = {"MESA_SHADER_CACHE_DIR": str(CACHE / "shaders")}  # compiling them takes most of a first run
    own = sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
    if own and _version(_installed()) >= OLDEST:
        return {"VK_DRIVER_FILES": str(own[0])} | shaders
    with once(CACHE / "mesa", " ".join(MESA)) as made:
        if made:
            _fetch(made)
    root = CACHE / "mesa/root"
    return {"VK_DRIVER_FILES": str(root / "lavapipe.json"), "LD_LIBRARY_PATH": str(_libraries(root))} | shaders


def _fetch(made: Path) -> None:
    archives = debs(Wanted(MESA, (_architecture(),), *_sources()), made / "apt")
    found = next(archive.name.split("_")[1] for archive in archives if archive.name.startswith(f"{MESA[0]}_"))
    if _version(found) < OLDEST:
        raise Unavailable(f"apt has Mesa {found} here: {'.'.join(map(str, OLDEST))} is the first that works")
    for archive in archives:
        if not archive.name.startswith(HOSTS):
            unpack(archive, made / "root")
    shutil.rmtree(made / "apt")
    (described,) = (made / "root/usr/share/vulkan/icd.d").glob("lvp_icd*.json")
    icd = json.loads(described.read_text())
    place = CACHE / "mesa" / "root" / _libraries(made / "root").relative_to(made / "root")
    icd["ICD"]["library_path"] = str(place / Path(icd["ICD"]["library_path"]).name)
    (made / "root/lavapipe.json").write_text(json.dumps(icd))


def _libraries(root: Path) -> Path:
    return next(root.glob("usr/lib/*/libvulkan_lvp.so")).parent


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _sources() -> tuple[str, tuple[str, ...]]:
    """The release and the lines for apt: this machine's own, and on Debian 12 its mirror's backports as well."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != BOOKWORM[0]:
        return "", ()
    lines = ran("apt-get", "indextargets", "--format", "$(REPO_URI)|$(CODENAME)", "Created-By: Packages").splitlines()
    mirror = next(line for line in lines if line.endswith(f"|{BOOKWORM[0]}")).partition("|")[0]
    return BOOKWORM[1], tuple(f"deb {mirror} {name} main" for name in BOOKWORM)


def _installed() -> str:
    try:
        return ran("dpkg-query", "--show", "--showformat", "${Version}", MESA[0])
    except (Unavailable, FileNotFoundError):
        return "0"


def _version(text: str) -> tuple[int, ...]:
    """ "25.0.7-2~bpo12+1" → (25, 0, 7)."""
    return tuple(int(part) for part in text.partition("-")[0].split(".") if part.isdecimal())
