"""Error of a diffusion network's own task: to tell image and noise apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.images import UInt8
from edgekit.opening import open_session
from edgekit.quantization.metrics.metric import Metric
from edgekit.schedulers import Schedule
from edgekit.session import Session
from edgekit.tensors import Array, axes


@dataclass
class DenoisingError(Metric):
    """Mean squared error of the predicted velocity, on images under noise of evenly spread times.

    It is what the network was trained on, and unlike the quality of samples it is exact to three figures
    with a few hundred runs. The bundle's `model` is one of task "diffuse" with v-prediction.

    Args:
        images: count × height × width × channels in 0…255, apart from those of the training.
        labels: their classes.
    """

    images: UInt8
    labels: npt.NDArray[np.int64]
    data: str
    classes: int = 10
    seed: int = 0
    name: str = "velocity_mse"
    higher_is_better: bool = False

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        if bundle.manifest.task is None or bundle.manifest.task.settings.get("prediction") != "velocity":
            raise InputError(f"{bundle.name} does not state that it predicts the velocity")
        schedule, random = Schedule(), np.random.default_rng(self.seed)
        errors = []
        with open_session(bundle, runtime, precision=precision) as session:
            for index, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
                time = (index + 0.5) / len(self.images)
                clean = np.asarray(image.transpose(2, 0, 1)[None] / 127.5 - 1.0, np.float32)
                noise = random.standard_normal(clean.shape, np.float32)
                velocity = schedule.alpha(time) * noise - schedule.sigma(time) * clean
                one_hot = np.eye(self.classes, dtype=np.float32)[[label]]
                predicted = _predicted(session, schedule.noised(clean, noise, time), time, one_hot)
                errors.append(float(np.mean((predicted - velocity) ** 2)))
        return float(np.mean(errors))


def _predicted(session: Session, sample: Array, time: float, one_hot: Array) -> Array:
    """The network's answer, in NCHW like the sample."""
    [spec] = [s for s in session.inputs if s.name == "sample"]
    if spec.layout == "NHWC":
        sample = np.ascontiguousarray(sample.transpose(axes("NCHW", "NHWC")))
    inputs = {"sample": sample, "time": np.array([time], np.float32), "label": one_hot}
    (result,) = session.run(inputs).values()
    return result.transpose(axes("NHWC", "NCHW")) if session.outputs[0].layout == "NHWC" else result
