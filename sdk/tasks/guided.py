"""Guided: a bundle's denoising network, run with and without what an image is to show (Ho & Salimans 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgekit.bundle import Bundle
from edgekit.errors import ManifestError
from edgekit.schedulers import Float
from edgekit.tasks.conditions import Inputs
from edgekit.tasks.sampling import DiffuseSettings, Plan
from edgekit.tensors import Array

KNOWN = frozenset({"sample", "time", "guidance", "label", "text", "pooled", "mask", "sizes"})


class Guided:
    """The network of a bundle, asked for predictions.

    Guidance runs it twice on one sample: one run on both was 0 to 9 % faster for a UNet of 80 million parameters
    (one thread, ONNX Runtime and OpenVINO), and would need files of two batch sizes and twice the buffers.
    """

    def __init__(self, bundle: Bundle, settings: DiffuseSettings, runs: Callable[..., dict[str, Array]]) -> None:
        """`runs` runs a component on its inputs by name.

        Raises:
            ManifestError: the network's inputs are not those that the settings lead to.
        """
        specs = {spec.name: spec for spec in bundle.component("model").inputs}
        needed = {"sample", "time", *(["text"] if settings.prompt else ["label"] if settings.labels else [])}
        if not needed <= set(specs) <= KNOWN:
            raise ManifestError(f"{bundle.name} takes {', '.join(specs)}: 'diffuse' needs {', '.join(sorted(needed))}")
        if settings.labels and specs["label"].shape != (1, len(settings.labels)):
            raise ManifestError(f"{bundle.name}: label is {specs['label']}: expected 1 × {len(settings.labels)}")
        self._runs = runs
        self._distilled = "guidance" in specs  # it takes the guidance, and runs once
        self._factor = settings.latent.factor if settings.latent and "sizes" in specs else 0

    def predicted(self, plan: Plan, sample: Float, time: float, inputs: tuple[Inputs, Inputs]) -> Float:
        """The prediction for a sample at a time; `inputs` with and without the label or prompt."""
        shown, hidden = inputs
        if self._distilled:
            shown = {**shown, "guidance": _one(plan.guidance or 0.0)}
        if plan.guidance in (None, 1.0) or self._distilled or not shown:
            return self.once(plan.component, sample, time, shown)
        free = self.once(plan.component, sample, time, hidden)
        if plan.guidance == 0.0:
            return free
        predicted = self.once(plan.component, sample, time, shown)
        return np.asarray(free + np.float32(plan.guidance or 0.0) * (predicted - free), np.float32)

    def once(self, component: str, sample: Float, time: float, given: Mapping[str, Array]) -> Float:
        """One run of the network."""
        inputs = {"sample": sample, "time": _one(time), **given}
        if self._factor:
            inputs["sizes"] = np.array([sample.shape[2:]], np.float32) * np.float32(self._factor)
        (predicted,) = self._runs(inputs, component).values()
        return np.asarray(predicted, np.float32)


def _one(value: float) -> Float:
    return np.array([value], np.float32)
