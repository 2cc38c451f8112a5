"""The guard: engines that answer golden inputs wrongly are refused, known ones cost nothing, and auto passes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sdk.doubles import DOUBLING, MODEL, edit_manifest, replace_file, write_double

import edgekit
from edgekit import guard
from edgekit.bundle import Bundle, shipped
from edgekit.errors import EngineError, InputError, WrongAnswer
from edgekit.opening import open_session
from edgekit.runtimes.litert import LiteRtSession
from edgekit.runtimes.onnxruntime_ import OnnxSession
from edgekit.runtimes.openvino_session import OpenVinoSession
from edgekit.runtimes.reference import ReferenceSession
from edgekit.session import Session

ENGINES = {
    "onnxruntime": OnnxSession,
    "openvino": OpenVinoSession,
    "litert": LiteRtSession,
    "reference": ReferenceSession,
}
Answer = Callable[[np.ndarray], np.ndarray]
WRONG: dict[str, tuple[Answer, str]] = {
    "zeros": (np.zeros_like, "is all 0, the golden values are"),
    "NaN": (lambda a: np.full_like(a, np.nan), "is NaN or infinite in"),
    "one NaN": (lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, np.nan, a).astype(a.dtype), "in 1 of"),
    "a constant": (lambda a: np.full_like(a, 0.5), "is all 0.5"),
    "another function": (lambda a: np.flip(a, axis=-1).copy(), "dB of 10"),
}


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Makes engines answer something else, as a broken driver does; gives the list of their runs."""
    monkeypatch.setattr(guard, "_refused", {})

    def lie(answer: Answer, *engines: str, precision: str | None = None) -> list[str]:
        ran: list[str] = []
        for engine in engines:
            real = ENGINES[engine]._run

            def run(session: Any, arrays: Any, copy: bool, real: Any = real, engine: str = engine) -> list[np.ndarray]:
                ran.append(engine)
                honest = precision is not None and session._model.precision != precision
                return [array if honest else answer(array) for array in real(session, arrays, copy)]

            monkeypatch.setattr(ENGINES[engine], "_run", run)
        return ran

    yield lie


def honest(array: np.ndarray) -> np.ndarray:
    return array


@pytest.fixture
def double(tmp_path: Path) -> Bundle:
    return write_double(tmp_path / "double")


# What is refused


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_refused_with_what_was_said(
    lying: Callable[..., list[str]], double: Bundle, kind: str
) -> None:
    answer, words = WRONG[kind]
    lying(answer, "reference")
    with pytest.raises(WrongAnswer, match="reference fp32 on cpu does not compute what double is") as caught:
        open_session(double, "reference", precision="fp32")
    assert words in str(caught.value) and "check=False" in str(caught.value)
    assert caught.value.pair == ("reference", "fp32")
    with open_session(double, "reference", check=False) as session:
        assert session.outputs


@pytest.mark.parametrize("sizes", [{"height": 64, "width": 64}, {"height": 256, "width": 256}])
def test_files_of_other_sizes_are_looked_at_too(lying: Callable[..., list[str]], sizes: dict[str, int]) -> None:
    lying(np.zeros_like, "litert")
    with pytest.raises(WrongAnswer, match="is all 0, the golden values are"):
        open_session("sr-x2", "litert", precision="fp32", sizes=sizes, threads=1)


def test_roundings_are_not_refused(lying: Callable[..., list[str]], double: Bundle) -> None:
    lying(lambda a: (np.round(a * 8) / 8).astype(a.dtype), "reference")  # some 20 dB, as 3 bits have
    open_session(double, "reference").close()


@pytest.mark.parametrize("name", sorted(shipped()))
def test_nothing_that_ships_is_refused(name: str) -> None:
    bundle = Bundle.open(name)
    for component in bundle.manifest.components:
        for engine in ("onnxruntime", "litert"):
            open_session(bundle, engine, component=component, precision="int8", threads=1, check=True).close()


# What it costs


def test_it_is_paid_once(lying: Callable[..., list[str]], double: Bundle, own_cache: Path) -> None:
    ran = lying(honest, "reference")
    for _ in range(3):
        open_session(double, "reference").close()
    assert len(ran) == 1
    (known,) = (own_cache / "checked").iterdir()
    assert known.read_text().startswith("double model reference")
    open_session(double, "reference", check=True).close()
    assert len(ran) == 2
    open_session(double, "reference", check=False).close()
    with guard.trusting():
        shutil.rmtree(own_cache / "checked")
        open_session(double, "reference").close()
    assert len(ran) == 2


@pytest.mark.parametrize("changed", ["bundle", "version", "system"])
def test_what_it_depends_on_is_checked_anew(
    lying: Callable[..., list[str]], double: Bundle, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    ran = lying(honest, "reference")
    open_session(double, "reference").close()
    if changed == "bundle":
        replace_file(double.folder, MODEL, msgspec.json.encode(msgspec.structs.replace(DOUBLING, fail="")) + b" ")
    elif changed == "version":
        monkeypatch.setattr("edgekit.runtimes.reference.ReferenceRuntime.version", lambda self: "9.9")
    else:
        monkeypatch.setattr("platform.release", lambda: "99")
    open_session(Bundle.open(double.folder), "reference").close()
    assert len(ran) == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    double: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    open_session(double, "reference").close()


# What auto does


def test_auto_passes_on_to_the_next_and_says_why(lying: Callable[..., list[str]]) -> None:
    with open_session("digits-cnn", check=False) as first:
        taken = first.placement().runtime
    lying(np.zeros_like, taken)
    with open_session("digits-cnn") as session:
        placement = session.placement()
    assert placement.runtime != taken
    assert placement.why.partition("passing over ")[2].count(f"{taken} ") and "answers wrongly here" in placement.why
    with edgekit.load("digits-cnn") as task:
        assert task.placement().runtime != taken and "answers wrongly here" in task.info()["why"]


def test_auto_passes_on_to_another_precision_of_a_named_engine(lying: Callable[..., list[str]]) -> None:
    lying(np.zeros_like, "litert", precision="int8")
    with open_session("sr-x2", "litert", sizes={"height": 64, "width": 64}) as session:
        assert session.placement().precision == "fp32"


def test_auto_raises_where_all_are_wrong(lying: Callable[..., list[str]]) -> None:
    lying(np.zeros_like, "onnxruntime", "openvino", "litert")
    for opened in (open_session, edgekit.load):
        with pytest.raises(WrongAnswer, match="does not compute what digits-cnn is"):
            opened("digits-cnn")


def test_an_explicit_choice_is_not_passed_over(lying: Callable[..., list[str]]) -> None:
    ran = lying(np.zeros_like, "onnxruntime")
    for opened in (open_session, edgekit.load):
        with pytest.raises(WrongAnswer):
            opened("digits-cnn", "onnxruntime", precision="fp32")
    assert len(ran) == 2


# What cannot be checked


def test_a_bundle_without_golden_values_is_checked_by_no_one(tmp_path: Path) -> None:
    double = write_double(tmp_path / "bare")
    edit_manifest(double.folder, lambda m: m["components"]["model"].pop("golden"))
    bare = Bundle.open(double.folder)
    open_session(bare, "reference").close()
    with pytest.raises(EngineError, match="no golden values"):
        open_session(bare, "reference", check=True)


def test_an_engine_that_fails_is_left_to_the_callers_own_run(tmp_path: Path) -> None:
    broken = write_double(tmp_path / "broken", msgspec.structs.replace(DOUBLING, fail="on purpose"))
    open_session(broken, "reference").close()
    with pytest.raises(EngineError, match="reference cannot be checked: .*on purpose"):
        open_session(broken, "reference", check=True)


def test_a_lone_file_has_nothing_to_be_checked_by(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lone file"):
        open_session(tmp_path / "a.onnx", check=True)


@pytest.mark.parametrize("check", ["yes", None, 2])
def test_what_is_no_check_is_refused(double: Bundle, check: Any) -> None:
    for opened in (open_session, edgekit.load):
        with pytest.raises(InputError, match="expected True, False or 'auto'"):
            opened(double, "reference", check=check)


def test_an_isolated_session_is_checked_in_its_process(tmp_path: Path) -> None:
    wrong = write_double(tmp_path / "wrong", msgspec.structs.replace(DOUBLING, scale=0.0))
    with pytest.raises(WrongAnswer, match="is all 0"):
        open_session(wrong, "reference", isolate=True)
    session: Session = open_session(wrong, "reference", isolate=True, check=False)
    session.close()
