"""A recurrent network over characters: gated recurrent units, small enough for a microcontroller-class board.

Cho et al. 2014, in the form that Keras calls `reset_after` and PyTorch has: the reset gate acts on the
product, so that a step is two linear layers and some arithmetic on their results.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.tensors import TensorSpec
from edgekit.text import State


class Cell(nn.Module):
    """One layer of gated recurrent units."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(inputs, 3 * hidden)
        self.recall = nn.Linear(hidden, 3 * hidden)
        nn.init.orthogonal_(self.recall.weight)

    def turn(self, read: Tensor, state: Tensor) -> Tensor:
        """`read` of the input (batch × 3·hidden) and the state before → the state after (batch × hidden)."""
        reset_in, update_in, new_in = read.chunk(3, dim=1)
        reset_of, update_of, new_of = self.recall(state).chunk(3, dim=1)
        update = torch.sigmoid(update_in + update_of)
        new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_of) * new_of)
        return new + update * (state - new)

    def whole(self, x: Tensor) -> Tensor:
        """All turns from an empty state by PyTorch's own loop, five times as fast: batch × length × inputs → hidden."""
        state = x.new_zeros(1, len(x), self.recall.in_features)
        weights = [self.read.weight, self.recall.weight, self.read.bias, self.recall.bias]
        return torch.gru(x, state, weights, True, 1, 0.0, self.training, False, True)[0]


class RecurrentStep(nn.Module):
    """`forward` is one step: token (1,) and a state (1 × hidden) for each layer → logits, the states after."""

    def __init__(
        self, vocabulary: int, embedding: int = 32, hidden: int = 256, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.settings = {"vocabulary": vocabulary, "embedding": embedding, "hidden": hidden, "layers": layers}
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.cells = nn.ModuleList(Cell(hidden if i else embedding, hidden) for i in range(layers))
        self.head = nn.Linear(hidden, vocabulary)
        nn.init.zeros_(self.head.weight)

    def forward(self, token: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x = self.embedding(token)
        after: list[Tensor] = []
        for cell, state in zip(self.cells, states, strict=True):
            assert isinstance(cell, Cell)
            x = cell.turn(cell.read(x), state)
            after.append(x)
        return self.head(x), *after

    def whole(self, tokens: Tensor) -> Tensor:
        """All steps from empty states, as in training: batch × length → batch × length × vocabulary logits."""
        x = self.embedding(tokens)
        for cell in self.cells:
            assert isinstance(cell, Cell)
            x = F.dropout(cell.whole(x), self.dropout, self.training)
        logits: Tensor = self.head(x)
        return logits

    def states(self) -> tuple[State, ...]:
        """One for each layer."""
        return tuple(State(f"state{i}", f"after{i}", "replace") for i in range(len(self.cells)))

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a step."""
        shape = (1, self.head.in_features)
        inputs = [TensorSpec("token", "int32", (1,)), *(TensorSpec(s.input, "float32", shape) for s in self.states())]
        outputs = [TensorSpec("logits", "float32", (1, self.head.out_features))]
        outputs += [TensorSpec(s.output, "float32", shape) for s in self.states()]
        return tuple(inputs), tuple(outputs)
