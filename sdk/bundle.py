"""Bundle: a folder of model files and one bundle.json, read with suspicion and written atomically."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import secrets
import shutil
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import platformdirs

from edgekit import manifest as manifests
from edgekit.errors import BundleError, BundleNotFound, EdgekitError, HashMismatch, UnsafePath
from edgekit.manifest import Component, FileEntry, Manifest, Variant
from edgekit.tensors import Array

MANIFEST = "bundle.json"
GOLDEN_SAMPLES = 4096


class Bundle:
    """A bundle on disk: `manifest` says what is in it, `file()` hands out verified paths."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def open(cls, source: str | Path) -> Bundle:
        """Open a folder, a .zip, or the name of a bundle that ships with edgekit.

        Raises:
            BundleNotFound: nothing there. ManifestError, UnsafePath: bundle.json is not usable.
        """
        folder = find(source)
        path = folder / MANIFEST
        if path.stat().st_size > manifests.MAX_MANIFEST_BYTES:
            raise BundleError(f"'{path}' has {path.stat().st_size} bytes: expected at most 1 MiB")
        return cls(folder, manifests.decode(path.read_bytes(), str(path)))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def main(self) -> str:
        """The first component: the one that an engine is chosen by, and that a benchmark runs alone."""
        return next(iter(self.manifest.components))

    @property
    def hash(self) -> str:
        """SHA-256 of bundle.json, which holds the hashes of all else."""
        return hashlib.sha256((self.folder / MANIFEST).read_bytes()).hexdigest()

    def component(self, name: str = "model") -> Component:
        """A component by name.

        Raises:
            BundleError: this bundle has none of that name.
        """
        if name not in self.manifest.components:
            raise BundleError(f"{self.name} has no component '{name}': it has {', '.join(self.manifest.components)}")
        return self.manifest.components[name]

    def file(self, entry: FileEntry) -> Path:
        """The path of a file whose place, size and SHA-256 have been checked.

        Raises:
            UnsafePath, BundleNotFound, HashMismatch.
        """
        path = self.folder / entry.path
        for part in (path, *path.parents):
            if part == self.folder:
                break
            if part.is_symlink():
                raise UnsafePath(f"'{part}' is a link: the files of a bundle lie inside its folder")
        if not path.is_file():
            raise BundleNotFound(f"'{path}' is missing: copy the whole bundle again")
        size = path.stat().st_size
        if size != entry.bytes:
            raise HashMismatch(f"'{path}' has {size} bytes, its manifest says {entry.bytes}: copy the bundle again")
        if sha256(path) != entry.sha256:
            raise HashMismatch(f"'{path}' is not the file that was exported (SHA-256 differs): copy the bundle again")
        return path

    def model_path(self, variant: Variant) -> Path:
        """The file that an engine opens, after all files of the variant were checked."""
        first, *_ = [self.file(entry) for entry in variant.files]
        return first

    def extra(self, path: str) -> Path:
        """The checked path of a file that the manifest lists beside the graphs, such as a tokenizer.

        Raises:
            BundleError: it lists none of that path. As `file`.
        """
        entry = next((e for e in self.manifest.files if e.path == path), None)
        if entry is None:
            have = ", ".join(e.path for e in self.manifest.files) or "none"
            raise BundleError(f"{self.name} has no file '{path}': beside its graphs it lists {have}")
        return self.file(entry)

    def golden(self, component: str = "model") -> dict[str, Array]:
        """The golden arrays by tensor name: inputs whole, outputs as `golden_sample` of them."""
        described = self.component(component)
        dtypes = {spec.name: spec.dtype for spec in (*described.inputs, *described.outputs)}
        arrays = {item.tensor: _array(self.file(item.file)) for item in described.golden}
        return {name: array.astype(dtypes.get(name, array.dtype), copy=False) for name, array in arrays.items()}

    def check_files(self) -> int:
        """Check every file of the bundle; returns how many there are."""
        entries = self.manifest.file_entries()
        for entry in entries:
            self.file(entry)
        return len(entries)

    def copy_files(self, folder: Path) -> None:
        """Copy every file, checked, bundle.json apart, to the same place in another folder."""
        for entry in dict.fromkeys(self.manifest.file_entries()):
            (folder / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.file(entry), folder / entry.path)

    def pack(self, path: str | Path) -> Path:
        """Write the bundle to one .zip, equal bytes for equal bundles; returns its path."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        names = [MANIFEST, *dict.fromkeys(e.path for e in self.manifest.file_entries())]
        self.check_files()
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:
                    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.external_attr = 0o644 << 16
                    with open(self.folder / name, "rb") as source, archive.open(info, "w", force_zip64=True) as sink:
                        shutil.copyfileobj(source, sink, 2**20)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


def shipped() -> dict[str, Path]:
    """The bundles that come with edgekit, by name."""
    spec = importlib.util.find_spec("edgekit.zoo")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [p.parent for place in places for p in Path(place, "bundles").glob(f"[!.]*/{MANIFEST}")]
    return {folder.name: folder for folder in sorted(found)}


def find(source: str | Path) -> Path:
    """The folder of a bundle given as folder, .zip or shipped name; a .zip is unpacked to the user's cache."""
    path = Path(source)
    if (path / MANIFEST).is_file():
        return path
    if path.is_file() and path.suffix == ".zip":
        return _unpacked(path, cache_folder() / "bundles" / sha256(path)[:32])
    known = shipped()
    if str(source) in known:
        return known[str(source)]
    if path.is_dir():
        raise BundleNotFound(f"'{path}' has no {MANIFEST}: expected the folder of a bundle")
    if path.exists():
        raise BundleNotFound(f"'{path}' is not a bundle: expected a folder with {MANIFEST}, or a .zip of one")
    raise BundleNotFound(
        f"no bundle '{source}': expected a folder, a .zip, or one of those that ship: {', '.join(known) or 'none'}"
    )


def _unpacked(archive: Path, place: Path) -> Path:
    """The cached folder of an archive, unpacked anew where it is missing or damaged."""
    try:
        Bundle(place, manifests.decode((place / MANIFEST).read_bytes(), str(place))).check_files()
    except (OSError, BundleError):
        return unpack(archive, place)
    return place


def unpack(archive: str | Path, folder: Path) -> Path:
    """Unpack a bundle's .zip to `folder`; only what its manifest names, within the sizes it names.

    Raises:
        BundleError: not a zip of a bundle. UnsafePath: a name leaves the folder, or a link.
    """
    try:
        with zipfile.ZipFile(archive) as opened, staged(folder) as stage:
            members = {info.filename: info for info in opened.infolist()}
            for info in members.values():
                manifests.check_path(info.filename, str(archive))
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise UnsafePath(f"'{archive}' holds the link '{info.filename}': expected plain files")
            if MANIFEST not in members or members[MANIFEST].file_size > manifests.MAX_MANIFEST_BYTES:
                raise BundleError(f"'{archive}' has no {MANIFEST} at its top: expected a packed bundle")
            data = opened.read(MANIFEST)
            manifest = manifests.decode(data, str(archive))
            (stage / MANIFEST).write_bytes(data)
            for entry in manifest.file_entries():
                _extract(opened, members, entry, stage)
    except EdgekitError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise BundleError(f"'{archive}' is not a readable .zip: {error}") from error
    return folder


def _extract(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], entry: FileEntry, stage: Path) -> None:
    info = members.get(entry.path)
    if info is None or info.file_size != entry.bytes:
        raise HashMismatch(f"'{entry.path}' in '{archive.filename}' is missing or not {entry.bytes} bytes long")
    target = stage / entry.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(info) as source, open(target, "wb") as sink:
        shutil.copyfileobj(source, sink)
    if sha256(target) != entry.sha256:
        raise HashMismatch(f"'{entry.path}' in '{archive.filename}' is not the file that was exported")


@contextmanager
def staged(folder: Path, marker: str = MANIFEST) -> Iterator[Path]:
    """A fresh folder that takes the place of `folder` in one step when the block ends without error.

    A killed or failed block leaves what was there before, whole. `marker` is the file that tells such a folder.

    Raises:
        BundleError: what is there is something else, and no empty folder.
    """
    folder = folder.absolute()
    refuse_other(folder, marker)
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    stage.mkdir()
    try:
        yield stage
        _swap(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_other(folder: Path, marker: str = MANIFEST) -> None:
    """Refuse to replace a folder without the marker that is not empty: it is written as a whole.

    Raises:
        BundleError.
    """
    if not folder.exists() or (folder / marker).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        what = "is not a bundle" if marker == MANIFEST else f"has no {marker}"
        raise BundleError(f"'{folder}' {what} and would be replaced whole: name a new folder")


def write(stage: Path, manifest: Manifest) -> None:
    """Write bundle.json into a staged folder, if it can be read again.

    Raises:
        ManifestError: a name, path or number that a manifest may not hold.
    """
    data = manifests.encode(manifest)
    manifests.decode(data, str(stage / MANIFEST))
    (stage / MANIFEST).write_bytes(data)


def file_entry(folder: Path, path: str) -> FileEntry:
    """The manifest's entry for a file that lies in `folder`."""
    return FileEntry(path=path, bytes=(folder / path).stat().st_size, sha256=sha256(folder / path))


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _array(path: Path) -> Array:
    """A .npy file's array, mapped before it is copied: a header cannot make more be allocated than there is."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, OverflowError, zipfile.BadZipFile) as error:
        raise BundleError(f"golden file '{path}' is not a NumPy array: {error}") from error
    if not isinstance(mapped, np.ndarray):
        raise BundleError(f"golden file '{path}' is not a NumPy array but an archive of several")
    return np.array(mapped)


def golden_sample(array: Array) -> Array:
    """Up to GOLDEN_SAMPLES values at evenly spread places of the flattened array."""
    flat = array.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(flat.size, GOLDEN_SAMPLES)).astype(np.int64)]


def cache_folder() -> Path:
    """Where edgekit keeps unpacked bundles, measured profiles and compiled networks: $EDGEKIT_CACHE, or the user's cache."""
    return Path(os.environ.get("EDGEKIT_CACHE") or platformdirs.user_cache_dir("edgekit"))


def _swap(stage: Path, folder: Path) -> None:
    """Put `stage` at `folder`'s place; afterwards `stage` holds what was there, or is gone."""
    if not folder.exists():
        stage.rename(folder)
    elif not _exchange(stage, folder):
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        folder.rename(old)
        stage.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically (Linux renameat2); False where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)
