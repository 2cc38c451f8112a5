"""Profiles: what was measured is found again here, and told where it does not hold any more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sdk.doubles import edit_manifest

import edgekit
from edgekit import choice, doctor, profile
from edgekit.bundle import Bundle, find
from edgekit.errors import InputError
from edgekit.profile import Machine
from edgekit.selection import Limits, Row

ROWS = [Row("onnxruntime", "cpu", "fp32", 1, 1.5, ran=1), Row("openvino", "cpu", "int8", None, 3.0, ran=2)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(find("sr-x2"), tmp_path / "sr-x2"))


@pytest.fixture(autouse=True)
def versions() -> Iterator[None]:
    """No test leaves made-up versions behind."""
    cached = profile.engine_version
    cached.cache_clear()
    yield
    cached.cache_clear()


def save(bundle: Bundle, rows: list[Row] = ROWS, **more: Any) -> Path:
    return profile.save(bundle, profile.measurement(rows, **more))


def why(bundle: Bundle, **request: Any) -> str:
    asked = {"runtime": "auto", "device": "cpu", "precision": "auto", "sizes": {}, **request}
    return choice.pick(bundle, "model", **asked).why


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine("another processor", "aarch64", 4)))


def told(bundle: Bundle, reason: str) -> bool:
    """Whether the profile is not gone by, and both `state` and the choice say why."""
    known, stale = profile.state(bundle)
    said = why(bundle)
    return known is None and reason in stale and reason in said and "first of the default order" in said and "`edgekit tune` measures again" in said  # fmt: skip


def test_another_processor_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    here = save(bundle)
    assert profile.load(bundle) and "measured here" in why(bundle)
    elsewhere(monkeypatch)
    assert told(bundle, "this is 'another processor' (aarch64, 4 cores)")
    shutil.copy(here, profile.path_of(bundle))
    assert told(bundle, "was measured on")


def test_another_bundle_of_the_name_is_told(bundle: Bundle) -> None:
    before = save(bundle)
    edit_manifest(bundle.folder, lambda m: m.update(version="2"))
    changed = Bundle.open(bundle.folder)
    assert told(changed, "is of another sr-x2")
    shutil.copy(before, profile.path_of(changed))
    assert told(changed, "is of another sr-x2")


def test_another_engine_version_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    save(bundle)
    real = profile.engine_version
    monkeypatch.setattr(profile, "engine_version", lambda name: "openvino 9.9" if name == "openvino" else real(name))
    assert told(bundle, f"was measured with {real('openvino')}, installed is openvino 9.9")
    save(bundle)
    assert "measured here" in why(bundle)


def test_an_engine_that_is_gone_does_not_spoil_the_rest(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    save(bundle)
    real = profile.engine_version
    monkeypatch.setattr(profile, "engine_version", lambda name: "" if name == "openvino" else real(name))
    assert "measured here" in why(bundle)


def test_an_engine_that_came_since_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = profile.engine_version
    monkeypatch.setattr(profile, "engine_version", lambda name: "" if name == "litert" else real(name))
    save(bundle)
    monkeypatch.setattr(profile, "engine_version", real)
    assert "(litert came since, and is not measured)" in why(bundle)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b'{"a":' * 100_000, "cannot be read"),
        (b'{"schema": 2}', "cannot be read"),
        (b'{"bundle": "x", "machine": "y"}', "was written by another edgekit (schema 1, this one reads 2)"),
        (b"x" * (profile.MAX_BYTES + 1), "cannot be read"),
    ],
    ids=lambda c: repr(c[:8]),
)
def test_a_damaged_profile_is_told(bundle: Bundle, content: bytes, reason: str) -> None:
    save(bundle).write_bytes(content)
    assert told(bundle, f"the profile {reason}")


def test_nothing_is_said_where_nothing_was_measured(bundle: Bundle) -> None:
    assert profile.state(bundle) == (None, "") and why(bundle).endswith(": `edgekit tune` measures")


def test_sizes_and_devices_are_kept_beside_one_another(bundle: Bundle) -> None:
    small, large, gpu = ([Row("litert", d, "int8", None, ms)] for d, ms in (("cpu", 1.0), ("cpu", 9.0), ("gpu", 0.5)))
    save(bundle, small, size=(360, 640), input="a photo of 640×360")
    save(bundle, large, size=(1080, 1920), input="a photo of 1920×1080")
    path = save(bundle, gpu, size=(360, 640))
    save(bundle, ROWS, size=(360, 640), input="a photo of 640×360")
    known = profile.load(bundle)
    assert known and [(m.devices, m.size) for m in known.measurements] == [
        (["cpu"], (1080, 1920)),
        (["gpu"], (360, 640)),
        (["cpu"], (360, 640)),
    ]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert "640×360" in why(bundle) and "1920×1080" in why(bundle, image_size=(720, 1280))
    picked = choice.pick(bundle, "model", "auto", "auto", "auto", {}, image_size=None)
    assert picked.device == "cpu" and picked.runtime == "onnxruntime"


def test_auto_takes_the_device_that_was_measured_fastest(bundle: Bundle) -> None:
    save(bundle, [*ROWS, Row("openvino", "gpu", "int8", None, 0.5)])
    picked = choice.pick(bundle, "model", "auto", "auto", "auto", {})
    assert (picked.device, picked.runtime) == ("gpu", "openvino")
    assert choice.pick(bundle, "model", "auto", "cpu", "auto", {}).runtime == "onnxruntime"
    with edgekit.load(bundle, "onnxruntime", device="auto") as upscale:
        assert upscale.placement().device == "cpu" and "measured here" in upscale.info()["why"]


def test_device_auto_is_the_cpu_where_nothing_was_measured(bundle: Bundle) -> None:
    with edgekit.open_session(bundle, "onnxruntime", device="auto", precision="fp32") as session:
        assert session.placement().device == "cpu"


def test_threads_that_an_engine_took_itself_count_as_asked_for(bundle: Bundle) -> None:
    save(bundle)
    picked = choice.pick(bundle, "model", "auto", "cpu", "auto", {}, 2)
    assert (picked.runtime, picked.threads) == ("openvino", 2)


def test_limits_hold_in_later_loads(bundle: Bundle) -> None:
    rows = [
        Row("openvino", "cpu", "int8", None, 1.0, peak_mb=200.0),
        Row("litert", "cpu", "int8", None, 3.0, peak_mb=60.0),
    ]
    save(bundle, rows, limits=Limits(max_memory_mb=100.0))
    assert "the fastest within the limits: 3 ms" in why(bundle)
    assert "openvino int8 comes closest: 200 MB of memory, 100 asked for" in why(bundle, runtime="openvino")


def test_a_stop_is_told(bundle: Bundle) -> None:
    save(bundle, whole=False)
    assert "(stopped early)" in why(bundle)


def test_a_profile_goes_to_machines_of_the_same_kind(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    exported = shutil.copy(save(bundle), tmp_path / "exported.json")
    shutil.rmtree(own_cache / "profiles")
    assert "default order" in why(bundle)
    assert profile.take(exported, bundle) == profile.path_of(bundle) and "measured here" in why(bundle)
    with pytest.raises(InputError, match="cannot be this machine's profile of sr-x4: it is of another sr-x4"):
        profile.take(exported, Bundle.open("sr-x4"))
    with pytest.raises(InputError, match="no profile at"):
        profile.take(tmp_path / "none.json", bundle)
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        profile.take(tmp_path / "damaged.json", bundle)
    data = json.loads(Path(exported).read_text())
    data["measurements"][0]["engines"]["openvino"] = "openvino 1.0"
    (tmp_path / "old.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="measured with openvino 1.0, installed is"):
        profile.take(tmp_path / "old.json", bundle)
    elsewhere(monkeypatch)
    with pytest.raises(InputError, match="this is 'another processor'"):
        profile.take(exported, bundle)


def test_an_image_of_quite_another_size_is_told(bundle: Bundle) -> None:
    save(bundle, [Row("onnxruntime", "cpu", "int8", None, 1.0)], size=(64, 64), input="a photo of 64×64")
    with edgekit.load(bundle) as upscale:
        upscale(np.zeros((60, 70, 3), np.uint8))
        assert "the last image" not in upscale.info()["why"]
        upscale(np.zeros((96, 128, 3), np.uint8))
        assert upscale.info()["why"].endswith(
            "; the last image was 128x96: `edgekit tune sr-x2 --size 128x96` measures that"
        )


def test_doctor_tells_which_bundles_were_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any("tuned" in finding.text for finding in doctor.findings())
    save(Bundle.open("sr-x2"))
    assert [f.level for f in doctor.findings() if f.text.startswith("sr-x2 was tuned on ")] == ["ok"]
    elsewhere(monkeypatch)
    told = next(f for f in doctor.findings() if f.text.startswith("sr-x2: "))
    assert told.level == "note" and "this is 'another processor'" in told.text and "`edgekit tune sr-x2`" in told.text


def test_tuned_tiles_choose_among_files_of_fixed_sizes(bundle: Bundle) -> None:
    save(bundle, [Row("litert", "cpu", "int8", None, 1.0, tile=256)])
    with edgekit.load(bundle) as upscale:
        assert upscale.info()["tile_sizes"] == [[64, 64], [256, 256]]
        assert upscale(np.zeros((300, 300, 3), np.uint8)).shape == (600, 600, 3)
    with edgekit.load(bundle, "litert", precision="int8") as upscale:
        assert [360, 640] in upscale.info()["tile_sizes"]
