"""What every task shares: components, answers that are numbers, and what a benchmark asks for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sdk.doubles import write_double

import edgekit
from edgekit.errors import BundleError, EngineError, InputError
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.tasks.task import Task
from edgekit.tasks.upscale import Upscaler, UpscaleSettings


class Plain(Task):
    name = "plain"
    Settings = UpscaleSettings

    def answer(self, image: np.ndarray) -> np.ndarray:
        return self._answer({"image": image})["upscaled"]


class TwoPart(Plain):
    components = ("model", "second")


def test_an_answer_is_the_session_s(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 3, 2, 3), np.float32)
    with Plain(write_double(tmp_path / "b"), "reference") as task:
        np.testing.assert_allclose(task.answer(image), image.repeat(2, axis=2).repeat(2, axis=3))


@pytest.mark.parametrize(("scale", "kind"), [(float("inf"), "infinity"), (float("nan"), "NaN")])
def test_nan_is_named_with_a_remedy(tmp_path: Path, scale: float, kind: str) -> None:
    with Plain(write_double(tmp_path / "b"), "reference") as task:
        with pytest.raises(EngineError, match=f"gave {kind} in 'upscaled'.*edgekit verify"):
            task._require_finite(np.array([1.0, scale], np.float32), "upscaled")


def test_int8_that_gives_nan_is_told_of_fp32(tmp_path: Path) -> None:
    with Plain(write_double(tmp_path / "b"), "reference") as task:
        int8 = msgspec.structs.replace(task._picked.variant, precision="int8")
        task._picked = replace(task._picked, variant=int8)
        with pytest.raises(EngineError, match="try precision='fp32'"):
            task._require_finite(np.array([np.nan], np.float32), "upscaled")


def test_a_missing_component_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no component 'second': it has model"):
        TwoPart(write_double(tmp_path / "b"), "reference")


def test_a_benchmark_gets_golden_values_where_no_image_is_taken(tmp_path: Path) -> None:
    with Plain(write_double(tmp_path / "b"), "reference") as task:
        session, inputs = task.example(np.empty((0, 0, 3), np.uint8))
        assert session.run(inputs)["upscaled"].shape == (1, 3, 10, 12)


def test_engine_options_go_to_every_session() -> None:
    with edgekit.load("cifar-cnn", "onnxruntime", options=OnnxRuntimeOptions(streams=2)) as task:
        assert task._session().streams == 2
    with edgekit.load("cifar-cnn", options=OnnxRuntimeOptions()) as task:
        assert task.placement().runtime == "onnxruntime"
    with pytest.raises(InputError, match="got options int: no engine that reads cifar-cnn takes them"):
        edgekit.load("cifar-cnn", options=3)
    with pytest.raises(InputError, match="got options OnnxRuntimeOptions: openvino takes OpenVinoOptions"):
        edgekit.load("cifar-cnn", "openvino", options=OnnxRuntimeOptions(streams=2))


def test_warms_up_on_an_image_of_the_size_that_will_come(tmp_path: Path) -> None:
    with Upscaler(write_double(tmp_path / "b"), "reference") as task:
        seen: list[tuple[int, ...]] = []
        task.once = lambda image: seen.append(image.shape)  # type: ignore[method-assign]
        task.warm_up()
        task.warm_up(np.zeros((7, 9, 3), np.uint8), runs=2)
    assert seen == [(64, 64, 3), (7, 9, 3), (7, 9, 3)]
