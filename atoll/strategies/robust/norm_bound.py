"""Mean of updates whose norm is bounded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atoll.clients.ranges import Deviation, Norm
from atoll.strategies.robust.centered_clipping import clipped_mean
from atoll.strategies.robust.robust_strategy import Floats, RobustStrategy


@dataclass(kw_only=True, eq=False)
class NormBound(RobustStrategy):
    """Mean of updates that are clipped to a norm, with noise (Sun et al., 2019).

    m of n clients move the mean by at most m / n times the bound. The noise hides what is left of
    a backdoor; it is far below what a privacy guarantee needs.

    Parameters
    ----------
    bound : float, optional
        The largest norm; by default the median of the round's.
    noise : float, optional
        Deviation of Gaussian noise on each value of the mean; by default none.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.strategies import NormBound
    >>> NormBound(bound=1.0).combine(1, np.array([[0.5], [100.0]]), nodes=[1, 2])
    array([0.75])
    """

    bound: Norm | None = None
    noise: Deviation | None = None

    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Clip, average, add noise."""
        mean = clipped_mean(updates, np.zeros(updates.shape[1]), self.bound)
        return mean if self.noise is None else mean + self.noise * gaussian(len(mean))


def gaussian(count: int) -> Floats:
    """Return normal numbers, drawn by Python's global generator, which a run seeds and keeps."""
    return np.random.default_rng(random.getrandbits(63)).standard_normal(count)
