"""Bag of words: the mean of a text's embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from atoll.clients.data.inputs.base import Inputs
from atoll.clients.encoders import masked_mean
from atoll.clients.models.texts.tokens import as_tokens
from atoll.clients.ranges import Width


class EmbeddingMean(nn.Module):
    """Mean of the tokens' embeddings, and a linear head."""

    def __init__(self, vocabulary: int, padding: int, outputs: int, width: int) -> None:
        super().__init__()
        self._padding = padding
        self.embedding = nn.Embedding(vocabulary, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to (n, outputs)."""
        mean = masked_mean(self.embedding(tokens), tokens != self._padding)
        logits: Tensor = self.head(mean)
        return logits


def text_mean(inputs: Inputs, outputs: int, width: Width = 64) -> nn.Module:
    """Return a linear model of the mean of a text's embeddings, as fastText is without n-grams.

    Parameters
    ----------
    width : int
        Numbers of a token's embedding.
    """
    given = as_tokens(inputs)
    return EmbeddingMean(given.vocabulary, given.padding, outputs, width)
