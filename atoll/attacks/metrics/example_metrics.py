"""Base of the metrics of a kind of examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from atoll.extras import OptionalModule

optimize = OptionalModule("scipy.optimize", "the assignment of reconstructions to examples")

# Metrics by name, a value an example.
Columns = dict[str, list[Any]]


class ExampleMetrics(ABC):
    """Base of the metrics of reconstructions of one kind of examples."""

    @abstractmethod
    def assign(self, found: Tensor, truth: Tensor) -> Tensor:
        """Return which reconstruction stands for each true example: int64, shape (n,).

        The order is for metrics only: no attack has the truth.
        """

    @abstractmethod
    def columns(self, found: Tensor, truth: Tensor, entropy: Tensor | None) -> Columns:
        """Return the metrics of reconstructions in the order of the truth.

        Parameters
        ----------
        found, truth : Tensor
            Shape (n, ...).
        entropy : Tensor or None
            How uncertain the attack is of each part of ``found``, if it says so.
        """


def hungarian(costs: Tensor) -> Tensor:
    """Return for each row the column of the least total cost: int64, shape (rows,)."""
    # A reconstruction that is not a number is worse than any other.
    _, columns = optimize.linear_sum_assignment(costs.nan_to_num(nan=1e12).numpy())
    return torch.from_numpy(columns)
