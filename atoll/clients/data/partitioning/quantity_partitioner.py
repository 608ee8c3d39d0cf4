"""Quantity partitioner: clients with different numbers of examples, and the same distribution.

A partitioner in flwr-datasets' sense, so it also serves Flower apps of one's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atoll.clients.data.partitioning.dealt_partitioner import DealtPartitioner, Indices
from atoll.randomness import derive_seed


class QuantityPartitioner(DealtPartitioner):
    """Deals examples at random to clients whose shares are drawn from a Dirichlet distribution.

    It is the quantity skew of Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022),
    section IV: the clients' shares are q ~ Dir(alpha), and what an example is does not matter.

    Parameters
    ----------
    num_partitions : int
        Clients.
    alpha : float
        Concentration, positive: the smaller, the more the sizes differ.
    min_partition_size : int
        What every client has at the least, before the rest is shared out.
    seed : int
        Decides the sizes, and which examples go where.

    Raises
    ------
    ValueError
        If an argument is out of range, or there are too few examples for ``min_partition_size``.
    """

    def __init__(
        self,
        num_partitions: int,
        alpha: float | Sequence[float],
        min_partition_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_partitions)
        if isinstance(alpha, Sequence) or not alpha > 0.0:
            raise ValueError(f"alpha = {alpha!r}: expected a positive number")
        self._alpha = alpha
        self._least = min_partition_size
        self._seed = seed

    def _deal(self) -> list[Indices]:
        count = len(self.dataset)
        spare = count - self._least * self._clients
        if spare < 0:
            raise ValueError(
                f"min_partition_size = {self._least}: {self._clients} clients need "
                f"{self._least * self._clients} examples, there are {count}"
            )
        generator = np.random.default_rng(derive_seed(self._seed, "quantity"))
        shares = np.cumsum(generator.dirichlet(np.full(self._clients, self._alpha)))
        ends = np.rint(shares / shares[-1] * spare).astype(np.int64)
        ends += self._least * np.arange(1, self._clients + 1)
        return [np.sort(part) for part in np.split(generator.permutation(count), ends[:-1])]
