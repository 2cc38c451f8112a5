"""Layouts: files of weights as people have them are recognised, compute what was published, and run on every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import InputError
from edgekit.exporters import ExportOptions
from edgekit.exporters.readers.layouts.reader import LayoutReader
from edgekit.exporters.readers.layouts.weights import read_weights
from edgekit.exporters.readers.reading import Asked, Prepared, read
from edgekit.manifest import Task
from exporters import published

ENGINES = ("onnxruntime", "openvino", "litert", "torch")


def prepared(state: Any, path: Path, **asked: Any) -> Prepared:
    torch.save(state, path)
    assert LayoutReader().reads(str(path))
    return read(str(path), Asked(**asked))


def picture(height: int = 24, width: int = 28) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("name", "channels", "convs", "scale"),
    [
        ("realesr-general-x4v3.pth", 64, 32, 4),
        ("realesr-animevideov3.pth", 64, 16, 4),
        ("RealESRGANv2-animevideo-xsx2.pth", 64, 16, 2),
        ("1x-compact.pth", 24, 8, 1),
    ],
)
def test_published_compact_networks(name: str, channels: int, convs: int, scale: int, tmp_path: Path) -> None:
    state = published.compact(scale, channels, convs)
    found = prepared({"params": state}, tmp_path / name)
    source = found.sources["model"]
    expected = {"scale": scale, "channels": channels, "convs": convs, "activation": "prelu"}
    assert (source.family, source.settings) == ("srvgg", expected)
    assert found.task == Task("upscale", {"scale": scale, "halo": convs + 2})
    assert found.provenance["weights"]["file"] == name and f"×{scale}" in found.summary
    with torch.no_grad():
        result, truth = source.module(picture()), published.run_compact(state, picture(), scale)
    torch.testing.assert_close(result, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "leakyrelu"])
def test_a_compact_network_without_slopes_needs_a_word(activation: str, tmp_path: Path) -> None:
    state = {k: v for k, v in published.compact().items() if int(k.split(".")[1]) % 2 == 0}
    with pytest.raises(InputError, match="--setting activation=relu"):
        prepared(state, tmp_path / "anime.pth")
    found = prepared(state, tmp_path / "anime.pth", settings={"activation": activation})
    assert found.sources["model"].settings["activation"] == activation
    assert found.task == Task("upscale", {"scale": 4, "halo": 5})
    slopes = {f"body.{2 * i + 1}.weight": torch.full((8,), 0.1 if activation == "leakyrelu" else 0.0) for i in range(4)}
    truth = published.run_compact({**state, **slopes}, picture())
    torch.testing.assert_close(found.sources["model"].module(picture()), truth, atol=1e-5, rtol=1e-4)


LUMA_NETS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("model_epoch_30.pth", lambda: published.ExamplesEspcn(3), 3),
    ("epoch_3_100.pt", lambda: published.ThreeConvEspcn(3), 3),
    ("espcn_x3.pth", lambda: published.PartsEspcn(3), 3),
    ("ESPCN_x4-T91.pth.tar", lambda: published.PartsEspcn(4, ("feature_maps", "sub_pixel"), True), 4),
    ("fsrcnn_x2.pth", lambda: published.PartsFsrcnn(2), 2),
    ("fsrcnn_x3.pth", lambda: published.PartsFsrcnn(3), 3),
    ("fsrcnn_x4.pth", lambda: published.PartsFsrcnn(4), 4),
    ("fsrcnn_x2-T91-f791f07f.pth.tar", lambda: published.NamedFsrcnn(2), 2),
]


@pytest.mark.parametrize(("name", "build", "scale"), LUMA_NETS, ids=[row[0] for row in LUMA_NETS])
def test_networks_of_brightness_enlarge_colour(
    name: str, build: Callable[[], nn.Module], scale: int, tmp_path: Path
) -> None:
    net = published.trained(build())
    found = prepared({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / name)
    with torch.no_grad():
        result = found.sources["model"].module(picture())
        truth = published.coloured(net, picture(), scale)
    assert found.task is not None and found.task.settings["scale"] == scale
    torch.testing.assert_close(result, truth, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "build", "scale"), LUMA_NETS, ids=[row[0] for row in LUMA_NETS])
def test_the_halo_is_what_a_pixel_depends_on(
    name: str, build: Callable[[], nn.Module], scale: int, tmp_path: Path
) -> None:
    found = prepared(published.trained(build()).state_dict(), tmp_path / name)
    module, task = found.sources["model"].module, found.task
    assert task is not None
    halo, image = task.settings["halo"], picture(48, 48)

    def unlike(around: int) -> float:
        """The largest error in the middle where what lies further than `around` pixels from it is cut off."""
        with torch.no_grad():
            whole, part = module(image), module(image[:, :, 20 - around : 28 + around, 20 - around : 28 + around])
        inner = slice(around * scale, (around + 8) * scale), slice(20 * scale, 28 * scale)
        return float((part[:, :, inner[0], inner[0]] - whole[:, :, inner[1], inner[1]]).abs().max())

    assert unlike(halo) < 1e-5 < unlike(halo - 1)


def test_a_colour_espcn_takes_the_three_channels(tmp_path: Path) -> None:
    net = published.PartsEspcn(2, ("feature_maps", "sub_pixel"), True)
    net.feature_maps[0] = nn.Conv2d(3, 8, 5, padding=2)  # type: ignore[index,operator]
    net.sub_pixel[0] = nn.Conv2d(6, 12, 3, padding=1)  # type: ignore[index,operator]
    found = prepared(published.trained(net).state_dict(), tmp_path / "rgb.pth")
    assert found.sources["model"].settings["channels"] == 3
    torch.testing.assert_close(found.sources["model"].module(picture()), net(picture()), atol=1e-6, rtol=1e-5)


def test_fsrcnn_needs_its_scale_from_somewhere(tmp_path: Path) -> None:
    state = published.PartsFsrcnn(3).state_dict()
    with pytest.raises(InputError, match="--setting scale=2"):
        prepared(state, tmp_path / "best.pth")
    found = prepared(state, tmp_path / "best.pth", settings={"scale": 3})
    assert found.sources["model"].settings["scale"] == 3
    assert found.task is not None and found.task.settings == {"scale": 3, "halo": found.task.settings["halo"]}


@pytest.mark.parametrize("old", [False, True])
def test_fast_neural_style(old: bool, tmp_path: Path) -> None:
    net = published.trained(published.Painter())
    state = dict(net.state_dict())
    if old:  # files from before PyTorch 0.4 hold statistics that nothing uses
        norms = [k.removesuffix("weight") for k, t in state.items() if k.endswith("weight") and t.ndim == 1]
        state |= {f"{n}running_mean": torch.rand(8) for n in norms} | {f"{n}running_var": torch.rand(8) for n in norms}
    found = prepared(state, tmp_path / "mosaic.pth")
    source = found.sources["model"]
    assert source.settings == {"thin": 4, "middle": 6, "wide": 8, "blocks": 5, "kernel": 9}
    assert found.task == Task("stylize", {"halo": None, "step": 4})
    with torch.no_grad():
        torch.testing.assert_close(source.module(picture()), net(picture() * 255) / 255, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("channels", "last", "side"), [(3, (4, 2, 1), 64), (1, (4, 2, 1), 64), (1, (1, 1, 2), 28), (3, (1, 1, 0), 32)]
)
def test_dcgan(channels: int, last: tuple[int, int, int], side: int, tmp_path: Path) -> None:
    net = published.trained(published.Dcgan(4, channels, last))
    found = prepared(net.state_dict(), tmp_path / "netG_epoch_24.pth")
    source = found.sources["model"]
    assert source.outputs[0].shape == (1, channels, side, side) and source.outputs[0].range == (-1.0, 1.0)
    assert found.task == Task("generate", {"latent": 12})
    latent = torch.randn(1, 12)
    with torch.no_grad():
        torch.testing.assert_close(source.module(latent), net(latent[:, :, None, None]), atol=1e-6, rtol=1e-5)


def test_a_discriminator_is_none(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 4, bias=False))
    state = {f"main.{k}": v for k, v in net.state_dict().items()}
    with pytest.raises(InputError, match="not known"):
        prepared(state, tmp_path / "netD.pth")


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "params": lambda s: {"params": s},
    "params_ema": lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
    "state_dict": lambda s: {"epoch": 9, "state_dict": s, "optimizer": {"state": {}}},
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {"state_dict": {f"net_g.{k}": v for k, v in s.items()}},
    "compiled": lambda s: {"model": {f"_orig_mod.module.{k}": v for k, v in s.items()}},
    "half": lambda s: {k: v.half() for k, v in s.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_what_training_wraps_around_weights_is_taken_off(wrapping: str, tmp_path: Path) -> None:
    state = {k: v.half().float() for k, v in published.compact().items()}
    torch.save(WRAPPED[wrapping](state), tmp_path / "w.ckpt")
    found = read_weights(tmp_path / "w.ckpt")
    assert list(found) == list(state) and all(torch.equal(found[k], v) for k, v in state.items())
    if wrapping == "bare":
        save_file(state, tmp_path / "w.safetensors")
        assert all(torch.equal(read_weights(tmp_path / "w.safetensors")[k], v) for k, v in state.items())
        torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert LayoutReader().reads(tmp_path / "old.pth") and list(read_weights(tmp_path / "old.pth")) == list(state)


def test_an_unknown_network_says_what_is_known_and_what_to_do(tmp_path: Path) -> None:
    state = {"backbone.stem.weight": torch.rand(8, 3, 3, 3), "head.bias": torch.rand(4)}
    known = r"backbone\.stem\.weight 8×3×3×3.*head\.bias 4.*Real-ESRGAN.*FSRCNN.*DCGAN.*my_network\.py:build --weights"
    with pytest.raises(InputError, match=known):
        prepared(state, tmp_path / "unknown.pth")


def test_a_network_that_is_only_nearly_known_is_refused(tmp_path: Path) -> None:
    state = dict(published.trained(published.Painter()).state_dict())
    del state["res3.conv2.conv2d.bias"]
    with pytest.raises(InputError, match=r"looks like fast-neural-style.*res3\.conv2\.conv2d\.bias"):
        prepared(state, tmp_path / "cut.pth")


def test_no_file_of_weights_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_bytes(b"these are no weights")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 64)
    assert not LayoutReader().reads(tmp_path / "notes.pth")
    assert not LayoutReader().reads(tmp_path / "missing.pth") and not LayoutReader().reads(nn.Identity())
    with pytest.raises(InputError, match="does not load as tensors alone"):
        read(tmp_path / "damaged.safetensors", Asked())
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "numbers.pth")
    with pytest.raises(InputError, match=r"holds no tensors by name: it holds epoch, loss"):
        read(tmp_path / "numbers.pth", Asked())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A bundle of each layout, from a file as people have it."""
    folder = tmp_path_factory.mktemp("layouts")
    torch.manual_seed(0)
    states = {
        "realesr-x2.pth": {"params": published.compact(2, 8, 2)},
        "espcn_x3.pth": published.trained(published.PartsEspcn(3)).state_dict(),
        "fsrcnn_x2.pth": published.trained(published.PartsFsrcnn(2)).state_dict(),
        "mosaic.pth": published.trained(published.Painter()).state_dict(),
        "netG_epoch_24.pth": published.trained(published.Dcgan(2)).state_dict(),
    }
    states["mosaic.pth"]["deconv3.conv2d.weight"] *= 40  # colours of 0…255
    states["mosaic.pth"]["deconv3.conv2d.bias"] += 128
    states["netG_epoch_24.pth"]["main.12.weight"] *= 8
    made = {}
    for name, state in states.items():
        torch.save(state, folder / name)
        sides = 32 if name == "mosaic.pth" else 24
        buckets = () if name.startswith("netG") else [{"height": sides, "width": sides}]
        made[name] = edgekit.export(folder / name, folder / name.split(".")[0], options=ExportOptions(buckets=buckets))
    return made


@pytest.mark.slow
def test_every_file_is_compared_with_pytorch(bundles: dict[str, Bundle]) -> None:
    for bundle in bundles.values():
        component = bundle.component()
        assert {v.format for v in component.variants} == {"onnx", "openvino", "tflite", "torch"}
        assert component.family is not None and bundle.manifest.provenance["paper"]
        errors = [v.parity.max_error for v in component.variants if v.parity is not None]
        assert len(errors) == 3 and max(errors) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["realesr-x2.pth", "espcn_x3.pth", "fsrcnn_x2.pth", "mosaic.pth"])
def test_photos_come_out_alike_on_every_engine(bundles: dict[str, Bundle], name: str, photo: np.ndarray) -> None:
    part = np.ascontiguousarray(photo[100:132, 200:232])
    results = {}
    for engine in ENGINES:
        with edgekit.load(bundles[name], engine) as task:
            results[engine] = task(part).astype(int)
    scale = results["torch"].shape[0] // 32
    assert scale == {"realesr-x2.pth": 2, "espcn_x3.pth": 3, "fsrcnn_x2.pth": 2, "mosaic.pth": 1}[name]
    assert results["torch"].std() > 5
    for engine in ENGINES[:-1]:
        assert np.abs(results[engine] - results["torch"]).max() <= 1, engine


@pytest.mark.slow
def test_a_generator_draws_alike_on_every_engine(bundles: dict[str, Bundle]) -> None:
    drawn = {}
    for engine in ENGINES:
        with edgekit.load(bundles["netG_epoch_24.pth"], engine) as task:
            drawn[engine] = np.stack(task.sample(2, seed=3)).astype(int)
    assert drawn["torch"].shape == (2, 64, 64, 3) and drawn["torch"].std() > 5
    for engine in ENGINES[:-1]:
        assert np.abs(drawn[engine] - drawn["torch"]).max() <= 1


@pytest.mark.slow
def test_int8_is_made_from_the_bundle_alone(bundles: dict[str, Bundle], photo: np.ndarray, tmp_path: Path) -> None:
    from edgekit.images import to_tensor
    from edgekit.quantization import QuantizeOptions

    bundle = bundles["realesr-x2.pth"]
    crops = [np.ascontiguousarray(photo[y : y + 24, y : y + 24]) for y in range(0, 480, 24)]
    calibration = [(to_tensor(crop, bundle.component().inputs[0]),) for crop in crops]
    untimed = QuantizeOptions(time_it=False)
    quantized = edgekit.quantize(bundle, calibration, out=tmp_path / "small", options=untimed).bundle
    assert {v.format for v in quantized.component().variants if v.precision == "int8"} == {"onnx", "openvino", "tflite"}
    with edgekit.load(quantized, "litert", precision="int8") as small, edgekit.load(bundle, "torch") as exact:
        assert np.abs(small(crops[3]).astype(int) - exact(crops[3])).mean() < 4


def test_files_of_fixed_sizes_are_several_halos_wide(tmp_path: Path) -> None:
    torch.save(published.compact(2, 4, 1), tmp_path / "x2.pth")
    found = read(tmp_path / "x2.pth", Asked())
    assert found.buckets == [{"height": 64, "width": 64}, {"height": 256, "width": 256}]
    torch.save(published.compact(4, 4, 32), tmp_path / "x4.pth")
    found = read(tmp_path / "x4.pth", Asked())
    assert found.buckets == [{"height": 128, "width": 128}, {"height": 256, "width": 256}]


@pytest.mark.parametrize("key", ["body.999999998.weight", "body.9998.weight", "body.2.bias", "body.4.bias"])
def test_names_alone_make_no_network(key: str, tmp_path: Path) -> None:
    state = {"body.0.weight": torch.rand(8, 3, 3, 3), "body.0.bias": torch.rand(8), key: torch.rand(12)}
    with pytest.raises(InputError, match="not known"):
        prepared(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match="not known"):
        prepared({"body.2.bias": torch.rand(12)}, tmp_path / "net.pth")


@pytest.mark.parametrize("scale", ["two", 0, 99, True, 2.5])
def test_a_scale_is_a_small_whole_number(scale: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a whole number from 1 to 8"):
        prepared(published.PartsFsrcnn(2).state_dict(), tmp_path / "net.pth", settings={"scale": scale})


def test_shapes_larger_than_their_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fewer numbers"):
        prepared({"body.0.weight": torch.rand(1).expand(2**20, 3, 3, 3)}, tmp_path / "net.pth")


def test_what_is_said_beside_weights_of_a_layout_is_refused(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "names": ["picture"]}
    with pytest.raises(InputError, match="names of inputs and a mean and a deviation for .*leave them out"):
        prepared(published.compact(), tmp_path / "net.pth", **asked)
