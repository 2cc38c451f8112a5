"""The npm registry as people have set it up, and one archive fetched from it with its digest checked."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgekit.errors import HashMismatch, InputError, NotInstalled

PATIENCE_S = 30.0  # without a byte
CHUNK = 2**18


@dataclass(frozen=True)
class Archive:
    """A package of one version: its name, size in bytes, and the Subresource-Integrity digest that npm publishes."""

    package: str
    version: str
    bytes: int
    integrity: str

    def __str__(self) -> str:
        return f"{self.package}@{self.version}"

    @property
    def path(self) -> str:
        """Below a registry's address."""
        return f"{self.package}/-/{self.package}-{self.version}.tgz"


def registry(given: str | None = None) -> str:
    """The address of the registry, with a slash at its end: the given one, or what npm would take.

    That is `npm_config_registry` in the environment, `registry=` in the user's .npmrc, or, where npm is installed, its
    own answer, which knows its other files and its default.

    Raises:
        InputError: not an http or https address. NotInstalled: none is named, and there is no npm to ask.
    """
    found = given or _environment("registry") or _npmrc() or _asked()
    if not found:
        raise NotInstalled(
            "no npm registry is known here: name one with --registry URL, in npm_config_registry or as 'registry=URL' in "
            "~/.npmrc, or install npm, which knows the public one"
        )
    if urlsplit(found).scheme not in ("http", "https") or not urlsplit(found).hostname:
        raise InputError(f"got the npm registry '{shown(found)}': expected an address such as https://npm.example.org/")
    return found.rstrip("/") + "/"


def fetch(archive: Archive, out: Path, address: str, progress: Callable[[int], None] = lambda done: None) -> None:
    """Write the package's archive to `out`; `progress` is told the bytes so far. Proxies of the environment are used.

    Raises:
        NotInstalled: it cannot be had from there. HashMismatch: what came is not what was published.
    """
    opener, digest, done = urllib.request.build_opener(), hashlib.sha512(), 0  # an opener of now knows today's proxies
    try:
        with opener.open(address + archive.path, timeout=PATIENCE_S) as answer, open(out, "wb") as sink:
            while done <= archive.bytes and (part := answer.read(CHUNK)):
                sink.write(part)
                digest.update(part)
                done += len(part)
                progress(done)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise NotInstalled(f"{archive} cannot be fetched from {shown(address)}: {error}") from error
    if "sha512-" + base64.b64encode(digest.digest()).decode() != archive.integrity:
        raise HashMismatch(
            f"{archive} from {shown(address)} is not what was published: expected {archive.bytes} bytes with "
            f"{archive.integrity[:20]}…, got {done} others"
        )


def shown(address: str) -> str:
    """An address as errors may show it: without the name and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", address)


def _environment(name: str) -> str:
    """npm's settings in the environment, whose case npm does not mind."""
    return next((value for key, value in os.environ.items() if key.lower() == f"npm_config_{name}" and value), "")


def _npmrc() -> str:
    path = Path(_environment("userconfig") or Path.home() / ".npmrc")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.findall(r"^\s*registry\s*=\s*[\"']?([^\"'\s]+)", text, flags=re.MULTILINE)
    return re.sub(r"\$\{(\w+)\}", lambda m: os.environ.get(m[1], m[0]), found[-1]) if found else ""


def _asked() -> str:
    npm = shutil.which("npm")
    if npm is None:
        return ""
    command = [npm, "config", "get", "registry", "--workspaces=false"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=Path.home())
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.stdout.startswith("http") else ""
