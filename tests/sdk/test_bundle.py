"""Bundles: reading with suspicion, packing, unpacking, and writing in one step."""

from __future__ import annotations

import io
import json
import shutil
import stat
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sdk.doubles import MODEL, edit_manifest, replace_file, write_double

from edgekit import bundle as bundles
from edgekit import manifest as manifests
from edgekit.bundle import MANIFEST, Bundle, golden_sample, sha256, shipped, staged, unpack
from edgekit.errors import BundleError, BundleNotFound, HashMismatch, ManifestError, UnsafePath

FILES = {MANIFEST, MODEL, "golden/image.npy", "golden/upscaled.npy"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a small bundle that nothing is wrong with."""
    return write_double(tmp_path / "double").folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    """A .zip with these members, as anyone could write it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


# Reading


def test_open_says_what_is_in_it(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.name == "double"
    assert bundle.folder == folder
    assert bundle.hash == sha256(folder / MANIFEST)
    assert bundle.check_files() == len(FILES) - 1
    assert bundle.model_path(bundle.component().variants[0]) == folder / MODEL
    assert bundle.golden()["image"].shape == (1, 3, 5, 6)
    assert bundle.golden()["upscaled"].shape == (360,)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_bundles_open_by_name_and_are_whole(name: str) -> None:
    bundle = Bundle.open(name)
    assert bundle.name == name
    assert bundle.check_files() == len(bundle.manifest.file_entries())


def test_component_that_is_not_there(folder: Path) -> None:
    with pytest.raises(BundleError, match="double has no component 'encoder': it has model"):
        Bundle.open(folder).component("encoder")


def test_what_is_not_there_is_refused_with_what_ships(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="no bundle 'nothing'.*sr-x2"):
        Bundle.open("nothing")
    with pytest.raises(BundleNotFound, match="has no bundle.json"):
        Bundle.open(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(BundleNotFound, match=r"a\.txt' is not a bundle"):
        Bundle.open(tmp_path / "a.txt")


@pytest.mark.parametrize("path", sorted(FILES - {MANIFEST}))
def test_a_changed_byte_is_refused_by_name(folder: Path, path: str) -> None:
    data = bytearray((folder / path).read_bytes())
    data[-1] ^= 1
    (folder / path).write_bytes(data)
    with pytest.raises(HashMismatch, match=f"{path}.*SHA-256"):
        Bundle.open(folder).check_files()


def test_a_truncated_file_is_refused_with_both_sizes(folder: Path) -> None:
    size = (folder / MODEL).stat().st_size
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:-1])
    with pytest.raises(HashMismatch, match=f"{MODEL}' has {size - 1} bytes.*says {size}"):
        Bundle.open(folder).check_files()


def test_a_missing_file_is_refused_by_name(folder: Path) -> None:
    (folder / MODEL).unlink()
    with pytest.raises(BundleNotFound, match=f"{MODEL}' is missing"):
        Bundle.open(folder).check_files()


@pytest.mark.parametrize(
    "path",
    ["../model.json", "golden/../../model.json", "..", "/etc/passwd", "golden\\x", "C:x", "C:/x", "x\0y", "", "."],
)
def test_paths_that_leave_the_folder_are_refused(folder: Path, path: str) -> None:
    for place in (
        lambda m: m["components"]["model"]["variants"][0]["files"][0].update(path=path),
        lambda m: m["components"]["model"]["golden"][0]["file"].update(path=path),
    ):
        broken = folder.with_name("broken")
        shutil.copytree(folder, broken)
        edit_manifest(broken, place)
        with pytest.raises(UnsafePath, match="expected a relative path inside the bundle"):
            Bundle.open(broken)
        shutil.rmtree(broken)


def test_links_are_refused_even_where_they_stay_inside(folder: Path, tmp_path: Path) -> None:
    (folder / MODEL).rename(tmp_path / MODEL)
    (folder / MODEL).symlink_to(tmp_path / MODEL)
    with pytest.raises(UnsafePath, match=f"{MODEL}' is a link"):
        Bundle.open(folder).check_files()


def test_linked_folders_inside_a_bundle_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "golden").rename(tmp_path / "elsewhere")
    (folder / "golden").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath, match="golden' is a link"):
        Bundle.open(folder).golden()


def variant(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["components"]["model"]["variants"][0]
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(author="me"), "author"),
        (lambda m: variant(m).update(speed=3), "speed"),
        (lambda m: m.update(name=5), r"\$\.name"),
        (lambda m: m.update(name="../escape"), r"\$\.name"),
        (lambda m: m.pop("name"), "name"),
        (lambda m: m.pop("components"), "components"),
        (lambda m: m.update(components={}), r"\$\.components"),
        (lambda m: m.update(components={"model": []}), r"\$\.components"),
        (lambda m: m.update(schema=2), "schema 2.*reads schema 1"),
        (lambda m: m.update(schema="1"), "schema '1'"),
        (lambda m: m.update(schema=None), "schema None"),
        (lambda m: variant(m).update(files=[]), "files"),
        (lambda m: variant(m).update(format="pickle"), "format"),
        (lambda m: variant(m).update(precision="int7"), "precision"),
        (lambda m: variant(m).update(sizes={"height": "64"}), "sizes"),
        (lambda m: variant(m)["files"][0].update(bytes=-5), "bytes"),
        (lambda m: variant(m)["files"][0].update(bytes=2**36), "bytes"),
        (lambda m: variant(m)["files"][0].update(sha256="0"), "sha256"),
        (lambda m: m["components"]["model"]["inputs"][0].update(dtype="float31"), "dtype"),
        (lambda m: m["components"]["model"]["inputs"][0].update(dtype="object"), "dtype"),
        (lambda m: m["components"]["model"]["inputs"][0].update(layout="HWC"), "layout"),
        (lambda m: m["components"]["model"].update(inputs=[]), "inputs"),
    ],
)
def test_malformed_manifests_are_refused_with_the_place(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    edit_manifest(folder, change)
    with pytest.raises(ManifestError, match=words) as refused:
        Bundle.open(folder)
    assert str(folder / MANIFEST) in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": "\xff"}', b"[" * 10_000, b'{"a":' * 100_000],
    ids=["empty", "text", "cut", "list", "null", "UTF-16", "bad UTF-8", "deep lists", "deep objects"],
)
def test_manifests_that_are_no_json_object_are_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(ManifestError, match="is not a bundle manifest"):
        Bundle.open(folder)


def test_too_large_manifests_are_refused_unread(folder: Path) -> None:
    with open(folder / MANIFEST, "wb") as file:
        file.truncate(manifests.MAX_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match=f"has {manifests.MAX_MANIFEST_BYTES + 1} bytes: expected at most"):
        Bundle.open(folder)
    with pytest.raises(ManifestError, match="at most"):
        manifests.decode(b" " * (manifests.MAX_MANIFEST_BYTES + 1), "x")


def test_manifest_survives_the_round_trip(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert manifests.decode(manifests.encode(manifest), "x") == manifest
    assert manifests.encode(manifest) == (folder / MANIFEST).read_bytes()


# Golden arrays


def pickled() -> bytes:
    """An object array, which NumPy stores as a pickle."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def archived() -> bytes:
    """Arrays in a .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


def boasting() -> bytes:
    """An array file of a few bytes whose header promises a petabyte."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (281474976710656,), }"
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64


@pytest.mark.parametrize(
    "content",
    [pickled(), archived(), boasting(), b"\x93NUMPY", b"PK\x03\x04 no zip", b"text", b"\x80\x04K\x01."],
    ids=["object array", "npz", "petabyte", "magic alone", "broken npz", "text", "bare pickle"],
)
def test_golden_files_that_are_no_plain_array_are_refused_by_name(folder: Path, content: bytes) -> None:
    replace_file(folder, "golden/image.npy", content)
    with pytest.raises(BundleError, match=r"golden/image\.npy.* is not a NumPy array"):
        Bundle.open(folder).golden()


def test_changed_golden_files_are_refused_as_changed(folder: Path) -> None:
    (folder / "golden" / "image.npy").write_bytes(b"other")
    with pytest.raises(HashMismatch, match="copy the bundle again"):
        Bundle.open(folder).golden()
    (folder / "golden" / "image.npy").unlink()
    with pytest.raises(BundleNotFound, match="is missing"):
        Bundle.open(folder).golden()


def test_golden_sample_takes_first_last_and_what_lies_evenly_between() -> None:
    few, many = np.arange(10), np.arange(100_000).reshape(10, 100, 100)
    np.testing.assert_array_equal(golden_sample(few), few)
    sample = golden_sample(many)
    assert (sample[0], sample[-1], sample.size) == (0, 99_999, bundles.GOLDEN_SAMPLES)
    assert set(np.diff(sample)) <= {24, 25}


# Packing


def test_pack_and_unpack_give_the_same_files(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("named nowhere, so not packed")
    archive = Bundle.open(folder).pack(tmp_path / "double.zip")
    again = unpack(archive, tmp_path / "again")
    assert set(contents(again)) == FILES
    assert contents(again) == {k: v for k, v in contents(folder).items() if k in FILES}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "double", "double.zip"]


def test_packing_equal_bundles_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    one = Bundle.open(folder).pack(tmp_path / "one.zip")
    other = Bundle.open(tmp_path / "copy").pack(tmp_path / "other.zip")
    assert one.read_bytes() == other.read_bytes()


def test_a_changed_bundle_is_not_packed(folder: Path, tmp_path: Path) -> None:
    (folder / MODEL).write_bytes(b"other")
    with pytest.raises(HashMismatch):
        Bundle.open(folder).pack(tmp_path / "double.zip")
    assert [p.name for p in tmp_path.iterdir()] == ["double"]


def test_a_zip_opens_directly_from_the_cache(folder: Path, tmp_path: Path, own_cache: Path) -> None:
    archive = Bundle.open(folder).pack(tmp_path / "double.zip")
    bundle = Bundle.open(archive)
    assert bundle.hash == Bundle.open(folder).hash
    assert bundle.folder.is_relative_to(own_cache)
    assert bundle.check_files() == len(FILES) - 1
    assert Bundle.open(archive).folder == bundle.folder


def outside(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, "../escaped.txt": b"x"})


def absolute(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, "/tmp/escaped.txt": b"x"})


def linked(members: dict[str, bytes], path: Path) -> Path:
    zipped(path, {k: v for k, v in members.items() if k != MODEL})
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo(MODEL)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return path


def without_manifest(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {k: v for k, v in members.items() if k != MANIFEST})


def one_folder_down(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {f"double/{k}": v for k, v in members.items()})


def larger_member(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, MODEL: members[MODEL] + b" " * 10**6})


def other_member(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, MODEL: bytes(len(members[MODEL]))})


def missing_member(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {k: v for k, v in members.items() if k != MODEL})


def huge_manifest(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, MANIFEST: b" " * (manifests.MAX_MANIFEST_BYTES + 1)})


def bad_manifest(members: dict[str, bytes], path: Path) -> Path:
    return zipped(path, {**members, MANIFEST: b"{}"})


def no_zip(members: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(b"this is not a zip at all")
    return path


def empty_file(members: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(b"")
    return path


def cut_short(members: dict[str, bytes], path: Path) -> Path:
    data = zipped(path, members).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def changed(path: Path, name: str, offset: int, value: bytes) -> Path:
    """Overwrite bytes of a member's compressed data (offset ≥ 0), or of its headers' flags (offset −1)."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(name).header_offset
    if offset < 0:
        data[start + 6] |= value[0]
        central = data.rfind(b"PK\x01\x02", 0, data.rfind(name.encode()))
        data[central + 8] |= value[0]
    else:
        body = start + 30 + len(name) + offset
        data[body : body + len(value)] = value
    path.write_bytes(data)
    return path


def corrupt_stream(members: dict[str, bytes], path: Path) -> Path:
    return changed(zipped(path, members), "golden/image.npy", 0, b"\xff" * 16)


def encrypted_member(members: dict[str, bytes], path: Path) -> Path:
    return changed(zipped(path, members), "golden/upscaled.npy", -1, b"\x01")


def file_and_folder(members: dict[str, bytes], path: Path) -> Path:
    """A manifest that wants one name to be a file and a folder."""
    manifest = json.loads(members[MANIFEST])
    manifest["components"]["model"]["golden"][0]["file"]["path"] = f"{MODEL}/image.npy"
    manifest["components"]["model"]["golden"].reverse()
    renamed = {**members, MANIFEST: json.dumps(manifest).encode(), f"{MODEL}/image.npy": members["golden/image.npy"]}
    return zipped(path, renamed)


HOSTILE = [
    (outside, UnsafePath),
    (absolute, UnsafePath),
    (linked, UnsafePath),
    (without_manifest, BundleError),
    (one_folder_down, BundleError),
    (larger_member, HashMismatch),
    (other_member, HashMismatch),
    (missing_member, HashMismatch),
    (huge_manifest, BundleError),
    (bad_manifest, ManifestError),
    (no_zip, BundleError),
    (empty_file, BundleError),
    (cut_short, BundleError),
    (corrupt_stream, BundleError),
    (encrypted_member, BundleError),
    (file_and_folder, BundleError),
]


@pytest.mark.parametrize(("build", "error"), HOSTILE)
@pytest.mark.parametrize("older", [False, True], ids=["nothing there", "a bundle there"])
def test_hostile_zips_are_refused_and_leave_nothing(
    folder: Path, tmp_path: Path, build: Callable[[dict[str, bytes], Path], Path], error: type[Exception], older: bool
) -> None:
    archive = build(contents(folder), tmp_path / "hostile.zip")
    target = tmp_path / "place" / "target"
    if older:
        write_double(target)
    before = contents(target)
    with pytest.raises(error):
        unpack(archive, target)
    assert contents(target) == before
    assert target.exists() == older
    assert not target.parent.exists() or [p.name for p in target.parent.iterdir()] == ["target"] * older
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "place") == ["double", "hostile.zip"]


def test_members_that_the_manifest_does_not_name_are_left_in_the_zip(folder: Path, tmp_path: Path) -> None:
    archive = zipped(tmp_path / "extra.zip", {**contents(folder), "extra.py": b"print('hello')"})
    assert set(contents(unpack(archive, tmp_path / "target"))) == FILES


# Writing


@pytest.fixture(params=["exchange", "fallback"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of putting a folder in the place of another."""
    if request.param == "fallback":
        monkeypatch.setattr(bundles, "_exchange", lambda one, other: False)
    return str(request.param)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.usefixtures("swap")
def test_staged_replaces_the_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for content in ("old", "new"):
        with staged(target) as stage:
            (stage / "bundle.json").write_text(content)
            (stage / content).write_text(content)
        assert names(target) == ["bundle.json", content]
    assert names(tmp_path / "deep") == ["target"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("text")
    for name in ("docs", "file"):
        with pytest.raises(BundleError, match="not a bundle"), staged(tmp_path / name):
            raise AssertionError("not reached")
    (tmp_path / "empty").mkdir()
    with staged(tmp_path / "empty") as stage:
        (stage / "bundle.json").write_text("{}")
    assert names(tmp_path) == ["docs", "empty", "file"] and names(tmp_path / "docs") == ["thesis.txt"]


@pytest.mark.parametrize(
    "path", [e.path for e in Bundle.open("sr-x2").manifest.file_entries() if "golden" not in e.path]
)
def test_a_changed_byte_in_any_file_of_a_variant_is_found_on_opening(path: str, tmp_path: Path) -> None:
    """The first file and those beside it, such as OpenVINO's weights."""
    bundle = Bundle(shutil.copytree(Bundle.open("sr-x2").folder, tmp_path / "sr-x2"), Bundle.open("sr-x2").manifest)
    data = bytearray((bundle.folder / path).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle.folder / path).write_bytes(data)
    variant = next(v for v in bundle.component().variants if path in {e.path for e in v.files})
    with pytest.raises(HashMismatch, match=path):
        bundle.model_path(variant)


def test_a_variant_must_list_its_weights() -> None:
    manifest = msgspec.json.decode((Bundle.open("sr-x2").folder / "bundle.json").read_bytes())
    first = manifest["components"]["model"]["variants"][0]["files"][0]
    first["path"] = "model-fp32.xml"
    with pytest.raises(ManifestError, match=r"does not list the weights \(\.bin\) of 'model-fp32\.xml'"):
        manifests.decode(msgspec.json.encode(manifest), "bundle.json")


def test_a_damaged_cache_of_a_zip_is_unpacked_anew(tmp_path: Path) -> None:
    archive = write_double(tmp_path / "double").pack(tmp_path / "double.zip")
    first = Bundle.open(archive)
    (first.folder / MODEL).write_text("damaged")
    again = Bundle.open(archive)
    assert again.check_files() and again.folder == first.folder


def test_stages_of_a_killed_export_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgekit.zoo

    for name in ("net", ".net.ab12cd34"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / "bundle.json").write_text("{}")
    monkeypatch.setattr(edgekit.zoo.__spec__, "submodule_search_locations", [str(tmp_path)])
    assert list(shipped()) == ["net"]


@pytest.mark.usefixtures("swap")
def test_an_error_while_staged_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    folder = write_double(tmp_path / "target").folder
    before = contents(folder)
    with pytest.raises(KeyboardInterrupt), staged(folder) as stage:
        (stage / MODEL).write_text("half")
        raise KeyboardInterrupt
    assert contents(folder) == before
    assert names(tmp_path) == ["target"]


def test_an_error_while_staged_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), staged(tmp_path / "target") as stage:
        (stage / "half").write_text("half")
        raise ValueError("stop")
    assert names(tmp_path) == []


def test_readers_see_the_old_manifest_or_the_new_and_never_half(tmp_path: Path, swap: str) -> None:
    """Only where the system cannot exchange folders may a reader find nothing, for a moment."""
    target, versions = tmp_path / "target", [b"old" * 20_000, b"new" * 20_000]
    with staged(target) as stage:
        (stage / MANIFEST).write_bytes(versions[0])
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add((target / MANIFEST).read_bytes())
            except FileNotFoundError:
                seen.add(b"nothing")

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(200):
        with staged(target) as stage:
            (stage / MANIFEST).write_bytes(versions[turn % 2])
    stop.set()
    reader.join()
    allowed = {*versions, b"nothing"} if swap == "fallback" else set(versions)
    assert seen <= allowed
    assert names(tmp_path) == ["target"]
