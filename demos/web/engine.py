"""onnxruntime-web, the engine of the page: its files, pinned, from a given place, the cache, or the npm registry."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle import cache_folder, sha256
from edgekit.demos.web import npm
from edgekit.errors import EdgekitError, HashMismatch, InputError, NotInstalled

ARCHIVE = npm.Archive(
    "onnxruntime-web", "1.30.0", 33_106_585,
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)  # fmt: skip


@dataclass(frozen=True)
class EngineFile:
    """A file of the package's `dist/`; pages have it as `.js`, for not every host knows what `.mjs` is."""

    name: str
    bytes: int
    sha256: str

    @property
    def served(self) -> str:
        return self.name.removesuffix(".mjs") + ".js" if self.name.endswith(".mjs") else self.name


# The script, the loader of its WebAssembly, and that: for the processor, and for WebGPU.
KINDS = {
    "wasm": (
        EngineFile("ort.wasm.min.mjs", 50_126, "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b"),
        EngineFile("ort-wasm-simd-threaded.mjs", 24_381, "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"),
        EngineFile("ort-wasm-simd-threaded.wasm", 14_239_897, "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
    ),
    "webgpu": (
        EngineFile("ort.webgpu.min.mjs", 66_349, "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0"),
        EngineFile("ort-wasm-simd-threaded.asyncify.mjs", 53_057, "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"),
        EngineFile("ort-wasm-simd-threaded.asyncify.wasm", 26_781_914, "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"),
    ),
}  # fmt: skip
FILES = tuple(file for files in KINDS.values() for file in files)


def found(
    place: Path | None = None, address: str | None = None, progress: Callable[[int], None] = lambda n: None
) -> Path:
    """A folder with all of FILES, checked: `place` (a folder or .tgz of the package), else the cache, else npm's registry.

    Raises:
        NotInstalled: there is no such package, and none can be fetched. HashMismatch: of another version, or damaged.
        InputError: `place` is neither folder nor archive, `address` no address.
    """
    if place is not None:
        return _given(place)
    cached = cache_folder() / f"{ARCHIVE.package}-{ARCHIVE.version}"
    try:
        return _checked(cached)
    except EdgekitError:
        pass  # not there yet, or damaged: it is fetched anew
    cached.parent.mkdir(parents=True, exist_ok=True)
    download = cached.with_name(f".{ARCHIVE.package}.{secrets.token_hex(4)}.tgz")
    try:
        npm.fetch(ARCHIVE, download, npm.registry(address), progress)
        return _unpacked(download, cached)
    except NotInstalled as error:
        raise NotInstalled(f"{error}. {by_hand()}") from error
    finally:
        download.unlink(missing_ok=True)


def by_hand() -> str:
    """What to do where edgekit cannot fetch the package."""
    return f"By hand: `npm pack {ARCHIVE}` on any machine, then --ort {ARCHIVE.package}-{ARCHIVE.version}.tgz"


def copy(source: Path, kind: str, folder: Path) -> list[Path]:
    """Copy one kind's files, which `found` has checked, to a folder under their served names."""
    folder.mkdir(exist_ok=True)
    return [Path(shutil.copyfile(source / file.name, folder / file.served)) for file in KINDS[kind]]


def _given(place: Path) -> Path:
    if place.is_dir():
        inner = [place, place / "dist", place / "package" / "dist"]
        return _checked(next((folder for folder in inner if (folder / FILES[0].name).is_file()), place))
    if not place.is_file():
        raise InputError(f"no folder or .tgz at '{place}': expected the npm package {ARCHIVE}. {by_hand()}")
    return _unpacked(place, cache_folder() / f"{ARCHIVE.package}-{ARCHIVE.version}")


def _checked(folder: Path) -> Path:
    for file in FILES:
        path = folder / file.name
        if not path.is_file():
            raise InputError(f"'{folder}' has no {file.name}: expected the npm package {ARCHIVE}. {by_hand()}")
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise HashMismatch(f"'{path}' is not that of {ARCHIVE}. {by_hand()}")
    return folder


def _unpacked(archive: Path, folder: Path) -> Path:
    """Take FILES out of the package's archive into a folder, in one step."""
    stage = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    stage.mkdir(parents=True)
    try:
        with tarfile.open(archive) as opened:
            members = {member.name: member for member in opened.getmembers()}
            for file in FILES:
                member = members.get(f"package/dist/{file.name}")
                source = opened.extractfile(member) if member and member.size == file.bytes else None
                data = source.read() if source else b""
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    raise HashMismatch(f"{file.name} in '{archive}' is not that of {ARCHIVE}. {by_hand()}")
                (stage / file.name).write_bytes(data)
        shutil.rmtree(folder, ignore_errors=True)
        stage.rename(folder)
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise InputError(f"'{archive}' is not a readable .tgz: {error}. {by_hand()}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return folder
