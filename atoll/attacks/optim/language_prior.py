"""Language model of pairs of tokens, estimated on public sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Weight of a pair's own frequency beside that of its second token.
PAIR_WEIGHT = 0.8


@dataclass(frozen=True)
class BigramPrior:
    """Negative log-likelihood of tokens by those before them, interpolated with single tokens.

    p(b after a) = 0.8 count(a, b) / count(a) + 0.2 (count(b) + 1) / (tokens + vocabulary), as
    Jelinek and Mercer (1980) interpolate.

    Attributes
    ----------
    pairs, pair_counts : Tensor
        int64: the pairs that occur, as first * vocabulary + second in rising order, and how often.
    counts : Tensor
        int64, shape (vocabulary,): how often each token occurs.
    firsts : Tensor
        int64, shape (vocabulary,): how often each token has another after it.
    """

    pairs: Tensor
    pair_counts: Tensor
    counts: Tensor
    firsts: Tensor

    @classmethod
    def of(cls, sequences: Tensor, vocabulary: int, padding: int) -> BigramPrior:
        """Return the prior of public sequences.

        Parameters
        ----------
        sequences : Tensor
            int, shape (n, length).
        vocabulary : int
            The number of tokens.
        padding : int
            The token of places that have none; it is not counted.

        Examples
        --------
        >>> prior = BigramPrior.of(torch.tensor([[1, 2, 1, 2]]), vocabulary=3, padding=0)
        >>> likely, unlikely = prior(torch.tensor([[1, 2], [1, 1]])).tolist()
        >>> likely < unlikely
        True
        """
        given = sequences.long()
        is_token = given != padding
        counts = torch.bincount(given[is_token], minlength=vocabulary)
        both = is_token[:, :-1] & is_token[:, 1:]
        first, second = given[:, :-1][both], given[:, 1:][both]
        pairs, pair_counts = torch.unique(first * vocabulary + second, return_counts=True)
        return cls(pairs, pair_counts, counts, torch.bincount(first, minlength=vocabulary))

    def __call__(self, sequences: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of a token: shape (n,), of (n, length)."""
        vocabulary = len(self.counts)
        single = (self.counts + 1.0) / (self.counts.sum() + vocabulary)
        given = sequences.long()
        costs = [-single[given[:, :1]].log()]
        if given.shape[1] > 1:
            first, second = given[:, :-1], given[:, 1:]
            together = self._count(first * vocabulary + second)
            share = together / self.firsts[first].clamp_min(1)
            likelihood = PAIR_WEIGHT * share + (1 - PAIR_WEIGHT) * single[second]
            costs.append(-likelihood.log())
        return torch.cat(costs, 1).mean(1)

    def _count(self, pairs: Tensor) -> Tensor:
        if not len(self.pairs):
            return torch.zeros(pairs.shape)
        places = torch.searchsorted(self.pairs, pairs).clamp_max(len(self.pairs) - 1)
        return torch.where(self.pairs[places] == pairs, self.pair_counts[places], 0).float()
