"""CausalStep: a causal language model of `transformers` as a graph that reads some tokens beside a ring of past ones.

The network is the model's own. Its cache and its attention are replaced, through the interfaces that
`transformers` offers for both: keys and values of past tokens are inputs, those of the new tokens are outputs,
and grouped queries (Ainslie et al. 2023, "GQA") meet them without a copy of either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from edgekit.errors import InputError
from edgekit.tensors import TensorSpec
from edgekit.text import NOWHERE, POSITIONS, SLOTS, TEXTS, TOKENS, State

ATTENTION = "edgekit-ring"
HIDDEN = -1e9  # what is added to the score of a token that may not be seen


@dataclass(frozen=True)
class Columns:
    """Keys or values of one layer, texts × heads × slots × size: those in the ring, those of the new tokens, and the
    bias that hides what a query may not see, texts × 1 × (queries of a group) × (slots + new tokens).
    """

    past: Tensor
    new: Tensor
    bias: Tensor


class Ring(Cache):  # type: ignore[misc]  # transformers has no types
    """The cache that a model is called with: collects each layer's new columns, and hands out ring and new ones."""

    def __init__(self, past: Sequence[Tensor], distance: Tensor, reaches: Sequence[int], groups: int) -> None:
        super().__init__(layers=[])
        self.past, self.distance, self.reaches, self.groups = past, distance, reaches, groups
        self.columns: list[Tensor] = []
        self._biases: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Columns, Columns]:
        if 2 * layer_idx != len(self.columns):
            raise NotImplementedError(f"layer {layer_idx} shares or skips its place in the cache")
        self.columns += [key_states, value_states]
        bias = self.bias(self.reaches[layer_idx])
        keys, values = self.past[2 * layer_idx : 2 * layer_idx + 2] or (key_states[:, :, :0], value_states[:, :, :0])
        return Columns(keys, key_states, bias), Columns(values, value_states, bias)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions are an input

    def bias(self, reach: int) -> Tensor:
        """0 for tokens that lie 0 to `reach` back, HIDDEN for others; made once, as layers of one reach share it."""
        if reach not in self._biases:
            seen = (self.distance >= 0) & (self.distance <= reach)
            self._biases[reach] = torch.cat([torch.where(seen, 0.0, HIDDEN)] * self.groups, dim=1)[:, None]
        return self._biases[reach]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Columns,
    value: Columns,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of new tokens (texts × heads × tokens × size) to a ring and to each other."""
    if not isinstance(key, Columns) or others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise NotImplementedError(f"{type(module).__name__} changes what it takes from the cache")
    heads, tokens, size = query.shape[1:]
    groups, slots = heads // key.new.shape[1], key.past.shape[2]
    scaled = _whole(query) * (size**-0.5 if scaling is None else scaling)
    grouped = torch.unflatten(scaled, 1, (-1, groups)).flatten(2, 3)  # texts × key heads × (group × tokens) × size
    scores = torch.cat([grouped @ keys.transpose(2, 3) for keys in (key.past, key.new)], dim=3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = torch.softmax(scores + key.bias, dim=3)
    mixed = weights[..., :slots] @ value.past + weights[..., slots:] @ value.new
    mixed = torch.unflatten(mixed, 2, (groups, tokens)).flatten(1, 2)
    return _whole(mixed.transpose(1, 2)), None


def _whole(tensor: Tensor) -> Tensor:
    """Contiguous by a copy, always: whether one is needed would be asked of the number of tokens, which is free."""
    return tensor.clone(memory_format=torch.contiguous_format)


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)


class CausalStep(nn.Module):
    """`forward` reads n tokens of each of some texts: tokens, positions (texts × n), positions of the ring's slots
    (texts × slots), the ring → logits after the last (texts × vocabulary), and each layer's new keys and values
    (texts × heads × n × size).

    A position of NOWHERE is that of an empty slot, or of a token that only fills up n, which nobody sees. The ring
    has as many slots as the caller likes, so that a short text does not pay for a long one.

    Raises:
        InputError: layers that keep something else than keys and values.
    """

    def __init__(self, model: Any, context: int) -> None:
        super().__init__()
        self.model, self.context = model, context
        config = model.config.get_text_config(decoder=True)
        layers = DynamicCache(config=config).layers
        if others := sorted({type(layer).__name__ for layer in layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"}):
            raise InputError(
                f"{type(model).__name__} keeps more than the keys and values of tokens ({', '.join(others)}): models "
                "of which every layer attends, such as GPT-2, Llama and Qwen2, can be exported"
            )
        windows = [getattr(layer, "sliding_window", None) for layer in layers]
        self.reaches = [context if window is None else min(context, window - 1) for window in windows]
        columns = self._columns()
        if len(columns) != 2 * len(layers):
            raise NotImplementedError(f"{len(columns)} keys and values of {len(layers)} layers went through the cache")
        self.shapes = [(int(c.shape[1]), int(c.shape[3])) for c in columns]
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def forward(self, tokens: Tensor, positions: Tensor, slots: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        distance = positions[:, :, None] - torch.cat([slots, positions], dim=1)[:, None, :]
        ring = Ring(past, distance, self.reaches, self._groups())
        with ring_attention(self.model.config):
            logits = self.model(
                input_ids=tokens,
                position_ids=positions.clamp(min=0),
                attention_mask=ring.bias(self.context),  # made already: four dimensions are taken as they are
                past_key_values=ring,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return logits[:, -1], *ring.columns

    def _groups(self) -> int:
        config = self.model.config.get_text_config(decoder=True)
        heads = int(config.num_attention_heads)
        return heads // int(getattr(config, "num_key_value_heads", None) or heads)

    @torch.inference_mode()
    def _columns(self) -> list[Tensor]:
        """What goes through the cache when one token is read without a ring."""
        token = torch.zeros((1, 1), dtype=torch.int32)
        return list(self(token, token, token[:, :0])[1:])

    def states(self) -> tuple[State, ...]:
        """The ring's keys and values, layer by layer."""
        return tuple(
            State(f"{kind}s{layer}", f"{kind}{layer}", "append", axis=2)
            for layer in range(len(self.shapes) // 2)
            for kind in ("key", "value")
        )

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs."""
        pairs = list(zip(self.states(), self.shapes, strict=True))
        inputs = [
            TensorSpec(TOKENS, "int32", (TEXTS, TOKENS)),
            TensorSpec(POSITIONS, "int32", (TEXTS, TOKENS)),
            TensorSpec(SLOTS, "int32", (TEXTS, SLOTS)),
            *(TensorSpec(s.input, "float32", (TEXTS, heads, SLOTS, size)) for s, (heads, size) in pairs),
        ]
        outputs = [
            TensorSpec("logits", "float32", (TEXTS, self.vocabulary)),
            *(TensorSpec(s.output, "float32", (TEXTS, heads, TOKENS, size)) for s, (heads, size) in pairs),
        ]
        return tuple(inputs), tuple(outputs)


@contextlib.contextmanager
def ring_attention(config: Any) -> Iterator[None]:
    """A model of this configuration attends by `attend` within the block."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


__all__ = ["NOWHERE", "CausalStep"]
