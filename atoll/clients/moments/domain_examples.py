"""Examples of a client with the domain of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from atoll.clients.models.head import SplitModel
from atoll.clients.models.head_outputs import HeadOutputs


@dataclass(frozen=True)
class DomainExamples:
    """The examples that a client uses in a round.

    Attributes
    ----------
    images, labels : Tensor
        Shapes (n, channels, height, width) and (n,).
    domains : Tensor
        int64, shape (n,): indices into ``names``.
    names : Sequence[str]
        The domains that the client holds.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        """The images' size in bytes."""
        return self.images.nbytes

    @cached_property
    def counts(self) -> dict[str, int]:
        """Examples by domain."""
        counted = torch.bincount(self.domains, minlength=len(self.names)).tolist()
        return dict(zip(self.names, counted, strict=True))

    @cached_property
    def positions(self) -> Tensor:
        """Each example's place among those of its domain, shape (n,)."""
        positions = torch.empty_like(self.domains)
        for index in range(len(self.names)):
            own = self.domains == index
            positions[own] = torch.arange(int(own.sum()), device=positions.device)
        return positions

    def outputs(self, model: SplitModel, chosen: Tensor | slice) -> HeadOutputs:
        """Run the model on some of the examples."""
        return model(self.images[chosen], self.labels[chosen], self.positions[chosen])

    def by_domain(
        self, outputs: HeadOutputs, chosen: Tensor | slice
    ) -> Iterator[tuple[str, HeadOutputs]]:
        """Yield the outputs of each domain that has examples among the chosen."""
        if len(self.names) == 1:
            yield self.names[0], outputs
            return
        domains = self.domains[chosen]
        for index, name in enumerate(self.names):
            own = torch.nonzero(domains == index).squeeze(1)
            if len(own):
                yield name, outputs.select(own)
