"""Partition of the examples of one class, as a user writes it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def examples_of(
    labels: NDArray[np.int64], clients: int, label: int = 0, examples: int = 1
) -> list[NDArray[np.int64]]:
    """Deal each client so many examples of the class, in their order."""
    places = np.flatnonzero(labels == label)[: clients * examples]
    return np.split(places, clients)
