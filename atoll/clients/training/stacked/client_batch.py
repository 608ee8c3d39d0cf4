"""Batch of clients: the examples and the random states of several clients that train together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from atoll.clients.settings import ClientSettings
from atoll.clients.training.local_training import batches
from atoll.clients.training.objective.client_objective import ClientObjective


@dataclass(frozen=True)
class ClientBatch:
    """Examples of several clients, one client after another, and their training in a round.

    Attributes
    ----------
    inputs : Tensor
        Of all clients, shape (n, ...).
    labels : Tensor
        What is to be predicted, shape (n, ...).
    counts : Sequence[int]
        The number of examples of each client; may differ, and may be 0.
    learning_rate : float
        The round's learning rate.
    generators : Sequence[torch.Generator]
        Each client's, to shuffle its examples.
    proximal_mu : float or None
        The weight of FedProx's term; None for that of the settings.
    terms : Sequence[ClientObjective]
        Each client's, all linear; empty without any.
    starts : Sequence[Tensor] or None
        By trainable parameter, each (clients, *shape): where each client starts; None if all do
        at the model's parameters.
    """

    inputs: Tensor
    labels: Tensor
    counts: Sequence[int]
    learning_rate: float
    generators: Sequence[torch.Generator]
    proximal_mu: float | None = None
    terms: Sequence[ClientObjective] = ()
    starts: Sequence[Tensor] | None = None

    def plans(self, settings: ClientSettings) -> list[list[Tensor]]:
        """Return each client's batches: per step, indices into the examples of all clients.

        The generators advance.
        """
        starts = accumulate(self.counts[:-1], initial=0)
        return [
            [start + chosen for chosen in batches(count, settings, generator)]
            for start, count, generator in zip(starts, self.counts, self.generators, strict=True)
        ]
