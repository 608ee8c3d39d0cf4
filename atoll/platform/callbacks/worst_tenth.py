"""The mean over the tenth of the clients that a model serves worst."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHARE = 10


def worst_tenth(values: NDArray[np.float64], sign: float) -> float:
    """Return the mean of the worst tenth, rounded up.

    Parameters
    ----------
    values : NDArray[float64]
        One a client, shape (n,), n >= 1.
    sign : float
        1 where larger is better, else -1.

    Examples
    --------
    >>> worst_tenth(np.array([0.9, 0.1, 0.5]), 1.0)
    0.1
    """
    count = -(-len(values) // SHARE)
    return float(sign * np.sort(sign * values)[:count].mean())
