"""Sessions with a process of their own: all that a session does, and what happens when the process dies or hangs."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtimes.contract import Case, RuntimeContract
from sdk.doubles import DOUBLING, write_double

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import (
    BundleNotFound,
    DeviceUnavailable,
    EngineError,
    InputError,
    RuntimeCrashed,
    SessionClosed,
    TensorError,
)
from edgekit.isolation import Isolation
from edgekit.opening import open_session
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.runtimes.openvino_ import OpenVinoOptions
from edgekit.session import Model, Session

pytestmark = pytest.mark.timeout(120)  # what hangs is shown where it hangs
IMAGE = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)
FATAL = np.full_like(IMAGE, 13.0)


@dataclass(frozen=True)
class IsolatedCase(Case):
    """Opens the file in a process of its own."""

    def open(self, **changes: Any) -> Session:
        request = {"device": "cpu", "threads": 1, "model": self.model, **changes}
        return open_session(
            request["model"].path, self.runtime, device=request["device"], threads=request["threads"], isolate=True
        )


class TestContract(RuntimeContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        bundle = Bundle.open("digits-cnn")
        component = bundle.component()
        variant = next(v for v in component.variants if (v.format, v.precision) == ("onnx", "fp32"))
        path = Path(shutil.copy(bundle.model_path(variant), tmp_path / "digits.onnx"))
        image = np.random.default_rng(0).random([d if isinstance(d, int) else 1 for d in component.inputs[0].shape])
        image = image.astype(np.float32)
        with open_session(path, "onnxruntime", threads=1) as session:
            (expected,) = session.run({session.inputs[0].name: image}).values()
        return IsolatedCase("onnxruntime", Model(path, "onnx", "fp32"), image, expected, None)

    def test_maps_on_several_streams(self, case: Case, feeds: dict[str, np.ndarray]) -> None:
        with open_session(
            case.model.path, "onnxruntime", options=OnnxRuntimeOptions(streams=2), isolate=True
        ) as session:
            assert session.streams == 1  # a process does one run at a time
            assert len(list(session.map([feeds] * 5))) == 5


@pytest.fixture
def fragile(tmp_path: Path) -> Bundle:
    return write_double(tmp_path / "fragile", replaced(crash_at=13.0))


def replaced(**changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(DOUBLING, **changes)


@pytest.fixture
def session(fragile: Bundle) -> Iterator[Session]:
    with open_session(fragile, "reference", isolate=True) as session:
        yield session


def process_of(session: Any) -> int:
    found: int = session._process._process.pid
    return found


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process has ended, and is no zombie."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}").exists() or not Path("/proc").exists():
                time.sleep(0.02)
                continue
        return True
    return False


# What it does


def test_gives_what_a_session_of_this_process_gives(session: Session, fragile: Bundle) -> None:
    with open_session(fragile, "reference") as plain:
        assert (session.inputs, session.outputs) == (plain.inputs, plain.outputs)
        assert session.placement() == plain.placement()
        for height, width in [(4, 5), (300, 400), (2, 3), (301, 400)]:  # the memory that is shared grows
            image = np.random.default_rng(height).random((1, 3, height, width), np.float32)
            np.testing.assert_array_equal(
                session.run({"image": image})["upscaled"], plain.run({"image": image})["upscaled"]
            )


def test_a_large_input_after_a_small_one_keeps_clear_of_the_output(session: Session) -> None:
    for shape in [(1, 3, 2, 2), (1, 3, 90, 90), (1, 3, 2, 2)] * 2:
        image = np.random.default_rng(1).random(shape, np.float32)
        np.testing.assert_array_equal(
            session.run({"image": image})["upscaled"], image.repeat(2, axis=2).repeat(2, axis=3)
        )


@pytest.mark.parametrize("name", ["digits-vae", "sr-x2"])
def test_a_task_runs_isolated(name: str) -> None:
    image = np.zeros((32, 32, 1 if name == "digits-vae" else 3), np.uint8) + 90
    with edgekit.load(name, isolate=True, threads=1) as task, edgekit.load(name, threads=1) as plain:
        isolated, here = (t.reconstruct(image) if name == "digits-vae" else t(image) for t in (task, plain))
        np.testing.assert_array_equal(isolated, here)
        assert task.info()["placement"] == plain.info()["placement"]


def test_options_of_paths_and_several_values_go_along(tmp_path: Path) -> None:
    options = OpenVinoOptions(cache=str(tmp_path), streams=2)
    with open_session("digits-cnn", "openvino", options=options, isolate=True) as session:
        assert session.placement().runtime == "openvino"


def test_options_go_along() -> None:
    options = OpenVinoOptions(inference_precision="f32", performance_hint="THROUGHPUT")
    with open_session("digits-cnn", "openvino", options=options, isolate=True) as session:
        assert session.placement().runtime == "openvino"


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        ({"source": "nowhere"}, BundleNotFound, "no bundle 'nowhere'"),
        ({"device": "npu"}, DeviceUnavailable, "use device='cpu'"),
        ({"runtime": "tensorrt"}, InputError, "no runtime 'tensorrt'"),
        ({"precision": "int9"}, (InputError, DeviceUnavailable), "int9"),
        ({"options": OpenVinoOptions()}, InputError, "onnxruntime takes OnnxRuntimeOptions"),
        ({"options": {}}, InputError, "got options dict"),
        ({"options": replace(OnnxRuntimeOptions(), allow_spinning=object())}, InputError, "plain values"),
    ],
)
def test_errors_of_opening_are_those_of_a_plain_session(request_: dict[str, Any], kind: type, words: str) -> None:
    asked = {"source": "digits-cnn", "runtime": "onnxruntime", **request_}
    with pytest.raises(kind, match=words):
        open_session(asked.pop("source"), asked.pop("runtime"), isolate=True, **asked)


def test_errors_of_a_run_leave_the_session_as_it_was(tmp_path: Path) -> None:
    with open_session(write_double(tmp_path / "failing", replaced(fail="no")), "reference", isolate=True) as session:
        before = process_of(session)
        with pytest.raises(TensorError, match="got the inputs"):
            session.run({})
        for _ in range(2):
            with pytest.raises(EngineError, match="reference failed: no") as caught:
                session.run({"image": IMAGE})
            assert not isinstance(caught.value, RuntimeCrashed)
        assert process_of(session) == before


# A process that dies


def test_a_crash_is_an_error_and_the_next_call_works(session: Session) -> None:
    for _ in range(2):
        before = process_of(session)
        with pytest.raises(RuntimeCrashed, match=r"SIGSEGV.*last words were 'about to crash'.*next call") as caught:
            session.run({"image": FATAL})
        assert caught.value.exit_code == -signal.SIGSEGV
        assert gone(before)
        np.testing.assert_array_equal(session.run({"image": IMAGE})["upscaled"][:, :, ::2, ::2], IMAGE)
    assert session.placement().runtime == "reference"


def test_one_that_was_killed_for_memory_says_so(session: Session) -> None:
    os.kill(process_of(session), signal.SIGKILL)
    with pytest.raises(RuntimeCrashed, match="SIGKILL.*want of memory"):
        session.run({"image": IMAGE})
    with session.borrow({"image": IMAGE}) as outputs:
        assert outputs["upscaled"].shape == (1, 3, 8, 10)


def test_a_crash_in_the_background_comes_with_its_future(session: Session) -> None:
    assert isinstance(session.submit({"image": FATAL}).exception(30), RuntimeCrashed)
    assert session.submit({"image": IMAGE}).result(30)["upscaled"].shape == (1, 3, 8, 10)


def test_threads_that_share_it_get_results_or_the_crash(session: Session) -> None:
    wrong: list[object] = []

    def work(seed: int) -> None:
        image = np.random.default_rng(seed).random((1, 3, 4 + seed, 5), np.float32)
        for _ in range(20):
            try:
                out = session.run({"image": FATAL if seed == 3 and len(wrong) == 0 and _ == 5 else image})
            except RuntimeCrashed:
                continue
            if not np.array_equal(out["upscaled"][:, :, ::2, ::2], image):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    slow = write_double(tmp_path / "slow", replaced(delay_s=60.0))
    with open_session(slow, "reference", check=False, isolate=Isolation(timeout_s=0.3)) as session:
        before = process_of(session)
        with pytest.raises(RuntimeCrashed, match=r"did not answer for 0\.3 s and was ended"):
            session.run({"image": IMAGE})
        assert gone(before)
        assert session.placement().device == "cpu"


@pytest.mark.parametrize("timeout_s", [0, -1, "1", float("nan")])
def test_a_bound_that_is_none_is_refused(timeout_s: Any) -> None:
    with pytest.raises(InputError, match="timeout_s"):
        Isolation(timeout_s=timeout_s)


def test_an_interrupted_run_does_not_answer_the_next(tmp_path: Path) -> None:
    slow = write_double(tmp_path / "slow", replaced(delay_s=0.4))
    with open_session(slow, "reference", isolate=True) as session:
        session.run({"image": IMAGE})
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            session.run({"image": IMAGE * 0})
        np.testing.assert_array_equal(session.run({"image": IMAGE})["upscaled"][:, :, ::2, ::2], IMAGE)


# Its end


@pytest.mark.parametrize("how", ["close", "collected", "failed to open"])
def test_its_process_goes_with_it(fragile: Bundle, how: str) -> None:
    session = open_session(fragile, "reference", isolate=True)
    held = session.run({"image": IMAGE}, copy=False)["upscaled"]
    pid = process_of(session)
    if how == "close":
        session.close()
        with pytest.raises(SessionClosed):
            session.run({"image": IMAGE})
    del session
    gc.collect()
    assert gone(pid)
    np.testing.assert_array_equal(held[:, :, ::2, ::2], IMAGE)  # a lent result outlives it


SCRIPT = """
import os, signal, sys
import numpy as np
import edgekit
session = edgekit.open_session(sys.argv[1], "reference", isolate=True)  # no guard of __main__
session.run({"image": np.zeros((1, 3, 4, 5), np.float32)})
print(session._process._process.pid, flush=True)
"""


@pytest.mark.parametrize(
    "ending", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "session.submit({}); raise SystemExit(3)"]
)
def test_its_process_goes_with_the_program(fragile: Bundle, ending: str) -> None:
    script = [sys.executable, "-c", SCRIPT + ending, str(fragile.folder)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert gone(int(done.stdout)), done.stderr


def test_a_frozen_program_without_a_python_is_refused(fragile: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(InputError, match="isolate=False"):
        open_session(fragile, "reference", isolate=True)
