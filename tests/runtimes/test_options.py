"""What engines are told of threads, cores and streams, and what they refuse."""

from __future__ import annotations

import os
from typing import Any

import pytest

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.opening import open_session
from edgekit.runtimes import LiteRtOptions, OnnxRuntimeOptions, OpenVinoOptions


@pytest.mark.parametrize(
    ("kind", "wrong", "word"),
    [
        (OpenVinoOptions, {"performance_hint": "FAST"}, "LATENCY"),
        (OpenVinoOptions, {"inference_precision": "fp32"}, "f32"),
        (OpenVinoOptions, {"cores": "big"}, "efficiency"),
        (OpenVinoOptions, {"streams": 0}, "1 to 256"),
        (OpenVinoOptions, {"cache": 1}, "folder"),
        (OnnxRuntimeOptions, {"cache": ""}, "folder"),
        (OnnxRuntimeOptions, {"streams": "2"}, "1 to 256"),
        (OnnxRuntimeOptions, {"processors": (4096,)}, "this machine"),
        (OnnxRuntimeOptions, {"processors": [0]}, "tuple"),
        (LiteRtOptions, {"streams": 2.0}, "1 to 256"),
    ],
)
def test_refuses_what_it_does_not_take(kind: Any, wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        kind(**wrong)
    assert next(iter(wrong)) in str(caught.value)


def test_openvino_is_told_of_threads_streams_and_cores() -> None:
    bundle = Bundle.open("digits-cnn")
    options = OpenVinoOptions(streams=2, pin=False, cores="performance")
    with open_session(bundle, "openvino", threads=2, options=options) as session:
        told: Any = session
        assert session.streams == 2 and session.placement().threads == 2
        assert int(told._compiled.get_property("NUM_STREAMS")) == 2
        assert not told._compiled.get_property("ENABLE_CPU_PINNING")
        assert "PCORE" in str(told._compiled.get_property("SCHEDULING_CORE_TYPE"))
        session.warm_up(runs=1)


def test_onnxruntime_holds_its_threads_to_processors() -> None:
    bundle, last = Bundle.open("digits-cnn"), (os.cpu_count() or 1) - 1
    with open_session(bundle, "onnxruntime", options=OnnxRuntimeOptions(processors=(last,))) as session:
        assert session.placement().threads == 2
        session.warm_up(runs=1)
    with pytest.raises(InputError, match="caller's own"):
        open_session(bundle, "onnxruntime", threads=4, options=OnnxRuntimeOptions(processors=(last,)))


@pytest.mark.parametrize(
    ("engine", "options"), [("onnxruntime", OnnxRuntimeOptions(streams=2)), ("litert", LiteRtOptions(streams=2))]
)
def test_streams_share_the_threads(engine: str, options: Any) -> None:
    with open_session("digits-cnn", engine, threads=2, options=options) as session:
        assert session.streams == 2 and session.placement().threads == 1
