"""GPUs that are really there: each answers as the processor does, in fp32 that is fp32. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest

import edgekit
from edgekit.opening import open_session
from edgekit.runtimes.onnxruntime_ import OnnxRuntimeOptions
from edgekit.session import Device

ENGINES = ("onnxruntime", "torch", "openvino")
TOLERANCE = 1e-4  # TF32 or bf16 would be off by 1e-3


def gpus(engine: str) -> list[Device]:
    rows = [row for row in edgekit.devices() if row.runtime == engine and row.name.startswith("gpu")]
    found = [row for row in rows if row.usable and row.kind == "hardware"]
    if not found:
        pytest.skip("; ".join(f"{row.title}: {row.why}" for row in rows))
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gpu_answers_as_the_processor_does(engine: str) -> None:
    image = {"image": np.random.default_rng(0).random((1, 3, 64, 64), np.float32)}
    for row in gpus(engine):
        options = OnnxRuntimeOptions(provider=row.provider) if row.provider else None
        with open_session("sr-x2", engine, device="cpu", precision="fp32") as session:
            expected = session.run(image)["upscaled"]
        with open_session("sr-x2", engine, device=row.name, precision="fp32", options=options) as session:
            found, placement = session.run(image)["upscaled"], session.placement()
        assert (placement.device, placement.precision) == (row.name, "fp32")
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_more_gpu_than_there_are_is_refused(engine: str) -> None:
    numbers = [int(row.name.partition(":")[2] or 0) for row in gpus(engine)]
    with pytest.raises(edgekit.EdgekitError, match="gpu"):
        open_session("sr-x2", engine, device=f"gpu:{max(numbers) + 1}", precision="fp32")
