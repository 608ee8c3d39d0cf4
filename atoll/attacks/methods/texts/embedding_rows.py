"""Tokens that occur in a batch, from the rows of the embedding's gradient.

The gradient of a table of embeddings is zero in the rows of tokens that do not occur (Melis et al.,
2019, "Exploiting unintended feature leakage in collaborative learning", sec. 5). Where texts are
the mean of their embeddings, a row's length says how often its token occurs in one text.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.base.attack import Reconstruction, SeparateAttack
from atoll.attacks.threat.capabilities import Capability
from atoll.attacks.threat.embedded_texts import token_embedding
from atoll.attacks.threat.observation import Observation
from atoll.clients.data.inputs.tokens import TokenInputs


class EmbeddingRows(SeparateAttack):
    """The bag of words of a batch: tokens without an order, each as often as its row is long.

    Of several sequences it is not known which tokens are of which: each gets all of them.

    Attributes
    ----------
    tolerance : float
        The length of a row, as a share of the longest, below which its token does not occur.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"tokens"})
    needs = frozenset({Capability.TRAINING})

    tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] = 1e-3

    def check(self, observation: Observation) -> None:
        """Refuse a model without a table of embeddings that is trained."""
        token_embedding(observation, trained=True)

    def reconstruct(self, observation: Observation, seed: int) -> Reconstruction:
        """Read the rows' lengths."""
        inputs, count = observation.inputs, observation.num_examples
        assert isinstance(inputs, TokenInputs)
        place = observation.model.place_of(token_embedding(observation, trained=True).weight)
        assert place is not None
        lengths = observation.target[place].double().norm(dim=1).cpu()
        lengths[inputs.padding] = 0.0
        occurs = lengths > self.tolerance * lengths.max()
        tokens = torch.full((count, inputs.length), inputs.padding, dtype=torch.int32)
        bag = _bag(lengths, occurs, count)[: inputs.length]
        tokens[:, : len(bag)] = bag.to(torch.int32)
        return Reconstruction(tokens, torch.full((count,), -1), "none")


def _bag(lengths: Tensor, occurs: Tensor, count: int) -> Tensor:
    """Return the tokens, the longest rows first, of one text as often as they occur."""
    found = occurs.nonzero()[:, 0]
    found = found[lengths[found].argsort(descending=True, stable=True)]
    if count > 1 or not len(found):
        return found
    times = (lengths[found] / lengths[found].min()).round().long()
    return torch.repeat_interleave(found, times)
