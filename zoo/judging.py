"""Judging: samples beside real images, in the features of a classifier that ships."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgekit.bundle import Bundle
from edgekit.exporters.sources import from_bundle
from edgekit.images import UInt8, sheet
from edgekit.tasks import load
from edgekit.zoo.classification import PlainNet, to_batch
from edgekit.zoo.digits import LABELS, load_digits


def network(name: str) -> PlainNet:
    """The network of a classifier that ships, with weights that no gradient reaches."""
    net = from_bundle(Bundle.open(name)).module
    assert isinstance(net, PlainNet)
    net.requires_grad_(False)
    return net


@torch.no_grad()
def features(name: str, images: UInt8) -> npt.NDArray[np.float32]:
    """What a classifier that ships sees in images, count × 32 × 32 × (1 or 3): count × size."""
    net = network(name)
    batches = np.array_split(images, max(1, len(images) // 500))
    return torch.cat([net.features(to_batch(batch)) for batch in batches]).numpy()


def fidelity(bundle: Bundle, data: Path, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Figures of a bundle's samples in fp32: recognised by class, and the Fréchet distance to real digits.

    One sample for each of every second test image, of its class, is compared with these images in the
    features of digits-cnn; the floor is the distance between the two halves of the test images.
    `options` are further arguments of `.sample`.
    """
    from edgekit.quantization.metrics.generated import Recognised, frechet

    images, labels = load_digits(data, "test")
    with load(bundle, "onnxruntime", precision="fp32") as maker:
        made = np.stack(maker.sample(len(labels[::2]), labels=[LABELS[i] for i in labels[::2]], seed=0, **options))
    real, other, samples = (features("digits-cnn", p) for p in (images[::2], images[1::2], made[:, :, :, :1]))
    judge = Recognised(1000, seed=1, options=options)
    return {
        "recognised_percent_by_class": judge.by_class(bundle, "onnxruntime", "fp32"),
        "frechet_distance": round(frechet(samples, real), 4),
        "frechet_floor": round(frechet(other, real), 4),
        "frechet_protocol": f"features of digits-cnn, {len(made):,} samples against as many MNIST test images",
    }


def samples(bundle: Bundle) -> UInt8:
    """Ten samples of each class in a row, in fp32, enlarged twice: uint8 RGB."""
    with load(bundle, "onnxruntime", precision="fp32") as maker:
        return sheet(maker.sample(100, labels=[label for label in LABELS for _ in range(10)], seed=0))
