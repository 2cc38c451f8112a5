"""Calibration without data of one's own: what ships is like what a bundle takes, and comes close to real data."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.bundle import Bundle, write
from edgekit.errors import QuantizationError
from edgekit.quantization import zoo_inputs
from edgekit.quantization.zoo_inputs import crops, drawer, shipped


def test_crops_show_every_light_and_size() -> None:
    found = list(crops(30, 96))
    assert {c.shape for c in found} == {(96, 96, 3)} and {c.dtype for c in found} == {np.dtype("uint8")}
    assert len({c.tobytes() for c in found}) == 30
    means = [c.mean() for c in found]
    assert max(means) - min(means) > 80 and min(c.min() for c in found) < 5 and max(c.max() for c in found) == 255
    assert all(np.array_equal(a, b) for a, b in zip(found, crops(30, 96), strict=True))  # the same every time


@pytest.mark.parametrize(("name", "maker"), [("digits-cnn", "digits-gan"), ("digits-vae", "digits-gan"), ("sr-x2", "")])
def test_pictures_of_classes_are_drawn(name: str, maker: str) -> None:
    found = drawer(Bundle.open(name))
    assert (found.name if found else "") == maker


@pytest.mark.parametrize("name", ["sr-x2", "style-wave", "digits-cnn", "digits-vae", "digits-gan", "shakespeare-gru"])
def test_every_kind_of_bundle_gets_inputs(name: str) -> None:
    bundle = Bundle.open(name)
    found = shipped(bundle, 8)
    assert set(found) == set(bundle.manifest.components)
    for component, inputs in found.items():
        specs = bundle.component(component).inputs
        assert len(inputs) == 8 and all(len(arrays) == len(specs) for arrays in inputs)
        assert all(a.dtype == s.dtype for a, s in zip(inputs[0], specs, strict=True))
        assert any(a.std() > 0 for arrays in inputs for a in arrays)


def without_task(name: str, out: Path) -> Bundle:
    bundle = Bundle.open(name)
    out.mkdir()
    bundle.copy_files(out)
    write(out, msgspec.structs.replace(bundle.manifest, name=out.name, task=None, files=()))
    return Bundle.open(out)


def test_a_network_of_one_image_needs_no_task(tmp_path: Path) -> None:
    inputs = shipped(without_task("cifar-cnn", tmp_path / "net"), 6)["model"]
    assert len(inputs) == 6 and {arrays[0].shape for arrays in inputs} == {(1, 3, 32, 32)}


def test_nothing_ships_for_a_network_of_anything_else(tmp_path: Path) -> None:
    with pytest.raises(
        QuantizationError, match=r"nothing that ships is like what net takes \(latent: .*name real inputs"
    ):
        shipped(without_task("digits-gan", tmp_path / "net"))


def test_a_missing_photo_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_inputs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QuantizationError, match="photo that ships with edgekit is missing"):
        next(crops(1))
