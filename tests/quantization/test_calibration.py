"""Calibration data: recorded while a task works, drawn, read from arrays; and what cannot calibrate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import Bundle
from edgekit.errors import ImageError, QuantizationError
from edgekit.images import write_image
from edgekit.quantization import calibration
from edgekit.tensors import TensorSpec

CODE = (TensorSpec("code", "float32", (1, 4)), TensorSpec("hot", "float32", (1, 2)))


@pytest.fixture
def folder(tmp_path: Path, photo: np.ndarray) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(3):
        write_image(place / f"{i}.png", np.ascontiguousarray(photo[i * 100 : i * 100 + 250, :260]))
    return place


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("sr-x2", {"model": [(1, 3, 192, 192)]}),
        ("cifar-cnn", {"model": [(1, 3, 32, 32)]}),
        ("digits-vae", {"encoder": [(1, 1, 32, 32)], "decoder": [(1, 32)]}),
    ],
)
def test_photos_go_through_the_task(folder: Path, name: str, shapes: dict[str, list[tuple[int, ...]]]) -> None:
    found = calibration.from_path(Bundle.open(name), folder)
    assert {k: [a.shape for a in v[0]] for k, v in found.items()} == shapes
    assert all(len(v) == 3 for v in found.values())


def test_every_class_of_a_sorted_collection_is_seen(tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for index in range(5):
            write_image(tmp_path / str(label) / f"{index}.png", np.full((32, 32, 3), 25 * label, np.uint8))
    found = calibration.from_path(Bundle.open("digits-cnn"), tmp_path, 20)["model"]
    assert len(found) == 20 and len({float(arrays[0].mean().round(3)) for arrays in found}) == 10


def test_a_decoder_sees_the_codes_of_the_encoder(folder: Path) -> None:
    bundle = Bundle.open("digits-vae")
    found = calibration.from_path(bundle, folder)
    from edgekit.opening import open_session

    with open_session(bundle, "onnxruntime", precision="fp32", component="encoder") as encoder:
        (name,) = (spec.name for spec in encoder.inputs)
        codes = encoder.run({name: found["encoder"][1][0]})[encoder.outputs[0].name]
    np.testing.assert_allclose(found["decoder"][1][0], codes, atol=1e-5)


@pytest.mark.parametrize("name", ["digits-gan", "digits-diffusion", "shakespeare-gru"])
def test_what_a_task_draws_calibrates_it(name: str) -> None:
    bundle = Bundle.open(name)
    assert calibration.draws_itself(bundle)
    found = calibration.drawn(bundle, 16)
    assert set(found) == set(bundle.manifest.components) and all(4 <= len(v) <= 16 for v in found.values())
    again = calibration.drawn(bundle, 16)
    for component, inputs in found.items():
        np.testing.assert_array_equal(inputs[-1][0], again[component][-1][0])


def test_a_text_is_read_by_the_writer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("To be, or not to be: that is the question.\n")
    found = calibration.from_path(Bundle.open("shakespeare-gru"), tmp_path / "a.txt", 20)
    assert len(found["model"]) == 20 and len({int(arrays[0][0]) for arrays in found["model"]}) > 5


def test_noise_is_the_last_resort() -> None:
    bundle = Bundle.open("cifar-cnn")
    assert not calibration.draws_itself(bundle)
    (image,) = calibration.drawn(bundle, 2)["model"][0]
    assert image.shape == (1, 3, 32, 32) and 0 <= image.min() < image.max() <= 1


def test_arrays_are_rows_by_name(tmp_path: Path) -> None:
    codes, hots = np.random.default_rng(0).random((5, 1, 4), np.float32), np.ones((5, 1, 2), np.float32)
    np.savez(tmp_path / "a.npz", code=codes, hot=hots)
    found = calibration.from_arrays(tmp_path / "a.npz", CODE)
    assert len(found) == 5 and found[2][0].shape == (1, 4)
    assert calibration.checked(found, CODE) is found
    np.savez(tmp_path / "b.npz", code=codes)
    with pytest.raises(QuantizationError, match="expected \\['code', 'hot'\\]"):
        calibration.from_arrays(tmp_path / "b.npz", CODE)
    (tmp_path / "c.npz").write_bytes(b"PK nothing")
    with pytest.raises(QuantizationError, match="holds no arrays"):
        calibration.from_arrays(tmp_path / "c.npz", CODE)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), "every calibration value of image is 0"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "NaN"),
        (np.zeros((1, 1, 8, 8), np.float32), "got shape"),
        (np.zeros((1, 3, 8, 8), np.float64), "got dtype float64"),
    ],
)
def test_what_shows_no_range_is_refused(array: np.ndarray, message: str) -> None:
    spec = TensorSpec("image", "float32", (1, 3, "height", "width"), "NCHW")
    with pytest.raises(QuantizationError, match=message):
        calibration.checked([(array,)] * 2, [spec])


def test_nothing_calibrates_nothing(tmp_path: Path) -> None:
    bundle = Bundle.open("sr-x2")
    with pytest.raises(QuantizationError, match="got no calibration inputs"):
        calibration.checked([], bundle.component().inputs)
    with pytest.raises(QuantizationError, match="no calibration data at"):
        calibration.from_path(bundle, tmp_path / "none")
    with pytest.raises(ImageError, match="no images"):
        calibration.from_path(bundle, tmp_path)
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(QuantizationError, match="cannot calibrate on str"):
        calibration.from_path(bundle, tmp_path / "a.txt")
