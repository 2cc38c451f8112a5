"""Pipelines of diffusers with random weights, a few thousand each, made from configs as their classes take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

LENGTH = 16  # tokens that a prompt may have
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def stable_diffusion(folder: Path, widths: tuple[int, ...] = (16, 32), **unet: Any) -> Any:
    """StableDiffusionPipeline with PNDM, as Stable Diffusion 1.5 has it."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    tokenizer, count = clip_tokenizer(folder)
    scheduler = PNDMScheduler(skip_prk_steps=True, **SCALED)
    parts = {"text_encoder": clip(count, 16), "unet": prompt_unet(16, widths, **unet), "vae": autoencoder()}
    return quiet(
        StableDiffusionPipeline(
            **parts,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def latent_consistency(folder: Path) -> Any:
    """LatentConsistencyModelPipeline: guidance is an input of the network; with the small autoencoder."""
    from diffusers import AutoencoderTiny, LatentConsistencyModelPipeline, LCMScheduler

    known = stable_diffusion(folder, time_cond_proj_dim=16).components
    channels = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    parts = {**known, "scheduler": LCMScheduler(), "vae": AutoencoderTiny(**channels, **blocks).eval()}
    return quiet(LatentConsistencyModelPipeline(**parts, requires_safety_checker=False))


def stable_diffusion_xl(folder: Path) -> Any:
    """StableDiffusionXLPipeline with two text encoders and Euler."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(0)
    tokenizer, count = clip_tokenizer(folder)
    unet = prompt_unet(
        32,
        (16, 32),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + 16,
        use_linear_projection=True,
    )
    return quiet(
        StableDiffusionXLPipeline(
            vae=autoencoder(),
            text_encoder=clip(count, 16),
            text_encoder_2=CLIPTextModelWithProjection(clip(count, 16).config).eval(),
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=unet,
            scheduler=EulerDiscreteScheduler(timestep_spacing="leading", **SCALED),
            add_watermarker=False,
        )
    )


def pixart(folder: Path) -> Any:
    """PixArtAlphaPipeline: a transformer after T5, with DPM-Solver++."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer, count = t5_tokenizer()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=16,
        cross_attention_dim=24,
    )
    return quiet(
        PixArtAlphaPipeline(
            tokenizer=tokenizer,
            text_encoder=T5EncoderModel(T5Config(vocab_size=count, **sizes)).eval(),
            vae=autoencoder(),
            transformer=transformer.eval(),
            scheduler=DPMSolverMultistepScheduler(),
        )
    )


def dit(folder: Path) -> Any:
    """DiTPipeline: a transformer of classes, with DDIM."""
    from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    torch.manual_seed(0)
    sizes = {"sample_size": 8, "num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "patch_size": 2}
    transformer = DiTTransformer2DModel(**sizes, in_channels=4, out_channels=8, num_embeds_ada_norm=10).eval()
    return quiet(DiTPipeline(transformer, autoencoder(), DDIMScheduler(clip_sample=False)))


def ddpm(folder: Path) -> Any:
    """DDPMPipeline: pixels, without any condition."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    sizes = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8}
    return quiet(DDPMPipeline(UNet2DModel(sample_size=8, **sizes, **blocks).eval(), DDPMScheduler()))


def clip_tokenizer(folder: Path) -> tuple[Any, int]:
    """CLIP's tokenizer of bytes and one pair, and how many tokens there are."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "at</w>", "<|startoftext|>", "<|endoftext|>"]
    place = folder / "made-tokenizer"
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (place / "merges.txt").write_text("#version: 0.2\na t</w>")
    return CLIPTokenizer.from_pretrained(place, model_max_length=LENGTH), len(tokens)


def t5_tokenizer() -> tuple[Any, int]:
    """A tokenizer of pieces with scores, as T5 has, and how many tokens there are."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁red", -1.0), ("▁boat", -1.5)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    engine = Tokenizer(models.Unigram(pieces, unk_id=2))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return T5TokenizerFast(tokenizer_object=engine, **names, extra_ids=0), len(pieces)


def clip(count: int, width: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": count - 2, "eos_token_id": count - 1, "pad_token_id": count - 1, "projection_dim": width}
    return CLIPTextModel(CLIPTextConfig(vocab_size=count, max_position_embeddings=LENGTH, **sizes, **marks)).eval()


def prompt_unet(text: int, widths: tuple[int, ...], **further: Any) -> Any:
    from diffusers import UNet2DConditionModel

    crossed = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=widths,
        layers_per_block=1,
        cross_attention_dim=text,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=(*["CrossAttnDownBlock2D"] * crossed, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * crossed),
        **further,
    ).eval()


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, **blocks).eval()


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
