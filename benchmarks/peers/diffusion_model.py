"""Pipelines of diffusers with random weights, and what each peer reads of them, made once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LENGTH = 77  # tokens that a prompt may have
SIDE = 256  # pixels of what the prompt's pipeline draws; 64 of the other


def made(work: Path, kind: str) -> Path:
    """The folder that `save_pretrained` writes of "prompt" or "pixels"."""
    folder = work / f"diffusers-{kind}"
    if not folder.exists():
        import torch

        torch.manual_seed(0)
        staged = folder.with_suffix(".new")
        {"prompt": prompt, "pixels": pixels}[kind](staged).save_pretrained(staged)
        staged.rename(folder)
    return folder


def prompt(folder: Path) -> Any:
    """As Stable Diffusion 1.5, smaller: a UNet of 28 million parameters on 32 × 32 codes, DDIM."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    reader, count = tokenizer(folder)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(96, 192, 384),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=6,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(block_out_channels=(32, 32, 64, 64), **blocks)
    scaled = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=encoder(count, 256),
        tokenizer=reader,
        unet=unet.eval(),
        scheduler=DDIMScheduler(**scaled, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pixels(folder: Path) -> Any:
    """A UNet2DModel that draws 64 × 64 pixels without a condition, with attention at 16 and 8, DDIM."""
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=64,
        block_out_channels=(64, 128, 128, 256),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return DDIMPipeline(unet.eval(), DDIMScheduler())


def tokenizer(folder: Path) -> tuple[Any, int]:
    """CLIP's, of bytes alone, and how many tokens there are."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "at</w>", "<|startoftext|>", "<|endoftext|>"]
    place = folder.parent / "made-tokenizer"
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("#version: 0.2\na t</w>")
    return CLIPTokenizer.from_pretrained(place, model_max_length=LENGTH), len(tokens)


def encoder(count: int, width: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    marks = {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1, "projection_dim": width}
    return CLIPTextModel(CLIPTextConfig(vocab_size=count, max_position_embeddings=LENGTH, **sizes, **marks)).eval()


def converted(kind: str, model: Path, work: Path, python: Path, say: Callable[[str], None]) -> Path:
    """What a peer reads of a pipeline: edgekit's bundle, or what optimum-cli wrote ("openvino-fp32").

    Raises:
        subprocess.CalledProcessError: its own converter failed.
    """
    out = work / f"{model.name}-{kind}"
    if not out.exists():
        say(f"making {out.name}")
        staged = work / f"{out.name}.new"
        if kind == "edgekit":
            told = ["-o", str(staged), "--format", "onnx", "--format", "openvino"]
            _ran(python, "-m", "edgekit.cli", "export", str(model), *told)
            calibrated = [
                "--calibration",
                "random",
                "--no-timing",
                "--keep-slower",
                "--correct",
                "none",
                "--attempts",
                "1",
            ]
            _ran(python, "-m", "edgekit.cli", "quantize", str(staged), "--source", str(model), *calibrated)
        else:
            told = [
                "-m",
                str(model),
                "--task",
                "text-to-image",
                "--weight-format",
                kind.removeprefix("openvino-"),
                str(staged),
            ]
            _ran(python, "-m", "optimum.commands.optimum_cli", "export", "openvino", *told)
        staged.rename(out)
    return out


def _ran(python: Path, *words: str) -> None:
    subprocess.run([str(python), *words], check=True, stdout=sys.stderr)
