"""Local exchange: answers to queries for moments of the server's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.moment_messages import DomainSums
from atoll.clients.moments.statistic import DomainContext, Statistic

# The one node that there is.
HERE = 0


class LocalExchange:
    """An exchange with one node, whose examples' outputs are given.

    Parameters
    ----------
    outputs : Mapping[str, HeadOutputs]
        Of each domain's examples; at least one domain, none without examples.
    """

    def __init__(self, outputs: Mapping[str, HeadOutputs]) -> None:
        self._outputs = outputs
        first = next(iter(outputs.values()))
        self._sizes = ModelSizes(
            features=first.features.shape[1],
            outputs=first.logits.shape[1],
            head=sum(parameter.numel() for parameter in first.head.parameters()),
            parameters=sum(parameter.numel() for parameter in first.parameters),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the outputs."""
        return next(iter(self._outputs.values())).logits.dtype

    @property
    def counts(self) -> dict[str, int]:
        """Examples by domain."""
        return {name: len(own) for name, own in self._outputs.items()}

    def ask(
        self,
        domains_of: Mapping[int, Sequence[str]],
        statistics: Sequence[Statistic],
        vectors: Mapping[tuple[int, str], Tensor] | None = None,
    ) -> dict[int, DomainSums]:
        """See :class:`~atoll.strategies.alignment.moments.moment_exchange.Exchange`."""
        given = vectors or {}
        sums = {
            (index, name): statistic.total(
                own, self._sizes, DomainContext(name, given.get((index, name)), len(own))
            )
            for index, statistic in enumerate(statistics)
            for name, own in self._outputs.items()
        }
        return {HERE: DomainSums(self.counts, sums)}
