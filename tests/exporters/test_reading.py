"""Reading: what is said beside a model is used, by component where there are several, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgekit
from edgekit.errors import InputError
from edgekit.exporters import ExportOptions, from_module
from edgekit.exporters.readers.reading import Asked, read
from edgekit.opening import open_session

IMAGE = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
CODE = np.ones((1, 4), np.float32)


class Coding(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3))


def test_several_modules_by_component(tmp_path: Path) -> None:
    options = ExportOptions(
        formats=["onnx"],
        names=["decoder/code", "encoder/image"],
        ranges={"encoder/image": (0.0, 1.0)},
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.3, 0.4],
    )
    modules = {"encoder": Coding(), "decoder": nn.Linear(4, 2)}
    dynamic = {"encoder/image": {2: "height", 3: "width"}}
    bundle = edgekit.export(modules, tmp_path / "b", [CODE, IMAGE], dynamic=dynamic, options=options)
    assert list(bundle.manifest.components) == ["encoder", "decoder"]
    image, code = (bundle.component(name).inputs[0] for name in modules)
    assert (image.name, image.shape, image.range) == ("image", (1, 3, "height", "width"), (0.0, 1.0))
    assert (code.name, code.shape, code.range) == ("code", (1, 4), None)
    with open_session(bundle, "onnxruntime", component="encoder") as session:
        (found,) = session.run({"image": IMAGE}).values()
    wanted = (IMAGE.mean((2, 3)) - np.array(options.mean)) / np.array(options.std)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "got no inputs of component 'encoder'"),
        ({"example_inputs": [IMAGE, CODE]}, "name each 'encoder/image'"),
        ({"example_inputs": [IMAGE], "names": ["image"]}, "got 'image', which no component has"),
        ({"example_inputs": [IMAGE], "names": ["other/image"]}, "got 'other/image', which no component has"),
        ({"dynamic": {"image": {2: "height"}}}, "got 'image', which no component has"),
        ({"weights": Path("w.pth")}, "got weights for the components"),
        ({"mean": [0.5] * 3}, "give both"),
    ],
)
def test_components_without_what_they_need(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read({"encoder": Coding(), "decoder": nn.Linear(4, 2)}, Asked(**asked))


def test_nothing_is_no_model() -> None:
    with pytest.raises(InputError, match="got no component"):
        read({}, Asked())
    with pytest.raises(InputError, match="got str: expected a torch.nn.Module"):
        read({"encoder": "a"}, Asked(example_inputs=[IMAGE], names=["encoder/image"]))


@pytest.mark.parametrize("several", [False, True])
def test_what_is_said_of_a_source_is_refused(several: bool) -> None:
    source = from_module(Coding(), [IMAGE])
    reference: Any = {"model": source} if several else source
    assert read(reference, Asked(ranges={"image": (0.0, 1.0)})).sources["model"].inputs[0].range == (0.0, 1.0)
    for asked in (
        {"mean": [0.5] * 3, "std": [0.5] * 3},
        {"example_inputs": [IMAGE]},
        {"names": ["x"]},
        {"dynamic": {"image": {2: "height"}}},
    ):
        with pytest.raises(InputError, match="leave them out|got weights"):
            read(reference, Asked(**asked))  # type: ignore[arg-type]


def test_a_range_of_a_tensor_that_two_have() -> None:
    sources = {name: from_module(Coding(), [IMAGE]) for name in ("one", "two")}
    with pytest.raises(InputError, match="one and two have: say 'one/image'"):
        read(sources, Asked(ranges={"image": (0.0, 1.0)}))
    found = read(sources, Asked(ranges={"two/image": (0.0, 1.0)})).sources
    assert [s.inputs[0].range for s in found.values()] == [None, (0.0, 1.0)]
    with pytest.raises(InputError, match="layout or range of"):
        read(sources, Asked(ranges={"two/other": (0.0, 1.0)}))


def test_a_mean_alone_is_refused() -> None:
    with pytest.raises(InputError, match="give both"):
        read(Coding(), Asked(example_inputs=[torch.rand(1, 3, 4, 4)], mean=[0.5] * 3))
