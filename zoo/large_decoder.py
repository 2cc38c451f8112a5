"""Decoder: a transformer of the plain modules that public text models are built of, for measuring large exports."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal self-attention with rotary positions, after arXiv:2104.09864."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(
            _turned(query, cosine, sine), _turned(key, cosine, sine), value, is_causal=True
        )
        result: Tensor = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return result


class Block(nn.Module):
    """Attention and a gated MLP, each behind an RMS norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.attention = Attention(width, heads)
        hidden = width * 5 // 2
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), cosine, sine)
        y = self.norm2(x)
        result: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return result


class Decoder(nn.Module):
    """Token ids (batch, length) int64 → logits (batch, length, vocabulary)."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.pairs = width // heads // 2
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        position = torch.arange(tokens.shape[1], dtype=torch.float32)
        angle = position[:, None] * 10_000 ** (-torch.arange(self.pairs, dtype=torch.float32) / self.pairs)
        cosine, sine = angle.cos(), angle.sin()
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cosine, sine)
        logits: Tensor = self.head(self.norm(x))
        return logits


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs of features turned by their position's angle."""
    one, two = x.chunk(2, dim=-1)
    return torch.cat([one * cosine - two * sine, one * sine + two * cosine], dim=-1)
