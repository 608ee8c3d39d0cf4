"""Base of partitioners that deal all of a data set's examples at once."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from flwr_datasets.partitioner import Partitioner
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class DealtPartitioner(Partitioner):  # type: ignore[misc]
    """Partitioner that deals the examples when the first client's are asked for.

    Parameters
    ----------
    num_partitions : int
        Clients.
    """

    def __init__(self, num_partitions: int) -> None:
        super().__init__()
        self._clients = num_partitions
        self._parts: list[Indices] | None = None

    @property
    def num_partitions(self) -> int:
        """The number of clients."""
        return self._clients

    def load_partition(self, partition_id: int) -> Any:
        """Return a client's examples."""
        if self._parts is None:
            self._parts = self._deal()
        return self.dataset.select(self._parts[partition_id])

    @abstractmethod
    def _deal(self) -> list[Indices]:
        """Return each client's examples, by their places in the data set."""
