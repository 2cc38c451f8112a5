"""A second load takes the compiled network of the first, and answers the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.compiled import Shelf, nothing_kept
from edgekit.opening import open_session
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.session import Session

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
    for cache in (False, str(tmp_path / "kept"), str(tmp_path / "kept")):
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
        bundle, engine, precision=precision, threads=2, options=options(cache=str(tmp_path / "kept"))
    ) as session:
        np.testing.assert_array_equal(answers(session, bundle)[0], found[0][0])
    assert Shelf(kept.parent).read(kept.name)  # whole again


@pytest.mark.parametrize(("engine", "options"), ENGINES)
def test_what_an_engine_does_not_take_is_compiled_anew(engine: str, options: Any, tmp_path: Path) -> None:
    bundle, request = Bundle.open("digits-cnn"), {"options": options(cache=str(tmp_path))}
    with open_session(bundle, engine, **request) as session:
        expected = answers(session, bundle)
    (kept,) = tmp_path.iterdir()
    Shelf(tmp_path).write(kept.name, b"\x02\x00\x00\x00[]of another version")
    with open_session(bundle, engine, **request) as session:
        np.testing.assert_array_equal(answers(session, bundle)[0], expected[0])
    assert kept.stat().st_size > 1000


def test_openvino_compiles_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_folder_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for engine, options in ENGINES:
        with open_session("digits-cnn", engine, options=options(cache=str(tmp_path / "file" / "kept"))) as session:
            assert answers(session, Bundle.open("digits-cnn"))


@pytest.mark.parametrize(("engine", "options"), ENGINES)
def test_processes_that_load_at_once_answer_the_same(engine: str, options: Any, tmp_path: Path) -> None:
    """All begin with an empty cache, at the same moment as far as a machine allows."""
    program = (
        "import sys, edgekit, hashlib\n"
        "from edgekit.opening import runtime\n"
        "bundle = edgekit.Bundle.open('digits-cnn')\n"
        f"options = runtime('{engine}').options(cache={str(tmp_path)!r})\n"
        f"session = edgekit.open_session(bundle, '{engine}', precision='fp32', threads=1, options=options)\n"
        "golden = bundle.golden()\n"
        "result = session.run({spec.name: golden[spec.name] for spec in session.inputs})\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in result.values())).hexdigest())\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    told = {process.communicate(timeout=300)[0].strip() for process in started}
    assert len(told) == 1 and len(told.pop()) == 64
    assert all(process.returncode == 0 for process in started)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_tried_once_is_not_kept(own_cache: Path) -> None:
    with nothing_kept(), open_session("digits-cnn", "openvino", precision="fp32"):
        pass
    assert not (own_cache / "compiled").exists()
