"""Pipelines of diffusers with random weights: saved, exported, and drawing the pictures that diffusers draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgekit
from edgekit.bundle import Bundle
from edgekit.errors import ImageError, InputError
from edgekit.exporters import ExportOptions
from edgekit.exporters.readers.reading import Asked, read
from edgekit.quantization import calibration
from edgekit.tasks.diffuse import DiffusionSampler

pytest.importorskip("diffusers")
pytest.importorskip("tokenizers")

from exporters import tiny_pipelines as tiny

LEVELS = 2  # of 255: the largest difference of any pixel from what diffusers draws
NOISE = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
FEW: dict[str, Any] = {"steps": 4, "guidance": 5.0, "latents": NOISE}
THEIRS: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "latents": torch.from_numpy(NOISE),
    "output_type": "np",
}


def saved(make: Callable[..., Any], folder: Path, **options: Any) -> tuple[Any, Path]:
    """A pipeline, and the folder that a user would have of it."""
    pipeline = make(folder, **options)
    pipeline.save_pretrained(folder / "pipeline")
    return pipeline, folder / "pipeline"


def same(theirs: Any, ours: list[np.ndarray]) -> bool:
    """Whether two pictures agree, and there is something on them."""
    levels = np.round(np.asarray(theirs.images[0], np.float64) * 255)
    assert levels.std() > 5 and ours[0].dtype == np.uint8 and levels.shape == ours[0].shape
    return bool(np.abs(levels - ours[0]).max() <= LEVELS)


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return saved(tiny.stable_diffusion, tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def bundle(stable: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundle") / "stable"
    return edgekit.export(stable[1], out, options=ExportOptions(formats=["onnx", "openvino"]))


@pytest.fixture(scope="module")
def sampler(bundle: Bundle) -> Iterator[DiffusionSampler]:
    with edgekit.load(bundle, "onnxruntime", precision="fp32") as opened:
        yield opened


def test_a_folder_becomes_a_bundle(bundle: Bundle) -> None:
    assert list(bundle.manifest.components) == ["model", "text_encoder", "vae_decoder", "vae_encoder"]
    for component in bundle.manifest.components.values():
        assert [v.format for v in component.variants] == ["onnx", "openvino"]
        assert all(v.parity is not None and v.parity.max_error < 1e-4 for v in component.variants)
    settings = bundle.manifest.task.settings if bundle.manifest.task else {}
    assert settings["schedule"]["solver"] == "pndm" and settings["schedule"]["beta_schedule"] == "scaled_linear"
    assert settings["latent"]["factor"] == 2 and bundle.extra("tokenizer.json").is_file()
    assert "StableDiffusionPipeline" in bundle.manifest.summary


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_draws_what_diffusers_draws(stable: tuple[Any, Path], bundle: Bundle, engine: str) -> None:
    with edgekit.load(bundle, engine, precision="fp32") as opened:
        assert same(stable[0]("a cat", **THEIRS), opened.sample(prompt="a cat", **FEW))
        theirs = stable[0]("a cat", negative_prompt="at sea", **THEIRS)
        assert same(theirs, opened.sample(prompt="a cat", negative_prompt="at sea", **FEW))
        assert same(stable[0]("a", **THEIRS | {"guidance_scale": 1.0}), opened("a", **FEW | {"guidance": 1.0}))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddim", "DDIMScheduler"),
        ("dpm++2m", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("euler-ancestral", "EulerAncestralDiscreteScheduler"),
    ],
)
def test_other_schedulers(
    stable: tuple[Any, Path], sampler: DiffusionSampler, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    feed_noise(monkeypatch, seed=3)
    own = stable[0].scheduler
    settings = {**tiny.SCALED, "timestep_spacing": "leading"}
    fixed = {"clip_sample": False, "set_alpha_to_one": False} if name == "ddim" else {}
    monkeypatch.setattr(stable[0], "scheduler", getattr(diffusers, kind)(**settings, **fixed))
    assert same(stable[0]("a cat", **THEIRS), sampler.sample(prompt="a cat", scheduler=name, seed=3, **FEW))
    assert own is not stable[0].scheduler and sampler.schedulers[0] == "pndm"


def test_begins_from_an_image(
    stable: tuple[Any, Path], sampler: DiffusionSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline

    pipeline = tiny.quiet(StableDiffusionImg2ImgPipeline(**stable[0].components, requires_safety_checker=False))
    pipeline.scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **tiny.SCALED)
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = torch.from_numpy(photo.transpose(2, 0, 1)[None] / 127.5 - 1.0).float()
    with torch.inference_mode():
        codes = pipeline.vae.encode(image).latent_dist.mode() * pipeline.vae.config.scaling_factor
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3)).numpy()
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "np"}
    theirs = pipeline("a cat", image=codes, strength=0.5, generator=torch.Generator().manual_seed(3), **options)
    ours = {"prompt": "a cat", "steps": 10, "guidance": 3.0, "scheduler": "ddim", "latents": noise}
    assert same(theirs, sampler.sample(image=photo, strength=0.5, **ours))


def test_prompts_decide(sampler: DiffusionSampler) -> None:
    few = {"steps": 2, "seed": 0}
    cat, again, dog = (sampler(prompt, **few)[0] for prompt in ("a cat", "a cat", "a dog"))
    np.testing.assert_array_equal(cat, again)
    assert cat.shape == (16, 16, 3) and not np.array_equal(cat, dog)
    several = sampler(["a cat", "a dog"], **few)
    np.testing.assert_array_equal(several[0], cat)
    assert len(several) == 2 and len(sampler.sample(3, prompt="a cat", **few)) == 3
    assert not np.array_equal(cat, sampler.sample(prompt="a cat", negative_prompt="sea", **few)[0])


def test_stream_previews_and_ends_with_the_picture(sampler: DiffusionSampler) -> None:
    steps = list(sampler.stream("a cat", seed=0, steps=5))
    assert [s.number for s in steps] == list(range(1, steps[0].total + 1))
    assert all(s.image.shape == (16, 16, 3) for s in steps)
    assert (steps[0].image[::2, ::2] == steps[0].image[1::2, 1::2]).all()  # one colour for each code
    np.testing.assert_array_equal(steps[-1].image, sampler("a cat", seed=0, steps=5)[0])


def test_preview_is_like_the_picture(bundle: Bundle, sampler: DiffusionSampler) -> None:
    """As near as a linear guess of an untrained autoencoder comes; its codes of soft pictures are what it is made on."""
    from edgekit.exporters.readers.part_sources import soft

    codes = sampler._latents.encode(np.uint8((soft(16, 16, 0)[0].transpose(1, 2, 0) + 1) * 127.5), sampler.shape)
    shown = sampler._latents.preview(codes).astype(float)
    assert np.abs(shown - (soft(16, 16, 0)[0].transpose(1, 2, 0) + 1) * 127.5).mean() < 60


def test_every_part_is_calibrated_by_prompts(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    for data in ("random", tmp_path / "prompts.txt"):
        found = calibration.named(bundle, data)
        assert set(found) == set(bundle.manifest.components) and all(found.values())


def test_text_encoder_can_be_freed(sampler: DiffusionSampler) -> None:
    before = sampler("a cat", steps=2, seed=0)[0]
    sampler.release("text_encoder")
    assert not any(key[0] == "text_encoder" for key in sampler._sessions)
    np.testing.assert_array_equal(sampler("a cat", steps=2, seed=0)[0], before)
    assert not any(key[0] == "text_encoder" for key in sampler._sessions)  # what was read is kept
    sampler("something else", steps=1)
    assert any(key[0] == "text_encoder" for key in sampler._sessions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no prompt"),
        ({"prompt": "a photo of a very red boat on the sea"}, "tokens, 'text_encoder' takes 16.*shorten it"),
        ({"prompt": "a", "negative_prompt": "x " * 40}, "takes 16"),
        ({"prompt": 3}, "got int as prompt"),
        ({"prompt": [3]}, "got a prompt of int"),
        ({"prompt": ["a", "b"], "n": 3}, "2 of them as prompt for 3 images"),
        ({"prompt": []}, "n=0"),
        ({"labels": 1}, "draws from a prompt"),
        ({"prompt": "a", "height": 32}, "height=32: this bundle draws 16 × 16"),
        ({"prompt": "a", "scheduler": "heun"}, "no scheduler 'heun': expected one of pndm"),
        ({"prompt": "a", "steps": 0}, "steps=0"),
        ({"prompt": "a", "scheduler": "lcm", "steps": 60}, "steps=60: expected 1 to 50"),
        ({"prompt": "a", "eta": 0.5}, "only scheduler='ddim'"),
        ({"prompt": "a", "guidance": -1.0}, "guidance=-1.0"),
        ({"prompt": "a", "latents": np.zeros((1, 4, 4, 4))}, "expected float 1 × 4 × 8 × 8"),
        ({"prompt": "a", "image": np.zeros((9, 9, 3), np.uint8), "strength": 0.0}, "strength=0.0"),
    ],
)
def test_refuses(sampler: DiffusionSampler, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler.sample(**arguments)


def test_refuses_what_is_no_image(sampler: DiffusionSampler) -> None:
    with pytest.raises(ImageError):
        sampler.sample(prompt="a", image="photo.png")  # type: ignore[arg-type]


def test_prompts_are_for_prompts() -> None:
    with edgekit.load("digits-diffusion", "onnxruntime") as digits:
        with pytest.raises(InputError, match="got a prompt: digits-diffusion takes labels"):
            digits.sample(prompt="a seven")
        assert digits("7", seed=0, steps=1)[0].shape == (32, 32, 3)  # a label by its name


def test_another_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(InputError, match="is a FluxPipeline: of diffusers, .*StableDiffusionPipeline"):
        edgekit.export(tmp_path, tmp_path / "out")


def test_code_of_the_folder_is_not_run(stable: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(stable[1], folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "unet" / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["mine", "Mine"]}))
    with pytest.raises(InputError, match="unet of 'mine'"):
        edgekit.export(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        (["mine", "DDIMScheduler"], "scheduler of 'mine': code beside diffusers is not run"),
        (["diffusers", "Mine"], "got a pipeline with Mine: DDIMScheduler"),
        (["diffusers", ["DDIMScheduler"]], "got a pipeline with"),
        (None, "scheduler of 'None'"),
    ],
)
def test_another_scheduler_is_refused_before_anything_is_loaded(scheduler: Any, says: str, tmp_path: Path) -> None:
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": scheduler}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=says):
        read(tmp_path, Asked())


def test_what_a_pipeline_does_not_use_is_refused(stable: tuple[Any, Path]) -> None:
    for pipeline in stable:
        with pytest.raises(InputError, match="names of inputs and a mean and a deviation for .*leave them out"):
            read(pipeline, Asked(names=["x"], mean=[0.5] * 3, std=[0.5] * 3))


def test_reading_changes_nothing_in_memory(tmp_path: Path) -> None:
    pipeline = tiny.stable_diffusion(tmp_path)
    pipeline.text_encoder.set_attn_implementation("sdpa")
    pipeline.unet.train()
    pipeline.vae.half()
    found = read(pipeline, Asked())
    assert pipeline.text_encoder.config._attn_implementation == "sdpa"
    assert pipeline.unet.training and {p.dtype for p in pipeline.vae.parameters()} == {torch.float16}
    net: Any = found.sources["model"].module
    assert net.net.conv_in.weight is pipeline.unet.conv_in.weight and not net.net.training


def test_nothing_is_unpickled(stable: tuple[Any, Path], tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return open, (str(tmp_path / "ran"), "w")

    folder = tmp_path / "pipeline"
    shutil.copytree(stable[1], folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(Evil(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="diffusion_pytorch_model.bin: expected safetensors"):
        edgekit.export(folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_an_error(stable: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(stable[1], folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be loaded as a pipeline"):
        edgekit.export(folder, tmp_path / "out")


def test_settings_that_a_pipeline_does_not_take(stable: tuple[Any, Path], tmp_path: Path) -> None:
    from edgekit.manifest import Task

    for settings, message in (
        ({"scale": 2}, "settings scale"),
        ({"height": 17}, "height=17: expected a multiple of 2"),
    ):
        with pytest.raises(InputError, match=message):
            edgekit.export(stable[1], tmp_path / "out", options=ExportOptions(task=Task("diffuse", settings)))
    with pytest.raises(InputError, match="task 'upscale'"):
        edgekit.export(stable[1], tmp_path / "out", options=ExportOptions(task=Task("upscale")))


def test_a_pipeline_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    """Without any condition, and in memory: DDPM adds noise at every step, which is drawn from the seed."""
    pipeline = tiny.ddpm(tmp_path)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    made = edgekit.export(pipeline, tmp_path / "ddpm", options=ExportOptions(formats=["onnx"]))
    assert list(made.manifest.components) == ["model"]
    assert all(torch.equal(value, before[name]) for name, value in pipeline.unet.state_dict().items())
    noise = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, seed=5, first=noise)
        theirs = pipeline(num_inference_steps=5, output_type="np")
    with edgekit.load(made, "onnxruntime") as opened:
        assert same(theirs, opened.sample(steps=5, latents=noise, seed=5)) and opened.labels == ()
        with pytest.raises(InputError, match="draws without labels"):
            opened.sample(labels=1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny.stable_diffusion_xl, tiny.pixart, tiny.latent_consistency])
def test_other_pipelines_of_prompts(make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, folder = saved(make, tmp_path)
    made = edgekit.export(folder, tmp_path / "out", options=ExportOptions(formats=["onnx"]))
    feed_noise(monkeypatch, seed=5)
    plain = {"use_resolution_binning": False, "clean_caption": False} if make is tiny.pixart else {}
    with edgekit.load(made, "onnxruntime") as opened:
        theirs = pipeline("A red boat", **THEIRS, **plain)
        assert same(theirs, opened.sample(prompt="A red boat", seed=5, **FEW))
        if make is tiny.stable_diffusion_xl:
            theirs = pipeline("A red boat", negative_prompt="at", **THEIRS)
            assert same(theirs, opened.sample(prompt="A red boat", negative_prompt="at", **FEW))


@pytest.mark.slow
def test_a_transformer_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, folder = saved(tiny.dit, tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    index["id2label"] = {"0": "tench, Tinca tinca", "1": "goldfish"}  # as published; save_pretrained leaves it out
    (folder / "model_index.json").write_text(json.dumps(index))
    made = edgekit.export(folder, tmp_path / "out", options=ExportOptions(formats=["onnx"]))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", with_null(torch.tensor))
        feed_noise(patch, first=NOISE)
        theirs = pipeline([1], guidance_scale=4.0, num_inference_steps=4, output_type="np")
    with edgekit.load(made, "onnxruntime") as opened:
        assert opened.labels[1:3] == ("goldfish", "2") and len(opened.labels) == 10
        assert same(theirs, opened.sample(labels="goldfish", guidance=4.0, steps=4, latents=NOISE))


@pytest.mark.slow
def test_free_sides(tmp_path: Path) -> None:
    pipeline, folder = saved(tiny.stable_diffusion, tmp_path, widths=(8, 16, 16))
    options = ExportOptions(formats=["onnx"])
    made = edgekit.export(folder, tmp_path / "out", dynamic={"image": {2: "height", 3: "width"}}, options=options)
    with edgekit.load(made, "onnxruntime") as opened:
        for height, width in ((16, 16), (24, 40)):
            noise = np.random.default_rng(0).standard_normal((1, 4, height // 2, width // 2)).astype(np.float32)
            size = {"height": height, "width": width}
            theirs = pipeline("a cat", **THEIRS | {"latents": torch.from_numpy(noise)}, **size)
            assert same(theirs, opened.sample(prompt="a cat", **FEW | {"latents": noise}, **size))
        photo = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
        assert opened.sample(prompt="a", steps=3, image=photo, height=24, width=40)[0].shape == (24, 40, 3)
        with pytest.raises(InputError, match="height=17: expected a multiple of 2"):
            opened.sample(prompt="a cat", height=17)


@pytest.mark.slow
def test_tflite(stable: tuple[Any, Path], tmp_path: Path) -> None:
    made = edgekit.export(stable[1], tmp_path / "out", options=ExportOptions(formats=["tflite"]))
    with edgekit.load(made, "litert") as opened:
        assert same(stable[0]("a cat", **THEIRS), opened.sample(prompt="a cat", **FEW))


def feed_noise(monkeypatch: pytest.MonkeyPatch, seed: int = 0, first: np.ndarray | None = None) -> None:
    """Let diffusers draw the noise that a sampler adds to the first image of this seed; `first` begins."""
    import sys

    random = np.random.default_rng((seed, 1))
    begun = [] if first is None else [first]

    def drawn(shape: Any, **_: Any) -> torch.Tensor:
        array = begun.pop() if begun else random.standard_normal(tuple(shape), np.float32)
        return torch.from_numpy(array.copy())

    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.") and "randn_tensor" in vars(module):
            monkeypatch.setattr(module, "randn_tensor", drawn)


def with_null(tensor: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """DiTPipeline writes class 1000 for none, whatever the number of classes is: here it is 10."""
    return lambda values, **options: tensor([10] if values == [1000] else values, **options)
