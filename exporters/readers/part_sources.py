"""Sources of a diffusers pipeline's parts: text encoders, denoising network, and the two halves of its autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.errors import InputError
from edgekit.exporters.readers import denoisers
from edgekit.exporters.readers.reading import Asked
from edgekit.exporters.sources import Source
from edgekit.tensors import Array, TensorSpec

TIMES = (951.0, 501.0)  # of the probes
PROBES = len(TIMES)
WORDS = ("a photo of a red boat on the sea", "two")
NETWORKS: dict[str, type[denoisers.Network]] = {
    "DiTTransformer2DModel": denoisers.ClassTransformer,
    "PixArtTransformer2DModel": denoisers.PromptTransformer,
    "UNet2DConditionModel": denoisers.PromptUNet,
    "UNet2DModel": denoisers.PlainUNet,
}
FURTHER = ("class_embed_type", "encoder_hid_dim_type", "num_class_embeds")  # conditions of a UNet
T5_TOKENS = 120  # what PixArt-α was trained on
PREVIEWED, PREVIEW_SIDE = 4, 16  # pictures, and codes a side of each


@dataclass(frozen=True)
class Sides:
    """The picture's height and width in pixels, how many pixels a code has a side, and whether the sides are free."""

    height: int
    width: int
    factor: int
    free: bool

    @classmethod
    def asked(cls, network: Any, vae: Any, asked: Asked) -> Sides:
        """The pipeline's own sides, or those among the settings; free where any free dimension is named.

        Raises:
            InputError: a side that is no multiple of what a code stands for.
        """
        factor = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
        own = network.config.sample_size or 64
        rows, columns = (own, own) if isinstance(own, int) else own
        height = asked.settings.get("height", rows * factor)
        width = asked.settings.get("width", columns * factor)
        for name, size in (("height", height), ("width", width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % factor:
                raise InputError(f"got {name}={size!r}: expected a multiple of {factor}")
        return cls(height, width, factor, bool(asked.dynamic))

    @property
    def codes(self) -> tuple[int, int]:
        """Rows and columns of what the network draws."""
        return self.height // self.factor, self.width // self.factor

    def drawn(self, channels: int) -> tuple[int | str, ...]:
        """The shape of what the network draws."""
        return 1, channels, *(("rows", "columns") if self.free else self.codes)

    def picture(self, decoded: bool = False) -> tuple[int | str, ...]:
        """The shape of a picture, as the encoder takes it or the decoder gives it."""
        if not self.free:
            return 1, 3, self.height, self.width
        return 1, 3, *((f"{self.factor}*rows", f"{self.factor}*columns") if decoded else ("height", "width"))

    @property
    def bucket(self) -> dict[str, int]:
        """The sizes of the free dimensions of every part."""
        rows, columns = self.codes
        return {"rows": rows, "columns": columns, "height": self.height, "width": self.width}


def text_source(encoder: Any, tokenizer: Any, joined: bool) -> Source:
    """A text encoder; where several are `joined`, the layer before the last is what the network knows."""
    encoder = denoisers.own(encoder)
    encoder.set_attn_implementation("eager")  # of others, tracing and running differ in strides
    masked = type(encoder).__name__ == "T5EncoderModel"
    pooled = type(encoder).__name__ == "CLIPTextModelWithProjection"
    module = denoisers.TextEncoder(encoder, masked, -2 if joined else None, pooled)
    length = T5_TOKENS if masked else min(int(tokenizer.model_max_length), encoder.config.max_position_embeddings)
    inputs = [TensorSpec("tokens", "int32", (1, length))]
    probes = []
    for words in WORDS:
        tokens = tokenizer(words, truncation=True, max_length=length).input_ids
        row = np.full((1, length), tokenizer.pad_token_id, np.int32)
        row[0, : len(tokens)] = tokens
        mask = (np.arange(length) < len(tokens))[None].astype(np.float32)
        probes.append((row, mask) if masked else (row,))
    if masked:
        inputs.append(TensorSpec("mask", "float32", (1, length)))
    return _source(module, inputs, ("text", "pooled"), probes)


def network_source(net: Any, sides: Sides, texts: Sequence[Source]) -> Source:
    """The denoising network.

    Raises:
        InputError: a class, or conditions, that are not followed.
    """
    module = _network(net)
    random = np.random.default_rng(0)
    specs = [TensorSpec("sample", "float32", sides.drawn(module.channels), "NCHW"), TensorSpec("time", "float32", (1,))]
    noises = random.standard_normal((PROBES, 1, module.channels, *sides.codes), np.float32)
    probes: list[tuple[Array, ...]] = [(n, np.array([t], np.float32)) for n, t in zip(noises, TIMES, strict=True)]
    for name, values in _conditions(module, sides, texts).items():
        specs.append(TensorSpec(name, "float32", values[0].shape))
        probes = [(*probe, value) for probe, value in zip(probes, values, strict=True)]
    return _source(module, specs, ("prediction",), probes)


def vae_sources(vae: Any, sides: Sides) -> dict[str, Source]:
    """Both halves of an autoencoder."""
    vae = denoisers.own(vae)
    channels = int(vae.config.latent_channels)
    codes = TensorSpec("latent", "float32", sides.drawn(channels), "NCHW")
    taken, given = (
        TensorSpec("image", "float32", sides.picture(decoded), "NCHW", (-1.0, 1.0)) for decoded in (False, True)
    )
    drawn = np.random.default_rng(1).standard_normal((PROBES, 1, channels, *sides.codes), np.float32)
    pictures = tuple((soft(sides.height, sides.width, seed),) for seed in range(PROBES))
    return {
        "vae_decoder": Source(denoisers.Decoder(vae), (codes,), (given,), tuple((d,) for d in drawn)),
        "vae_encoder": Source(denoisers.Encoder(vae), (taken,), (codes,), pictures),
    }


def soft(height: int, width: int, seed: int) -> Array:
    """A picture of soft colours, float32 1 × 3 × height × width in −1…1."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(-1.2, 1.2, (1, 3, 5, 5)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    array: Array = fine.clamp(-1.0, 1.0).numpy()
    return array


def preview(encoder: nn.Module, factor: int) -> list[list[float]]:
    """Weights that make a colour of a code: least squares between soft pictures and what the encoder makes of them."""
    side = PREVIEW_SIDE * factor
    pictures = [torch.from_numpy(soft(side, side, seed)) for seed in range(PREVIEWED)]
    with torch.inference_mode():
        codes = torch.cat([encoder(picture) for picture in pictures])
    colours = nn.functional.avg_pool2d(torch.cat(pictures), factor)
    known, wanted = (t.permute(0, 2, 3, 1).flatten(0, 2).numpy() for t in (codes, colours))
    weights, *_ = np.linalg.lstsq(np.pad(known, ((0, 0), (0, 1)), constant_values=1.0), wanted, rcond=1e-4)
    return [[round(float(value), 5) for value in row] for row in weights.T]


def _network(net: Any) -> denoisers.Network:
    """The network as a module of plain tensors."""
    name, config = type(net).__name__, net.config
    odd = [f"{key}={getattr(config, key)}" for key in FURTHER if getattr(config, key, None)]
    addition = getattr(config, "addition_embed_type", None)
    if addition not in (None, "text_time"):
        odd.append(f"addition_embed_type={addition}")
    if name not in NETWORKS or odd:
        raise InputError(f"got a {name}{' with ' if odd else ''}{', '.join(odd)}: that condition is not followed")
    net = denoisers.own(net)
    if addition:
        return denoisers.SizedUNet(net)
    if getattr(config, "time_cond_proj_dim", None):
        return denoisers.GuidedUNet(net)
    return NETWORKS[name](net)


def _conditions(module: denoisers.Network, sides: Sides, texts: Sequence[Source]) -> dict[str, list[Array]]:
    """What the network takes beside the sample and the time, in its order: a value for every probe."""
    found: dict[str, list[Array]] = {}
    answers = [text.answers({}) for text in texts]
    if isinstance(module, denoisers.ClassTransformer):
        found["label"] = [np.eye(1, module.classes, 1, dtype=np.float32), np.zeros((1, module.classes), np.float32)]
    if texts:
        found["text"] = [np.concatenate([a[i][0] for a in answers], axis=2) for i in range(PROBES)]
    if isinstance(module, denoisers.SizedUNet):
        found["pooled"] = [next(a[i][1] for a in answers if len(a[i]) > 1) for i in range(PROBES)]
    if isinstance(module, denoisers.PromptTransformer):
        found["mask"] = [probe[1] for probe in texts[0].probes]
    if module.sized:
        found["sizes"] = [np.array([[sides.height, sides.width]], np.float32)] * PROBES
    if isinstance(module, denoisers.GuidedUNet):
        found["guidance"] = [np.array([value], np.float32) for value in (8.5, 2.0)]
    return found


def _source(
    module: nn.Module, inputs: Sequence[TensorSpec], names: Sequence[str], probes: Sequence[tuple[Array, ...]]
) -> Source:
    """A source whose outputs are described by running it; a picture has the sides of the first input."""
    with torch.inference_mode():
        results = module.eval()(*(torch.from_numpy(a.copy()) for a in probes[0]))
    results = results if isinstance(results, tuple) else (results,)
    outputs = [
        TensorSpec(name, "float32", tuple(result.shape))
        if result.ndim < 4
        else TensorSpec(name, "float32", (1, int(result.shape[1]), *inputs[0].shape[2:]), "NCHW")
        for name, result in zip(names, results, strict=False)
    ]
    return Source(module, tuple(inputs), tuple(outputs), tuple(probes))
