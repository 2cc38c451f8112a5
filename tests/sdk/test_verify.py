"""Verify: right where nothing changed, wrong where the answers did, untried where an engine is missing."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sdk.doubles import DOUBLING, MODEL, OUTPUT, edit_manifest, replace_file, write_double

from edgekit import verify as verify_module
from edgekit.bundle import Bundle, shipped
from edgekit.errors import BundleError, HashMismatch
from edgekit.manifest import Parity, Variant
from edgekit.runtimes.reference import Function
from edgekit.verify import Verdict, compare, golden_sizes, verify

PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}


def with_function(folder: Path, function: Function) -> Bundle:
    """The double with another function, its hash made to fit."""
    write_double(folder)
    replace_file(folder, MODEL, msgspec.json.encode(function))
    return Bundle.open(folder)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_bundles_are_right_on_every_engine(name: str) -> None:
    bundle = Bundle.open(name)
    verdicts = list(verify(bundle))
    assert {v.runtime for v in verdicts} >= set(PACKAGES)
    assert [v for v in verdicts if v.ok is False] == []
    forms = {(v.format, v.precision) for v in bundle.component(bundle.main).variants}
    for engine in PACKAGES:
        ran = [v.variant.precision for v in verdicts if v.runtime == engine and v.max_error is not None]
        wanted = {"int8"} if engine == "litert" and ("tflite", "fp32") not in forms else {"fp32", "int8"}
        assert wanted <= set(ran), f"{engine} ran its golden input in {ran} alone"


def test_every_variant_gets_a_verdict() -> None:
    bundle = Bundle.open("sr-x2")
    assert {str(v.variant) for v in verify(bundle)} == {str(v) for v in bundle.component().variants}


def test_only_answers_that_were_compared_are_called_right() -> None:
    """Verdict promises None for a file that could not be tried, such as one of another size than the golden input."""
    unproven = [v for v in verify(Bundle.open("sr-x2")) if v.ok and v.max_error is None]
    assert unproven == []


def test_the_double_is_right(tmp_path: Path) -> None:
    (verdict,) = verify(write_double(tmp_path / "double"))
    assert (verdict.runtime, verdict.ok, verdict.max_error) == ("reference", True, 0.0)


@pytest.mark.parametrize(
    "function",
    [
        msgspec.structs.replace(DOUBLING, offset=0.01),
        msgspec.structs.replace(DOUBLING, scale=0.99),
        msgspec.structs.replace(DOUBLING, scale=-1.0),
        msgspec.structs.replace(DOUBLING, fail="on purpose"),
    ],
    ids=["brighter", "flatter", "negative", "failing"],
)
def test_other_answers_are_wrong_though_the_hash_fits(tmp_path: Path, function: Function) -> None:
    (verdict,) = verify(with_function(tmp_path / "double", function))
    assert verdict.ok is False


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("offset", [0.0, -1e300], ids=["infinite", "NaN"])
def test_answers_that_are_no_numbers_are_wrong(tmp_path: Path, offset: float) -> None:
    """1e300 is infinity in float32, and infinity less infinity is NaN."""
    function = msgspec.structs.replace(DOUBLING, scale=1e300, offset=offset)
    (verdict,) = verify(with_function(tmp_path / "double", function))
    assert verdict.ok is False


def test_answers_of_another_size_are_wrong(tmp_path: Path) -> None:
    (verdict,) = verify(with_function(tmp_path / "double", msgspec.structs.replace(DOUBLING, repeat=3)))
    assert verdict.ok is False


def test_a_changed_file_is_refused_by_name(tmp_path: Path) -> None:
    bundle = write_double(tmp_path / "double")
    (bundle.folder / MODEL).write_bytes(b"x" * (bundle.folder / MODEL).stat().st_size)
    with pytest.raises(HashMismatch, match=MODEL):
        list(verify(bundle))


@pytest.mark.parametrize("lost", ["golden", "upscaled", "both"])
def test_a_bundle_without_golden_values_cannot_be_called_right(tmp_path: Path, lost: str) -> None:
    folder = write_double(tmp_path / "double").folder

    def lose(manifest: dict[str, Any]) -> None:
        model = manifest["components"]["model"]
        keep = {"golden": ["upscaled"], "upscaled": ["image"], "both": []}[lost]
        model["golden"] = [g for g in model["golden"] if g["tensor"] in keep]

    edit_manifest(folder, lose)
    (verdict,) = verify(Bundle.open(folder))
    assert verdict.ok is None
    assert "golden" in verdict.note


def test_golden_values_of_another_count_are_wrong_or_refused(tmp_path: Path) -> None:
    folder = write_double(tmp_path / "double").folder
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(7, np.float32))
    replace_file(folder, "golden/upscaled.npy", buffer.getvalue())
    try:
        (verdict,) = verify(Bundle.open(folder))
    except BundleError:
        return
    assert verdict.ok is False


@pytest.mark.parametrize(("engine", "package"), PACKAGES.items())
def test_a_missing_engine_is_not_installed(monkeypatch: pytest.MonkeyPatch, engine: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    found = [v for v in verify(Bundle.open("sr-x2")) if v.runtime == engine]
    assert found
    assert all(v == Verdict("model", engine, v.variant, None, None, "not installed") for v in found)


def test_golden_sizes_are_those_of_the_golden_input(tmp_path: Path) -> None:
    bundle = write_double(tmp_path / "double")
    assert golden_sizes(bundle) == {"height": 5, "width": 6}
    assert OUTPUT.bound(golden_sizes(bundle)).shape == (1, 3, 10, 12)


def judged(outputs: list[np.ndarray], truth: list[np.ndarray], parity: Parity | None = None) -> tuple[bool, float, str]:
    return verify_module._judged(Variant("onnx", "fp32", (), parity=parity), outputs, truth)


def test_nan_and_infinity_are_right_where_they_are_expected() -> None:
    truth = np.array([1.0, np.nan, -np.inf], np.float32)
    assert judged([truth.copy()], [truth])[0]
    ok, error, note = judged([np.array([1.0, np.nan, 3.0], np.float32)], [truth])
    assert not ok and error == np.inf and "NaN or infinity differ" in note
    ok, _, note = judged([np.array([np.nan, np.nan, -np.inf], np.float32)], [truth])
    assert not ok and "1 values are NaN or infinite where" in note


def test_integers_are_judged_by_how_many_differ_beside_numbers_by_their_error() -> None:
    ids, scores = np.arange(200) * 50, np.ones(8, np.float32)
    few, many = ids.copy(), ids.copy()
    few[:2], many[:3] = -9, -9
    assert judged([few, scores], [ids, scores]) == (True, 0.01, "allowed 1e-03")
    assert judged([many, scores], [ids, scores]) == (False, 0.015, "3 of 200 values are others, allowed 1%")
    assert not judged([ids, scores * np.float32(1.01)], [ids, scores])[0]


def test_outputs_without_values_are_right() -> None:
    empty = np.zeros((0, 4), np.float32)
    assert judged([empty], [empty])[0] and compare([empty], [empty]) == (0.0, 999.0)


def test_what_export_accepted_is_right_here_too() -> None:
    """An absolute tolerance, stated by who exported it, may be more than a thousandth of small values."""
    truth = np.full(8, 1e-3, np.float32)
    found = [truth + np.float32(5e-5)]
    assert not judged(found, [truth])[0]
    assert judged(found, [truth], Parity(5e-5, 26.0, 3))[0]
