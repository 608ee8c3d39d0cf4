"""Weights of a round's domains and of their examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Weighting = Literal["uniform", "examples"]


class DomainWeights:
    """Examples and weights of domains, of which some may have no client in the round.

    Parameters
    ----------
    present : Mapping[str, int]
        By domain, the examples of the round's clients.
    stored : Mapping[str, int]
        The same of domains without a client in the round, from an earlier one.
    weighting : "uniform" or "examples"
        Whether domains count the same or by their examples.

    Attributes
    ----------
    names : tuple[str, ...]
        The domains, in alphabetical order.
    present : tuple[bool, ...]
        Whether each has a client in the round.
    count_of : dict[str, int]
        Examples by domain.
    counts, weights : Tensor
        Examples, and the weight of each domain: float64, shape (n,). The weights' sum is 1.
    """

    def __init__(
        self, present: Mapping[str, int], stored: Mapping[str, int], weighting: Weighting
    ) -> None:
        self._weighting = weighting
        self.names = tuple(sorted([*present, *stored]))
        self.present = tuple(name in present for name in self.names)
        self.count_of = {**stored, **present}
        self.counts = torch.tensor([self.count_of[n] for n in self.names], dtype=torch.float64)
        uniform = torch.full_like(self.counts, 1 / max(1, len(self.names)))
        self.weights = uniform if weighting == "uniform" else self.counts / self.counts.sum()

    @property
    def own(self) -> list[str]:
        """The domains that have a client in the round."""
        return [name for name, is_here in zip(self.names, self.present, strict=True) if is_here]

    @property
    def examples(self) -> int:
        """The number of examples of the round's clients."""
        return sum(self.count_of[name] for name in self.own)

    @property
    def present_share(self) -> float:
        """The weight of the domains that are in the round, among all stored ones too; in (0, 1]."""
        if all(self.present):
            return 1.0
        return float(self.weights[torch.tensor(self.present)].sum())

    def example_weights(self) -> dict[str, float]:
        """Return the weight of one example of each domain; 1 where domains count by examples.

        The weights of the domains in the round make up a whole loss.
        """
        own, total = self.own, self.examples
        if self._weighting == "examples":
            return dict.fromkeys(own, 1.0)
        # Of integers, so that equal domains have exactly 1.
        return {name: total / (len(own) * self.count_of[name]) for name in own}

    def mean_scales(self) -> dict[str, float]:
        """Return by domain N / n_e: a client's loss is a mean over examples of all N."""
        total = self.examples
        return {name: total / self.count_of[name] for name in self.own}
