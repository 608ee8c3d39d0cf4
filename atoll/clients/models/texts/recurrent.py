"""Recurrent network for sequences of tokens.

Its units are written out: PyTorch's own cannot be vectorised over clients.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.models.texts.tokens import as_tokens, at_last_token
from atoll.clients.ranges import Depth, Width
from atoll.clients.tasks.next_token import NextToken
from atoll.clients.tasks.task import Task


class GatedUnits(nn.Module):
    """Layer of gated recurrent units, as one of ``torch.nn.GRU``'s.

    Parameters
    ----------
    inputs, hidden : int
        Numbers that it is given at a place, and units.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.of_input, self.of_state = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, length, inputs) to the states at each place: (n, length, hidden)."""
        state = x.new_zeros(*x.shape[:-2], self.hidden)
        states = []
        for of_input in self.of_input(x).unbind(-2):
            of_state = self.of_state(state)
            gates = torch.sigmoid(
                of_input[..., : 2 * self.hidden] + of_state[..., : 2 * self.hidden]
            )
            reset, update = gates.chunk(2, -1)
            new = torch.tanh(
                of_input[..., 2 * self.hidden :] + reset * of_state[..., 2 * self.hidden :]
            )
            state = torch.lerp(new, state, update)
            states.append(state)
        return torch.stack(states, -2)


class Recurrent(nn.Module):
    """Embeddings, gated recurrent units, and a linear head.

    Parameters
    ----------
    vocabulary, padding : int
        The number of tokens, and the one that is none.
    outputs : int
        Outputs of the head.
    embedding, hidden, layers : int
        Sizes.
    at_every_place : bool
        Whether outputs are those of every place (next token), or those of the last token.
    """

    def __init__(
        self,
        vocabulary: int,
        padding: int,
        outputs: int,
        *,
        embedding: int,
        hidden: int,
        layers: int,
        at_every_place: bool,
    ) -> None:
        super().__init__()
        self._padding, self._at_every_place = padding, at_every_place
        self.embedding = nn.Embedding(vocabulary, embedding)
        widths = [embedding, *[hidden] * (layers - 1)]
        self.recurrent = nn.Sequential(*(GatedUnits(width, hidden) for width in widths))
        self.head = nn.Linear(hidden, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to (n, length, outputs), or to (n, outputs)."""
        # Padding is at the end: no token comes after it that would see its state.
        states = self.recurrent(self.embedding(tokens))
        if not self._at_every_place:
            states = at_last_token(states, tokens != self._padding)
        logits: Tensor = self.head(states)
        return logits


def gru(
    inputs: Inputs,
    task: Task,
    embedding: Width = 8,
    hidden: Width = 128,
    layers: Depth = 2,
) -> nn.Module:
    """Return a network of gated recurrent units (Cho et al., 2014).

    For the next token its outputs are those of every place, else those of the last token.

    Parameters
    ----------
    embedding : int
        Numbers of a token's embedding.
    hidden : int
        Units of a layer.
    layers : int
        Recurrent layers.
    """
    given = as_tokens(inputs)
    return Recurrent(
        given.vocabulary,
        given.padding,
        task.outputs,
        embedding=embedding,
        hidden=hidden,
        layers=layers,
        at_every_place=isinstance(task, NextToken),
    )
