"""A second load takes the compiled network of the first, and answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.compiled import Shelf
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.session import Session, open_session

ENGINES = [("openvino", OpenVinoOptions), ("onnxruntime", OnnxRuntimeOptions)]


def answers(session: Session, bundle: Bundle) -> list[np.ndarray]:
    golden = bundle.golden()
    inputs = {spec.name: golden[spec.name] for spec in session.inputs}
    return list(session.run(inputs).values())


def refuse(*arguments: Any, **named: Any) -> None:
    raise AssertionError("compiled anew")


@pytest.mark.parametrize(("engine", "options"), ENGINES)
@pytest.mark.parametrize("name", ["digits-cnn", "sr-x2"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_second_load_answers_bit_for_bit(
    engine: str, options: Any, name: str, precision: str, tmp_path: Path
) -> None:
    bundle, found, told = Bundle.open(name), [], []
    for cache in (False, tmp_path / "kept", tmp_path / "kept"):
        with open_session(bundle, engine, precision=precision, threads=2, options=options(cache=cache)) as session:
            found.append(answers(session, bundle))
            told.append((session.placement(), session.inputs, session.outputs))
    (kept,) = (tmp_path / "kept").iterdir()
    assert told[0] == told[1] == told[2]
    for later in found[1:]:
        for own, first in zip(later, found[0], strict=True):
            np.testing.assert_array_equal(own, first)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-100])
    with open_session(
        bundle, engine, precision=precision, threads=2, options=options(cache=tmp_path / "kept")
    ) as session:
        np.testing.assert_array_equal(answers(session, bundle)[0], found[0][0])
    assert Shelf(kept.parent).read(kept.name)  # whole again


@pytest.mark.parametrize(("engine", "options"), ENGINES)
def test_what_an_engine_does_not_take_is_compiled_anew(engine: str, options: Any, tmp_path: Path) -> None:
    bundle, request = Bundle.open("digits-cnn"), {"options": options(cache=tmp_path)}
    with open_session(bundle, engine, **request) as session:
        expected = answers(session, bundle)
    (kept,) = tmp_path.iterdir()
    Shelf(tmp_path).write(kept.name, b"\x02\x00\x00\x00[]of another version")
    with open_session(bundle, engine, **request) as session:
        np.testing.assert_array_equal(answers(session, bundle)[0], expected[0])
    assert kept.stat().st_size > 1000


def test_openvino_keeps_by_default_and_compiles_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    for _ in range(2):
        with open_session("digits-cnn", "openvino", precision="fp32"):
            pass
        monkeypatch.setattr(openvino.Core, "compile_model", refuse)
    assert len(list((own_cache / "compiled").iterdir())) == 1
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_CACHE", str(own_cache))
    with open_session("digits-cnn", "openvino", precision="fp32", threads=1):
        pass
    with open_session("digits-cnn", "openvino", precision="int8"):
        pass
    assert len(list((own_cache / "compiled").iterdir())) == 3
