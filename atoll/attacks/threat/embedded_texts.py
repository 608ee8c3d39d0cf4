"""Client's update as a function of its tokens' embeddings, in the place of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from atoll.attacks.threat.observation import Observation
from atoll.attacks.threat.simulation import ClientSimulation
from atoll.clients.data.inputs.tokens import TokenInputs
from atoll.errors import AttackError


class EmbeddedClient:
    """Simulation of a client whose texts are given as embeddings.

    Sequences are as long as the longest of the batch, where the update tells how long that is: by
    the gradient of a table with a row for each place. Else they fill all places.

    Parameters
    ----------
    observation : Observation
        Of a classification of token sequences.

    Attributes
    ----------
    length : int
        Places of the sequences.
    table : Tensor
        The tokens' embeddings, shape (vocabulary, width).
    matched : tuple[int, ...]
        The places of the parameters whose gradients depend on the embeddings given: all but the
        table's own.

    Raises
    ------
    AttackError
        If the model has no embedding of the tokens.
    """

    def __init__(self, observation: Observation) -> None:
        assert isinstance(observation.inputs, TokenInputs)
        self._inputs = observation.inputs
        self._simulation = ClientSimulation.of(observation)
        self._embedding = token_embedding(observation)
        self.table = self._embedding.weight.detach()[: self._inputs.vocabulary]
        own = observation.model.place_of(self._embedding.weight)
        self.matched = tuple(p for p in range(len(observation.target)) if p != own)
        self.length = longest_text(observation, self._inputs.length)

    def update(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the update of texts with these embeddings; differentiable by them.

        Parameters
        ----------
        embeddings : Tensor
            Shape (n, length, width).
        labels : Tensor
            int64, shape (n,).
        """
        count = len(embeddings)
        padding = self._inputs.padding
        # Which tokens these are does not matter, but that they are none of padding.
        tokens = torch.full((count, self._inputs.length), padding)
        tokens[:, : self.length] = 1 if padding == 0 else 0
        missing = self._inputs.length - self.length
        rest = self.table[padding].expand(count, missing, -1)
        with self._replaced(torch.cat([embeddings, rest], 1)):
            update = self._simulation(tokens, labels)
        return tuple(update[place] for place in self.matched)

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Return the tokens whose embeddings have the smallest angle to these: (n, length)."""
        table = nn.functional.normalize(self.table, dim=1)
        similar = nn.functional.normalize(embeddings, dim=-1) @ table.T
        similar[..., self._inputs.padding] = -torch.inf
        return similar.argmax(-1)

    @contextmanager
    def _replaced(self, embeddings: Tensor) -> Iterator[None]:
        """Let the model's embedding return these, while it lasts."""

        def replace(module: nn.Module, tokens: tuple[Tensor, ...], found: Tensor) -> Tensor:
            return embeddings.expand_as(found)

        handle = self._embedding.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def token_embedding(observation: Observation, *, trained: bool = False) -> nn.Embedding:
    """Return the table of the tokens' embeddings.

    Parameters
    ----------
    observation : Observation
        Of token sequences.
    trained : bool
        Whether only a table that the client trains will do.

    Raises
    ------
    AttackError
        If the model has none.
    """
    inputs, model = observation.inputs, observation.model
    assert isinstance(inputs, TokenInputs)
    for module in model.module.modules():
        if not isinstance(module, nn.Embedding) or module.num_embeddings < inputs.vocabulary:
            continue
        if not trained or model.place_of(module.weight) is not None:
            return module
    kind = "trained embedding" if trained else "embedding"
    raise AttackError(
        f"{observation.name}: the model has no {kind} of {inputs.vocabulary} tokens; expected one"
    )


def longest_text(observation: Observation, length: int) -> int:
    """Return up to which place there are tokens, by the gradient of the places' embeddings.

    Parameters
    ----------
    observation : Observation
        Of token sequences.
    length : int
        The places of a sequence: the answer where no such gradient tells.
    """
    for name, gradient in zip(observation.model.names, observation.target, strict=True):
        if "position" in name and gradient.dim() == 2 and len(gradient) >= length:
            sizes = gradient[:length].double().norm(dim=1)
            used = (sizes > 1e-3 * sizes.max()).nonzero()
            return int(used.max()) + 1 if len(used) else length
    return length
