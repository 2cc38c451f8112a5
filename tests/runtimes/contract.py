"""The suite that every runtime passes: one small network, opened by each engine, held to the Session contract.

A runtime's test class inherits RuntimeContract and gives the fixture `case`.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import DeviceUnavailable, EngineError, InputError, NotInstalled, SessionClosed, TensorError
from edgekit.opening import SUFFIXES, open_session, runtime
from edgekit.session import Model, Session
from edgekit.tensors import TensorSpec, axes


@dataclass(frozen=True)
class Case:
    """An engine, a file for it, an input that fits, and the output that PyTorch (or NumPy) gives for it."""

    runtime: str
    model: Model
    input: np.ndarray
    expected: np.ndarray
    package: str | None
    tolerance: float = 1e-5

    def open(self, **changes: Any) -> Session:
        engine = runtime(self.runtime)
        request = {"device": "cpu", "threads": 1, "options": engine.options(), "model": self.model, **changes}
        return engine.open(request["model"], request["device"], request["threads"], request["options"])


def in_layout(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """An NCHW array as the spec has it."""
    return np.ascontiguousarray(array.transpose(axes("NCHW", "NHWC"))) if spec.layout == "NHWC" else array


class RuntimeContract:
    """What every engine's session does and refuses."""

    @pytest.fixture
    def session(self, case: Case) -> Any:
        with case.open() as session:
            yield session

    @pytest.fixture
    def feeds(self, case: Case, session: Session) -> dict[str, np.ndarray]:
        return {session.inputs[0].name: in_layout(case.input, session.inputs[0])}

    def result(self, session: Session, outputs: dict[str, np.ndarray]) -> np.ndarray:
        spec = session.outputs[0]
        return outputs[spec.name].transpose(axes("NHWC", "NCHW")) if spec.layout == "NHWC" else outputs[spec.name]

    def test_states_its_tensors(self, session: Session) -> None:
        assert all(isinstance(spec, TensorSpec) for spec in (*session.inputs, *session.outputs))
        assert session.inputs[0].dtype == "float32" and len(session.inputs[0].shape) == 4

    def test_computes_what_is_expected(self, case: Case, session: Session, feeds: dict[str, np.ndarray]) -> None:
        outputs = session.run(feeds)
        assert list(outputs) == [spec.name for spec in session.outputs]
        np.testing.assert_allclose(self.result(session, outputs), case.expected, atol=case.tolerance)

    def test_result_is_the_callers_own(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        name = session.outputs[0].name
        first = session.run(feeds)[name]
        kept = first.copy()
        session.run({key: value * 0.5 for key, value in feeds.items()})
        np.testing.assert_array_equal(first, kept)
        first[...] = 7.0  # writable
        np.testing.assert_array_equal(session.run(feeds)[name], kept)

    def test_without_copy_gives_the_same_values(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        name = session.outputs[0].name
        expected = session.run(feeds)[name]
        np.testing.assert_array_equal(session.run(feeds, copy=False)[name].copy(), expected)
        held = session.run(feeds, copy=False)  # results that are still held do not hinder the next run
        np.testing.assert_array_equal(session.run(feeds, copy=False)[name], expected)
        del held

    def test_lends_the_same_values(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        name = session.outputs[0].name
        expected = session.run(feeds)[name]
        with session.borrow(feeds) as outputs:
            np.testing.assert_array_equal(outputs[name], expected)
        with pytest.raises(TensorError), session.borrow({}):
            pass

    def test_never_writes_to_an_input(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        name = session.inputs[0].name
        frozen = feeds[name].copy()
        frozen.flags.writeable = False
        expected = session.run(feeds)[session.outputs[0].name]
        np.testing.assert_array_equal(session.run({name: frozen})[session.outputs[0].name], expected)
        np.testing.assert_array_equal(frozen, feeds[name])

    def test_takes_arrays_that_are_not_contiguous(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        (name, array), output = next(iter(feeds.items())), session.outputs[0].name
        strided = np.repeat(array, 2, axis=3)[..., ::2]
        assert not strided.flags.c_contiguous
        np.testing.assert_array_equal(session.run({name: strided})[output], session.run(feeds)[output])

    def test_refuses_what_does_not_fit(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        name, array = next(iter(feeds.items()))
        nan = array.copy()
        nan.reshape(-1)[5] = np.nan
        bad = {
            "float64": {name: array.astype(np.float64)},
            "shape": {name: array[0]},
            "expected": {"other": array},
            "inputs": {},
            "list": {name: array.tolist()},
            "NaN": {name: nan},
        }
        for word, inputs in bad.items():
            with pytest.raises(TensorError, match=word) as caught:
                session.run(inputs)
            assert "expected" in str(caught.value)

    def test_serves_several_threads(self, case: Case, session: Session, feeds: dict[str, np.ndarray]) -> None:
        wrong: list[float] = []
        scales = [1.0, 0.5, 0.25, 0.125]
        alone = {s: session.run({k: v * np.float32(s) for k, v in feeds.items()}) for s in scales}

        def work(scale: float) -> None:
            inputs = {key: value * np.float32(scale) for key, value in feeds.items()}
            for _ in range(10):
                output = session.run(inputs)[session.outputs[0].name]
                wrong.append(float(np.abs(output - alone[scale][session.outputs[0].name]).max()))

        threads = [threading.Thread(target=work, args=(scale,)) for scale in scales]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wrong) == 40 and max(wrong) <= case.tolerance

    def test_submits(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        future = session.submit(feeds)
        assert isinstance(future, Future)
        output = session.outputs[0].name
        np.testing.assert_array_equal(future.result(60)[output], session.run(feeds)[output])
        with pytest.raises(TensorError):
            session.submit({}).result(60)

    def test_submitting_does_not_wait_for_a_run(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        with session._lock:  # as if the engine were busy
            thread = threading.Thread(target=lambda: session.submit(feeds))
            thread.start()
            thread.join(5)
            assert not thread.is_alive()

    def test_maps_a_stream_in_order(self, case: Case, session: Session, feeds: dict[str, np.ndarray]) -> None:
        output, scales = session.outputs[0].name, [np.float32(1 / (n + 1)) for n in range(12)]
        alone = [session.run({k: v * s for k, v in feeds.items()})[output] for s in scales]
        stream = ({k: v * s for k, v in feeds.items()} for s in scales)
        results = [result[output] for result in session.map(stream)]  # kept to the end: they are the caller's own
        assert len(results) == len(alone)
        for result, expected in zip(results, alone, strict=True):
            np.testing.assert_allclose(result, expected, atol=case.tolerance)
        results[0][...] = 7.0  # writable
        assert list(session.map([])) == []

    def test_maps_on_several_streams(self, case: Case, feeds: dict[str, np.ndarray]) -> None:
        options = runtime(case.runtime).options
        if "streams" not in options.__dataclass_fields__:
            pytest.skip("this engine has one stream")
        with case.open(options=options(streams=2), threads=2) as session:
            if case.runtime != session.placement().runtime or type(session).__name__ == "IsolatedSession":
                pytest.skip("a process of its own runs one at a time")
            assert session.streams == 2
            output = session.outputs[0].name
            expected = session.run(feeds)[output]
            for result in session.map([feeds] * 9):
                np.testing.assert_allclose(result[output], expected, atol=case.tolerance)
        for wrong in (0, -1, 1.5, "two", True):
            with pytest.raises(InputError, match="streams"):
                options(streams=wrong)

    def test_map_takes_no_more_than_it_was_told(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        taken: list[int] = []
        stream = (taken.append(n) or feeds for n in range(100))
        results = session.map(stream, ahead=3)
        assert not taken
        next(results)
        assert len(taken) == 4
        next(results)
        assert len(taken) == 5
        results.close()
        assert len(taken) == 5
        with pytest.raises(InputError, match="ahead"):
            session.map([], ahead=-1)

    def test_map_raises_in_the_turn_of_the_input(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        output, expected = session.outputs[0].name, session.run(feeds)
        name, array = next(iter(feeds.items()))
        done = 0
        with pytest.raises(TensorError, match="shape"):
            for result in session.map([feeds, feeds, {name: array[0]}, feeds], ahead=3):
                np.testing.assert_array_equal(result[output], expected[output])
                done += 1
        assert done == 2

        def broken() -> Any:
            yield feeds
            raise OSError("the camera fell off")

        results = session.map(broken(), ahead=3)
        np.testing.assert_array_equal(next(results)[output], expected[output])
        with pytest.raises(OSError, match="fell off"):
            next(results)
        np.testing.assert_array_equal(session.run(feeds)[output], expected[output])

    def test_leaving_a_map_leaves_nothing_running(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        before = threading.active_count()
        for _ in session.map([feeds] * 50, ahead=8):
            break
        results = session.map([feeds] * 50)
        next(results)
        del results
        assert threading.active_count() == before and not list(session._flights)

    def test_closing_ends_a_map(self, case: Case, feeds: dict[str, np.ndarray]) -> None:
        session = case.open()
        results = session.map([feeds] * 50)
        next(results)
        session.close()
        with pytest.raises(SessionClosed, match="open_session"):
            for _ in results:
                pass
        with pytest.raises(SessionClosed):
            session.map([feeds])

    def test_runs_beside_a_map(self, case: Case, session: Session, feeds: dict[str, np.ndarray]) -> None:
        output = session.outputs[0].name
        expected = session.run(feeds)[output]
        with ThreadPoolExecutor(2) as pool:
            maps = [pool.submit(lambda: [r[output] for r in session.map([feeds] * 8)]) for _ in range(2)]
            mine = [session.run(feeds)[output] for _ in range(8)]
            for result in (*mine, *maps[0].result(60), *maps[1].result(60)):
                np.testing.assert_allclose(result, expected, atol=case.tolerance)

    def test_warms_up(self, session: Session, feeds: dict[str, np.ndarray]) -> None:
        session.warm_up(feeds, runs=2)
        if all(isinstance(d, int) for d in session.inputs[0].shape):
            session.warm_up(runs=1)
        else:
            with pytest.raises(InputError, match="free"):
                session.warm_up()

    def test_closes_once_and_says_so(self, case: Case, feeds: dict[str, np.ndarray]) -> None:
        session = case.open()
        pending = session.submit(feeds)
        session.close()
        session.close()
        assert pending.done()
        for call in (lambda: session.run(feeds), lambda: session.submit(feeds), session.placement):
            with pytest.raises(SessionClosed, match="open_session"):
                call()

    def test_closing_waits_for_runs_under_way(self, case: Case, feeds: dict[str, np.ndarray]) -> None:
        session = case.open()
        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(session.run, feeds) for _ in range(12)]
            session.close()
        assert all(isinstance(run.exception(), (SessionClosed, type(None))) for run in runs)

    def test_placement_comes_from_the_engine(self, case: Case, session: Session) -> None:
        placement = session.placement()
        assert (placement.runtime, placement.device, placement.requested) == (case.runtime, "cpu", "cpu")
        assert placement.precision == "fp32" and placement.version and sum(placement.operators.values()) > 0

    def test_a_device_is_strict(self, case: Case) -> None:
        with pytest.raises(DeviceUnavailable, match="npu"):
            case.open(device="npu")

    def test_a_broken_file_is_named(self, case: Case, tmp_path: Path) -> None:
        whole = case.model.path.read_bytes()
        for kind, data in {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a model" * 40}.items():
            path = tmp_path / f"{kind}{case.model.path.suffix}"
            path.write_bytes(data)
            with pytest.raises(EngineError, match=path.name):
                with case.open(model=replace(case.model, path=path)) as session:
                    session.run({session.inputs[0].name: in_layout(case.input, session.inputs[0])})

    def test_names_the_missing_package(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        if case.package is None:
            pytest.skip("needs NumPy alone")
        for name in (case.package, "tflite_runtime") if case.runtime == "litert" else (case.package,):
            monkeypatch.setitem(sys.modules, name, None)
        engine = runtime(case.runtime)
        assert not engine.installed()
        for call in (engine.version, engine.devices, case.open):
            with pytest.raises(NotInstalled, match="pip install"):
                call()

    def test_devices_lists_the_cpu(self, case: Case) -> None:
        rows = runtime(case.runtime).devices()
        assert any(row.name == "cpu" and row.usable and row.title for row in rows)

    def test_refuses_options_of_another_engine(self, case: Case) -> None:
        if case.model.path.suffix not in SUFFIXES or case.model.family is not None:
            pytest.skip("this format is not opened as a lone file")
        with pytest.raises((InputError, TypeError)):
            open_session(case.model.path, case.runtime, options=object())
