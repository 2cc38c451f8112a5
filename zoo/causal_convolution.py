"""A convolutional network over characters: dilated causal convolutions, run one step at a time with buffers.

After van den Oord et al. 2016 ("WaveNet"): each block reads the present and two places of the past, twice
as far apart as the block below. A convolution is written as a linear layer over the places that it reads,
which is the same arithmetic, and the form in which a step needs no more than a buffer of past inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.tensors import TensorSpec
from edgekit.text import State

TAPS = 3  # places that a convolution reads


class Block(nn.Module):
    """A dilated convolution and a pointwise one, added to what they read."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(TAPS * width, width)
        self.point = nn.Linear(width, width)
        nn.init.zeros_(self.point.weight)

    @property
    def past(self) -> int:
        """How many places back the block reads."""
        return (TAPS - 1) * self.dilation

    def added(self, taps: Tensor) -> Tensor:
        """What the block adds: … × (taps · width) → … × width."""
        return torch.as_tensor(self.point(F.gelu(self.wide(taps))))


class ConvolutionStep(nn.Module):
    """`forward` is one step: token (1,) and a buffer of past inputs for each block → logits, the buffers after.

    A buffer is places × width, the oldest first.
    """

    def __init__(self, vocabulary: int, width: int = 128, blocks: int = 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.settings = {"vocabulary": vocabulary, "width": width, "blocks": blocks}
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, 2**i) for i in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.1)
        nn.init.zeros_(self.head.weight)

    def forward(self, token: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        x = self.embedding(token)
        after: list[Tensor] = []
        for block, buffer in zip(self.blocks, buffers, strict=True):
            assert isinstance(block, Block)
            seen = torch.cat([buffer, block.norm(x)])
            taps = [seen[i * block.dilation : i * block.dilation + 1] for i in range(TAPS)]
            x = x + block.added(torch.cat(taps, dim=1))
            after.append(seen[1:])
        return self.head(self.norm(x)), *after

    def whole(self, tokens: Tensor) -> Tensor:
        """All steps from empty buffers, as in training: batch × length → batch × length × vocabulary logits."""
        x = F.dropout(self.embedding(tokens), self.dropout, self.training)
        length = tokens.shape[1]
        for block in self.blocks:
            assert isinstance(block, Block)
            seen = F.pad(block.norm(x), (0, 0, block.past, 0))
            taps = [seen[:, i * block.dilation : i * block.dilation + length] for i in range(TAPS)]
            x = x + F.dropout(block.added(torch.cat(taps, dim=2)), self.dropout, self.training)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def states(self) -> tuple[State, ...]:
        """The buffer of each block."""
        return tuple(State(f"past{i}", f"after{i}", "replace") for i in range(len(self.blocks)))

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a step."""
        width = self.head.in_features
        shapes = [(block.past, width) for block in self.blocks if isinstance(block, Block)]
        pairs = list(zip(self.states(), shapes, strict=True))
        inputs = [TensorSpec("token", "int32", (1,)), *(TensorSpec(s.input, "float32", shape) for s, shape in pairs)]
        outputs = [TensorSpec("logits", "float32", (1, self.head.out_features))]
        outputs += [TensorSpec(s.output, "float32", shape) for s, shape in pairs]
        return tuple(inputs), tuple(outputs)
