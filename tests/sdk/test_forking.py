"""Sessions and processes: a fork neither uses nor frees what its parent opened, a child of either kind opens its own."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sdk.doubles import write_double

import edgekit
from edgekit.errors import InputError
from edgekit.opening import open_session

ENGINES = ("onnxruntime", "openvino", "litert", "torch")
FORK = """
import gc, os, signal, sys
import numpy as np
import edgekit
from edgekit.errors import SessionClosed

def opened():
    session = edgekit.open_session("digits-cnn", sys.argv[1], precision="fp32", threads=int(sys.argv[2]))
    (spec,) = session.inputs
    return session, {spec.name: np.full([d if isinstance(d, int) else 1 for d in spec.shape], 0.5, np.float32)}

def refused(call):
    try:
        call()
    except SessionClosed as error:
        assert "opened in another process" in str(error), error
        return
    raise AssertionError("not refused")

session, feeds = opened()
expected = next(iter(session.run(feeds).values()))
session.submit(feeds).result()
session._lock.acquire()  # as if a thread of the parent's were in a run
child = os.fork()
if child == 0:
    signal.alarm(60)  # a hang is an end by a signal
    code = 1
    try:
        for call in (lambda: session.run(feeds), lambda: session.submit(feeds), session.placement,
                     lambda: session.borrow(feeds).__enter__()):
            refused(call)
        session.close()
        session = None
        gc.collect()
        own, feeds = opened()
        np.testing.assert_allclose(next(iter(own.run(feeds).values())), expected, atol=1e-5)
        assert ("process of its own" in own.placement().why) == (sys.argv[1] in ("openvino", "torch"))
        own.close()
        code = 0
    finally:
        os._exit(code)  # as multiprocessing ends its children
status = os.waitpid(child, 0)[1]
assert status == 0, status
session._lock.release()
np.testing.assert_array_equal(next(iter(session.run(feeds).values())), expected)
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs os.fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_fork_neither_uses_nor_frees_what_its_parent_opened(engine: str, threads: int) -> None:
    pytest.importorskip("ai_edge_litert" if engine == "litert" else engine)
    script = [sys.executable, "-c", FORK, engine, str(threads)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


SPAWN = """
import multiprocessing, sys
import numpy as np
import edgekit

def answered(name):
    with edgekit.load("digits-cnn", name, threads=1) as task:
        task.once(np.zeros((32, 32, 3), np.uint8))
        return task.placement().runtime

if __name__ == "__main__":
    with edgekit.load("digits-cnn", "onnxruntime", threads=1):
        for method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(answered, sys.argv[1:]) == sys.argv[1:], method
"""


def test_children_of_every_start_method_open_their_own(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    done = subprocess.run(
        [sys.executable, script, "onnxruntime", "openvino"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_sessions_and_tasks_are_not_pickled_or_copied(tmp_path: Path, copied: Any) -> None:
    bundle = write_double(tmp_path / "double")
    with open_session(bundle, "reference") as session, edgekit.load(bundle, "reference") as task:
        for thing in (session, task):
            with pytest.raises(InputError, match="hand over the bundle's name or path"):
                copied(thing)


def test_a_bundle_is_what_goes_to_another_process(tmp_path: Path) -> None:
    bundle = pickle.loads(pickle.dumps(write_double(tmp_path / "double")))
    with open_session(bundle, "reference") as session:
        assert session.placement().runtime == "reference"
