"""Many threads on one session of every engine: each gets its own answer, and closing in the middle ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import SessionClosed
from edgekit.opening import open_session
from edgekit.session import Session
from edgekit.verify import feeds

THREADS, RUNS = 16, 12
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert", "torch": "torch"}
Feeds = dict[str, np.ndarray]


def borrowed(session: Session, inputs: Feeds) -> dict[str, np.ndarray]:
    with session.borrow(inputs) as outputs:
        return {name: array.copy() for name, array in outputs.items()}


WAYS: tuple[Callable[[Session, Feeds], Any], ...] = (
    lambda session, inputs: session.run(inputs),
    lambda session, inputs: session.submit(inputs).result(60),
    lambda session, inputs: next(iter(session.map([inputs]))),
    borrowed,
)


@pytest.fixture(params=[*PACKAGES, "isolated"])
def session(request: pytest.FixtureRequest) -> Any:
    engine = "onnxruntime" if request.param == "isolated" else request.param
    pytest.importorskip(PACKAGES[engine])
    with open_session("digits-cnn", engine, precision="fp32", threads=2, isolate=request.param == "isolated") as opened:
        yield opened


def inputs_of(session: Session) -> list[Feeds]:
    """Inputs that are told apart by their answers."""
    component, golden = (bundle := Bundle.open("digits-cnn")).component(), bundle.golden()
    sample = feeds(session, [golden[spec.name] for spec in component.inputs], component.inputs)
    return [{name: array * np.float32(1 - n / (2 * THREADS)) for name, array in sample.items()} for n in range(THREADS)]


def together(work: Callable[[int], None]) -> list[BaseException]:
    """What goes wrong in as many threads at once; none is left behind."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return errors


@pytest.mark.timeout(300)
def test_each_thread_gets_its_own_answer(session: Session) -> None:
    inputs = inputs_of(session)
    expected = [session.run(own) for own in inputs]
    answers = [next(iter(e.values())) for e in expected]
    assert all(np.abs(a - b).max() > 1e-3 for a, b in pairwise(answers))

    def work(number: int) -> None:
        for run in range(RUNS):
            outputs = WAYS[(number + run) % len(WAYS)](session, inputs[number])
            for name, array in outputs.items():
                np.testing.assert_allclose(array, expected[number][name], atol=1e-4)

    assert together(work) == []


@pytest.mark.timeout(300)
def test_closing_in_the_middle_ends_all_with_results_or_session_closed(session: Session) -> None:
    inputs = inputs_of(session)
    under_way = threading.Barrier(THREADS)

    def work(number: int) -> None:
        WAYS[number % len(WAYS)](session, inputs[number])
        under_way.wait(60)
        if number == 0:
            session.close()
        while True:  # until it is closed
            WAYS[number % len(WAYS)](session, inputs[number])

    errors = together(work)
    assert len(errors) == THREADS and {type(error) for error in errors} == {SessionClosed}, errors
