"""Sums of several clients' models, where no single model is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from atoll.clients.arrays.travelling import travelling_state
from atoll.clients.arrays.weighted_sum import WeightedSum, averaged_dtype
from atoll.clients.training.local_training import TrainingResult

# Columns of the stacked parameters that are added up at a time: their float64 copies stay in a
# processor's cache.
BLOCK = 1 << 13


@dataclass(frozen=True)
class SummedTraining:
    """Sum of several clients' models, and the training result of each.

    Attributes
    ----------
    total : WeightedSum
        Over the clients, by the tensors of the model that travel; a client weighs as many as
        it has examples.
    results : list[TrainingResult]
        One a client, in their order.
    """

    total: WeightedSum
    results: list[TrainingResult]


def zero_sum(model: nn.Module) -> WeightedSum:
    """Return the sum over no clients of ``model``."""
    state = travelling_state(model)
    return WeightedSum(
        {key: np.zeros(tuple(value.shape)) for key, value in state.items()},
        {
            key: averaged_dtype(str(value.dtype).removeprefix("torch."))
            for key, value in state.items()
        },
    )


def add_stacked(
    total: WeightedSum, model: nn.Module, stacked: Mapping[str, Tensor], weights: Sequence[int]
) -> None:
    """Add clients' models to a sum.

    Parameters
    ----------
    total : WeightedSum
        What :func:`zero_sum` made of ``model``.
    model : nn.Module
        Has the entries that are the same for all clients.
    stacked : Mapping[str, Tensor]
        The entries that are not, each (clients, *shape).
    weights : Sequence[int]
        The clients' examples.
    """
    everything = float(sum(weights))
    factors = torch.tensor(weights, dtype=torch.float64)
    for key, value in travelling_state(model).items():
        flat = torch.from_numpy(total.arrays[key]).view(-1)
        if key not in stacked:
            flat.add_(value.cpu().reshape(-1).double(), alpha=everything)
            continue
        values = stacked[key].detach().reshape(len(weights), -1)
        on_values = factors.to(values.device)
        for start in range(0, len(flat), BLOCK):
            block = values[:, start : start + BLOCK].double()
            flat[start : start + BLOCK] += (on_values @ block).cpu()
    total.weight += everything
