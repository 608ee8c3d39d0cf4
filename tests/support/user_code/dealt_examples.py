"""A partition in which the last clients may be missing, and the others have what they had."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def dealt(
    labels: NDArray[np.int64], clients: int, seed: int, parts: int, examples: int
) -> list[NDArray[np.int64]]:
    """The first ``clients`` of ``parts`` equal parts of ``examples`` examples in random order."""
    order = np.random.default_rng(seed).permutation(len(labels))[:examples]
    return [np.sort(part) for part in np.array_split(order, parts)][:clients]
