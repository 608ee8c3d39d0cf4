"""Metrics of reconstructed sequences of tokens: places, n-grams, whole sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from atoll.attacks.metrics.example_metrics import Columns, ExampleMetrics, hungarian
from atoll.clients.data.inputs.tokens import TokenInputs


def rouge(found: Sequence[int], truth: Sequence[int], size: int) -> float:
    """Return ROUGE-n: the F-measure of the n-grams that two sequences share (Lin, 2004).

    Parameters
    ----------
    found, truth : Sequence[int]
        Tokens, without padding.
    size : int
        The n of the n-grams.

    Examples
    --------
    >>> from atoll.attacks import rouge
    >>> rouge([1, 2, 3, 4], [1, 2, 4, 3], 1), rouge([1, 2, 3, 4], [1, 2, 4, 3], 2)
    (1.0, 0.3333333333333333)
    """
    first, second = _grams(found, size), _grams(truth, size)
    shared = (first & second).total()
    if not shared:
        # Two sequences too short to have an n-gram are alike where they are the same.
        return float(not first and not second and list(found) == list(truth))
    precision, recall = shared / first.total(), shared / second.total()
    return 2 * precision * recall / (precision + recall)


def _grams(tokens: Sequence[int], size: int) -> Counter[tuple[int, ...]]:
    return Counter(tuple(tokens[k : k + size]) for k in range(len(tokens) - size + 1))


def without_padding(sequence: Tensor, padding: int) -> list[int]:
    """Return a sequence's tokens, up to the padding at its end."""
    tokens: list[int] = sequence.tolist()
    while tokens and tokens[-1] == padding:
        tokens.pop()
    return tokens


class TokenMetrics(ExampleMetrics):
    """Metrics of sequences: right places, shared n-grams, and right sequences.

    The token accuracy is the share of the true sequence's places at which the reconstruction has
    the true token.

    Parameters
    ----------
    inputs : TokenInputs
        What a sequence is.
    candidates : Tensor
        Sequences that a reconstruction is told from: shape (n, length).
    """

    def __init__(self, inputs: TokenInputs, candidates: Tensor) -> None:
        self._padding, self._candidates = inputs.padding, candidates

    def assign(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return which sequence stands for each true one: by shared tokens, then by places."""
        short = [self._short(sequence) for sequence in found]
        overlap = torch.tensor(
            [[rouge(one, self._short(true), 1) for one in short] for true in truth]
        )
        places = (truth[:, None] == found[None]).double().mean(-1)
        return hungarian(2 - overlap.double() - places)

    def columns(self, found: Tensor, truth: Tensor, entropy: Tensor | None) -> Columns:
        """Return the metrics of sequences in the order of the truth."""
        pairs = [(self._short(f), self._short(t)) for f, t in zip(found, truth, strict=True)]
        return {
            "token_accuracy": [_share_of_places(*pair) for pair in pairs],
            "rouge1": [rouge(*pair, 1) for pair in pairs],
            "rouge2": [rouge(*pair, 2) for pair in pairs],
            "exact_match": [one == other for one, other in pairs],
            "identified": self._identified(found, truth),
        }

    def _short(self, sequence: Tensor) -> list[int]:
        return without_padding(sequence, self._padding)

    def _identified(self, found: Tensor, truth: Tensor) -> list[bool]:
        """Tell which reconstructions agree with the truth at more places than with any other."""
        own = (found == truth).sum(1)
        others = (found[:, None] == self._candidates[None]).sum(2)
        return (own > others.amax(1)).tolist() if len(self._candidates) else [True] * len(found)


def _share_of_places(found: Sequence[int], truth: Sequence[int]) -> float:
    right = sum(one == other for one, other in zip(found, truth, strict=False))
    return right / len(truth) if truth else float(not found)
