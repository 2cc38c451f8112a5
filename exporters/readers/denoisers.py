"""The parts of a diffusers pipeline as modules of plain tensors: text encoder, denoising network, autoencoder."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.exporters.flat import in_float32

ANY_SIDE = 31  # see free_sides


class TextEncoder(nn.Module):
    """tokens, int32 1 × length (and mask, float 1 × length) → text, 1 × length × width (and pooled, 1 × width).

    `layer` picks the hidden state that the network was trained on: None the last, after its norm.
    """

    def __init__(self, encoder: Any, masked: bool = False, layer: int | None = None, pooled: bool = False) -> None:
        super().__init__()
        self.encoder, self.masked, self.layer, self.pooled = encoder, masked, layer, pooled

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Any:
        hidden = {"output_hidden_states": True} if self.layer is not None else {}
        output = self.encoder(tokens.long(), attention_mask=mask if self.masked else None, **hidden)
        text = output[0] if self.layer is None else output.hidden_states[self.layer]
        return (text, output[0]) if self.pooled else text


class Network(nn.Module):
    """A denoising network; what it gives beside the prediction, such as a variance, is left out.

    `sized` says that it takes the picture's height and width.
    """

    sized = False

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels = int(net.config.in_channels)

    def predicted(self, output: Any) -> Tensor:
        prediction: Tensor = output[0]
        return prediction[:, : self.channels]


class PromptUNet(Network):
    """UNet2DConditionModel: sample, time, text → prediction."""

    def forward(self, sample: Tensor, time: Tensor, text: Tensor) -> Tensor:
        return self._run(sample, time, text)

    def _run(self, sample: Tensor, time: Tensor, text: Tensor, **further: Any) -> Tensor:
        with free_sides(self.net):
            return self.predicted(self.net(sample, time, text, return_dict=False, **further))


class SizedUNet(PromptUNet):
    """That of SDXL: sample, time, text, pooled, sizes (height and width of the picture, whole) → prediction."""

    sized = True

    def forward(self, sample: Tensor, time: Tensor, text: Tensor, pooled: Tensor, sizes: Tensor) -> Tensor:  # type: ignore[override]
        places = torch.cat([sizes, torch.zeros_like(sizes), sizes], dim=1)  # original, corner, and aim
        return self._run(sample, time, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": places})


class GuidedUNet(PromptUNet):
    """One that was distilled with guidance: sample, time, text, guidance → prediction."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.width = int(net.config.time_cond_proj_dim)

    def forward(self, sample: Tensor, time: Tensor, text: Tensor, guidance: Tensor) -> Tensor:  # type: ignore[override]
        return self._run(sample, time, text, timestep_cond=_waves(guidance, self.width))


class PromptTransformer(Network):
    """PixArtTransformer2DModel: sample, time, text, mask (and sizes) → prediction."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.sized = bool(net.use_additional_conditions)

    def forward(self, sample: Tensor, time: Tensor, text: Tensor, mask: Tensor, sizes: Tensor | None = None) -> Tensor:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.sized and sizes is not None:
            added = {"resolution": sizes, "aspect_ratio": sizes[:, :1] / sizes[:, 1:]}
        output = self.net(
            sample,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=time,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return self.predicted(output)


class ClassTransformer(Network):
    """DiTTransformer2DModel: sample, time, label (one-hot, or zeros for none) → prediction."""

    def __init__(self, net: Any) -> None:
        super().__init__(_sharing(net))
        for block in self.net.transformer_blocks:
            embedding = block.norm1.emb
            embedding.class_embedder = OneHotEmbedding(embedding.class_embedder)
        self.classes = len(embedding.class_embedder.table) - 1

    def forward(self, sample: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.predicted(self.net(sample, timestep=time, class_labels=label, return_dict=False))


class OneHotEmbedding(nn.Module):
    """A table of class embeddings, the last row for no class, read by a one-hot vector."""

    def __init__(self, embedder: Any) -> None:
        super().__init__()
        self.table = getattr(embedder, "embedding_table", embedder).weight

    def forward(self, label: Tensor, *rest: Any) -> Tensor:
        known, none = self.table[:-1], self.table[-1:]
        row: Tensor = label @ known + (1.0 - label.sum(dim=1, keepdim=True)) * none
        return row


class PlainUNet(Network):
    """UNet2DModel without classes: sample, time → prediction."""

    def forward(self, sample: Tensor, time: Tensor) -> Tensor:
        return self.predicted(self.net(sample, time, return_dict=False))


class Half(nn.Module):
    """What the halves of an autoencoder share: scale and shift between the network's codes and the autoencoder's.

    One number each, or one for each channel where the autoencoder states the codes' mean and deviation.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = _plain(vae)
        config = vae.config
        scale, shift = (
            torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            for values in (config.scaling_factor or 1.0, getattr(config, "shift_factor", None) or 0.0)
        )
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            scale = scale / torch.tensor(config.latents_std).reshape(1, -1, 1, 1)
            shift = torch.tensor(config.latents_mean).reshape(1, -1, 1, 1)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)


class Decoder(Half):
    """latent, as the network draws it → image, 3 channels in −1…1."""

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.vae.decode(latent / self.scale + self.shift, return_dict=False)[0]
        return image


class Encoder(Half):
    """image, 3 channels in −1…1 → latent, the mean of its distribution, as the network draws it."""

    def forward(self, image: Tensor) -> Tensor:
        encoded = self.vae.encode(image, return_dict=False)[0]
        latent: Tensor = encoded if isinstance(encoded, Tensor) else encoded.mode()
        return (latent - self.shift) * self.scale


@contextlib.contextmanager
def free_sides(net: Any) -> Iterator[None]:
    """Let a UNet enlarge to the size of what it joins, whatever that is, and not only from multiples of a size.

    diffusers asks whether a side is a multiple of 2 to the number of its upsamplers, which no tracing with free
    sides can answer; with more of them than a side has bits, the answer is no for every side.
    """
    before = net.num_upsamplers
    net.num_upsamplers = ANY_SIDE
    try:
        yield
    finally:
        net.num_upsamplers = before


def _plain(vae: Any) -> Any:
    """An autoencoder whose attention gives plain rows, which can be traced at free sizes."""
    vae = _sharing(vae)
    if hasattr(vae, "set_attn_processor"):
        vae.set_attn_processor({name: Attention() for name in vae.attn_processors})
    return vae


class Attention:
    """Attention of one head over the places of a picture, as diffusers computes it in autoencoders."""

    def __call__(
        self,
        attention: Any,
        hidden: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:
        """The arguments are those that diffusers looks for by name; an autoencoder has a picture alone."""
        flat = attention.group_norm(hidden.flatten(2)).transpose(1, 2)
        layers = (attention.to_q, attention.to_k, attention.to_v)
        query, key, value = (_heads(layer(flat), attention.heads) for layer in layers)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        rows: Tensor = attention.to_out[0](mixed.transpose(1, 2).flatten(2)).transpose(1, 2)
        added: Tensor = (rows.reshape(hidden.shape).contiguous() + hidden) / attention.rescale_output_factor
        return added


def _heads(rows: Tensor, heads: int) -> Tensor:
    """batch × places × width → batch × heads × places × width of a head."""
    return rows.reshape(rows.shape[0], rows.shape[1], heads, -1).transpose(1, 2)


def own(net: Any) -> Any:
    """A copy of a module in float32 and evaluation mode, around the same weights where they are in float32 already."""
    wide = in_float32(net)
    return (_sharing(net) if wide is net else wide).eval()


def _sharing(net: Any) -> Any:
    """A copy of a module's structure around the same weights: what is changed in it stays out of the caller's."""
    return copy.deepcopy(net, {id(tensor): tensor for tensor in net.state_dict(keep_vars=True).values()})


def _waves(guidance: Tensor, width: int) -> Tensor:
    """The embedding of guidance − 1 (Luo et al. 2023, "Latent Consistency Models"): 1 × width."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000.0) / (half - 1)))
    angles = (guidance[:, None] - 1.0) * 1000.0 * rates[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
