"""From trained networks to a bundle: several components, weights in float16, records beside it, and the forms left out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file

from edgekit import registry
from edgekit.bundle import Bundle
from edgekit.cli.host import train
from edgekit.errors import BundleError, QuantizationError
from edgekit.exporters import ExportOptions, export
from edgekit.exporters.completion import complete
from edgekit.images import read_image
from edgekit.manifest import Task
from edgekit.quantization import quantize
from edgekit.quantization.correction.qat import QatOptions
from edgekit.quantization.metrics.metric import Metric
from edgekit.verify import verify
from edgekit.zoo.recipe import Place, Trained, ZooRecipe, publish
from edgekit.zoo.super_resolution import SuperResolution, net_source
from edgekit.zoo.training import Checkpoint
from edgekit.zoo.tuning import fine_tuned

BUCKET = {"height": 16, "width": 16}


@dataclass(frozen=True)
class Recipe:
    seed: int = 0


class Constant(Metric):
    """Each engine in int8 gives a little less than the one before."""

    name, data = "made_up", "none"
    asked: list[tuple[str, str]]

    def __init__(self) -> None:
        self.asked = []

    def value(self, bundle: Bundle, runtime: str, precision: str) -> float:
        self.asked.append((runtime, precision))
        return 10.0 if precision == "fp32" else {"onnxruntime": 9.9, "openvino": 9.8, "litert": 9.9}[runtime]


def source(seed: int) -> object:
    torch.manual_seed(seed)
    probe = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    return net_source(SuperResolution(2, 8, 1).eval(), [probe])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path, Constant]:
    folder = tmp_path_factory.mktemp("recipe")
    place, metric = Place(folder / "runs", folder / "two", lambda step: None), Constant()
    state = Checkpoint(place.runs / "two.pt", {}, {})
    state.resume()
    state.seconds = 100.0
    state.save(1, last=True)
    random = np.random.default_rng(1)
    calibration = [(random.random((1, 3, 16, 16), np.float32),) for _ in range(4)]
    trained = Trained(
        sources={"model": source(0), "second": source(1)},  # type: ignore[dict-item]
        task=Task("upscale", {"scale": 2, "halo": 3}),
        summary="two networks",
        data="random numbers",
        calibration={"model": calibration, "second": calibration},
        metric=metric,
        max_drop=0.5,
        sheet=lambda bundle: np.zeros((4, 4, 3), np.uint8),
        figures=lambda bundle: {"answer": 42},
        keep_float=["second/tail"],
        buckets=[BUCKET],
    )
    return publish("two", trained, Recipe(), place).bundle, place.runs / "two", metric


def test_every_component_has_every_form_that_ships(made: tuple[Bundle, Path, Constant]) -> None:
    bundle, _, _ = made
    assert list(bundle.manifest.components) == ["model", "second"]
    for name, component in bundle.manifest.components.items():
        forms = {(v.format, v.precision) for v in component.variants}
        assert forms == {("onnx", "fp32"), ("tflite", "fp32"), ("torch", "fp32"), ("onnx", "int8"), ("tflite", "int8")}
        assert all(entry.path.startswith((f"{name}-", f"{name}.")) for v in component.variants for entry in v.files)
    verdicts = list(verify(bundle))
    assert {v.component for v in verdicts} == {"model", "second"} and all(v.ok for v in verdicts)


def test_weights_are_the_same_numbers_in_half_the_bytes(made: tuple[Bundle, Path, Constant]) -> None:
    bundle, _, _ = made
    weights = load_file(bundle.folder / "second.safetensors")
    assert all(array.dtype == np.float16 for array in weights.values())
    network = next(v for v in bundle.component("second").variants if v.format == "onnx")
    assert network.parity is not None and network.parity.max_error < 1e-5  # of the rounded weights


def test_onnx_counts_as_its_worst_engine(made: tuple[Bundle, Path, Constant]) -> None:
    bundle, _, metric = made
    assert ("openvino", "fp32") in metric.asked and ("openvino", "int8") in metric.asked
    quality = {(v.format, v.precision): v.quality for v in bundle.component().variants}
    onnx, tflite = quality[("onnx", "int8")], quality[("tflite", "int8")]
    assert onnx is not None and onnx.drop == pytest.approx(0.2)
    assert tflite is not None and tflite.drop == pytest.approx(0.1)


def test_says_what_it_measured_and_how_long_it_took(made: tuple[Bundle, Path, Constant]) -> None:
    bundle, records, _ = made
    provenance = bundle.manifest.provenance
    assert provenance["figures"] == {"answer": 42} and provenance["training_seconds"] == 100
    assert provenance["recipe"] == "edgekit train two" and provenance["data"] == "random numbers"
    metrics = json.loads((records / "metrics.json").read_bytes())
    assert metrics["target_met"] and metrics["kept_float"] == ["second/tail"]
    assert {row["component"] for row in metrics["files"]} == {"model", "second"}
    assert read_image(records / "sheet.png").shape == (4, 4, 3)
    assert {p.name for p in records.iterdir()} >= {"model.safetensors", "second.safetensors"}


@pytest.mark.slow
def test_build_adds_what_is_left_out(made: tuple[Bundle, Path, Constant], tmp_path: Path) -> None:
    whole = complete(made[0], tmp_path / "all")
    for component in whole.manifest.components.values():
        forms = {(v.format, v.precision) for v in component.variants}
        assert {("openvino", "fp32"), ("openvino", "int8")} <= forms and len(forms) == 7
    assert whole.name == "all" and all(v.ok for v in verify(whole))


def test_build_needs_weights(tmp_path: Path) -> None:
    options = ExportOptions(formats=["onnx"])
    bare = export(torch.nn.Conv2d(3, 1, 1), tmp_path / "b", [np.zeros((1, 3, 8, 8), np.float32)], options=options)
    with pytest.raises(BundleError, match="no PyTorch weights"):
        complete(bare, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_calibration_is_for_each_component(made: tuple[Bundle, Path, Constant], tmp_path: Path) -> None:
    some = [(np.zeros((1, 3, 16, 16), np.float32),)]
    for given in (some, {"model": some}, {"model": some, "second": some, "third": some}):
        with pytest.raises(QuantizationError, match=r"expected \['model', 'second'\]"):
            quantize(made[0], given, out=tmp_path / "q")  # type: ignore[arg-type]


def trained(calibration: list[tuple[np.ndarray, ...]]) -> Trained:
    return Trained(
        sources={"model": source(0)},  # type: ignore[dict-item]
        task=Task("upscale", {"scale": 2, "halo": 3}),
        summary="one network",
        data="random numbers",
        calibration={"model": calibration},
        metric=Constant(),
        max_drop=0.5,
        sheet=lambda bundle: "",
        buckets=[BUCKET],
        practice={"model": lambda step: calibration[step % 4 : step % 4 + 2]},
        tuning=QatOptions(steps=24, batch=2),
    )


@pytest.mark.slow
def test_int8_comes_from_fine_tuned_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    calibration = [(random.random((1, 3, 16, 16), np.float32),) for _ in range(8)]
    told: list[str] = []
    place = Place(tmp_path / "runs", tmp_path / "one", told.append, qat=True)
    bundle = publish("one", trained(calibration), Recipe(), place).bundle
    exact, tuned = (load_file(tmp_path / "runs" / "one" / f"model{ending}.safetensors") for ending in ("", "-qat"))
    assert set(exact) == set(tuned) and any(not np.array_equal(exact[name], tuned[name]) for name in exact)
    carried = load_file(bundle.folder / "model.safetensors")
    assert all(np.array_equal(carried[name], exact[name]) for name in exact)  # the bundle has the trained ones alone
    assert bundle.manifest.provenance["recipe"] == "edgekit train one --qat"
    assert any(step.startswith("qat: ") for step in told)
    parities = {v.precision: v.parity for v in bundle.component().variants if v.format == "onnx"}
    assert parities["fp32"].max_error < 1e-5 and 15 < parities["int8"].snr_db < 900  # type: ignore[union-attr]


def test_an_interrupted_tuning_goes_on(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    calibration = [(random.random((1, 3, 16, 16), np.float32),) for _ in range(8)]
    told: list[str] = []
    place = Place(tmp_path, tmp_path / "one", told.append, qat=True)
    first = fine_tuned("one", trained(calibration), place)["model"].module.state_dict()
    again = fine_tuned("one", trained(calibration), place)["model"].module.state_dict()
    assert (tmp_path / "one-qat-model.pt").exists() and any("dB in int8 before, 0 steps" in step for step in told)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_every_recipe_of_the_zoo_can_be_fine_tuned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Place] = []

    def build(data: Path, recipe: object, place: Place) -> object:
        asked.append(place)
        raise QuantizationError("far enough")

    monkeypatch.setattr(registry, "find", lambda table, name: ZooRecipe(Recipe(), build))  # type: ignore[arg-type]
    for flags in ([], ["--qat"]):
        CliRunner().invoke(train, ["one", "--data", str(tmp_path), "-o", str(tmp_path / "one"), *flags])
    assert [place.qat for place in asked] == [False, True]
