"""Classifier: any image in, ordered labels with probabilities out, the same in every engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import ImageError, InputError, ManifestError
from edgekit.exporters import ExportOptions, Source, export
from edgekit.manifest import Task
from edgekit.tensors import TensorSpec
from edgekit.zoo.classification import PlainNet

LABELS = ["cat", "dog", "frog"]
SETTINGS = {"labels": LABELS, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    image, logits = (
        TensorSpec("image", "float32", (1, 3, 32, 32), "NCHW", (0.0, 1.0)),
        TensorSpec("logits", "float32", (1, 3)),
    )
    probe = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    settings = {"widths": "8 16/2", "classes": 3}
    source = Source(PlainNet("8 16/2", 3).eval(), (image,), (logits,), ((probe,),), "classification", settings)
    options = ExportOptions(task=Task("classify", SETTINGS))
    return export(source, tmp_path_factory.mktemp("c") / "pets", options=options)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "litert", "torch"])
def test_engines_agree(bundle: Bundle, runtime: str, photo: np.ndarray) -> None:
    with edgekit.load(bundle, "torch") as reference, edgekit.load(bundle, runtime) as classify:
        np.testing.assert_allclose(classify.logits(photo), reference.logits(photo), atol=1e-5)
        labels = classify(photo)
    assert [label.name for label in labels] == [label.name for label in reference_order(labels)]
    assert sum(label.probability for label in labels) == pytest.approx(1.0)
    assert {label.name for label in labels} == set(LABELS)


def reference_order(labels: list) -> list:  # type: ignore[type-arg]
    return sorted(labels, key=lambda label: -label.probability)


def test_takes_any_image(bundle: Bundle, photo: np.ndarray) -> None:
    with edgekit.load(bundle, "onnxruntime") as classify:
        for image in (photo, photo[:, :, 0], photo[:10, :400], photo[:1, :1], np.dstack([photo, photo[:, :, 0]])):
            assert len(classify(image, top_k=2)) == 2
        with pytest.raises(ImageError):
            classify(np.zeros((3, 4, 5, 6), np.uint8))
        for top_k in (0, 2.0, True, "3"):
            with pytest.raises(InputError, match=f"top_k={top_k!r}"):
                classify(photo, top_k=top_k)  # type: ignore[arg-type]


def test_sees_the_middle(bundle: Bundle) -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    with edgekit.load(bundle, "onnxruntime") as classify:
        np.testing.assert_array_equal(classify.prepared(wide), wide[:, 32:64])


def test_classes_without_names_are_numbered(bundle: Bundle) -> None:
    import msgspec

    plain = msgspec.structs.replace(bundle.manifest, task=Task("classify", {"height": 32, "width": 32}))
    with edgekit.load(Bundle(bundle.folder, plain)) as classify:
        assert classify.labels == ("0", "1", "2")
        assert {label.name for label in classify(np.zeros((40, 40, 3), np.uint8))} == {"0", "1", "2"}


def test_settings_are_strict(bundle: Bundle, tmp_path: Path) -> None:
    import msgspec

    changes: list[tuple[dict[str, object], str]] = [
        ({"colour": 1}, "colour"),
        ({"height": 0}, "height"),
        ({"width": 12_000}, "width"),
        ({"height": 33}, "images of 33 × 32, the graph takes float32 1 × 3 × 32 × 32"),
        ({"labels": ["cat"]}, "1 labels, the graph gives float32 1 × 3"),
    ]
    for change, message in changes:
        wrong = msgspec.structs.replace(bundle.manifest, task=Task("classify", {**SETTINGS, **change}))
        with pytest.raises(ManifestError, match=message):
            edgekit.load(Bundle(bundle.folder, wrong))


def test_an_int8_border_is_hidden(photo: np.ndarray) -> None:
    """cifar-cnn's int8 TFLite file takes int8; its session takes float32 all the same, and agrees with the others."""
    with edgekit.load("cifar-cnn", "litert", precision="int8") as classify:
        session, _ = classify.example(photo)
        assert session.inputs[0].dtype == session.outputs[0].dtype == "float32"
        with edgekit.load("cifar-cnn", "onnxruntime", precision="int8") as other:
            np.testing.assert_allclose(classify.logits(photo), other.logits(photo), atol=0.2)
            assert classify(photo)[0].name == other(photo)[0].name
