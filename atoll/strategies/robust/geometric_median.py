"""Geometric median of the clients' updates (RFA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atoll.strategies.robust.robust_strategy import Floats, RobustStrategy
from atoll.strategies.strategy_fields import Count, Positive


@dataclass(kw_only=True, eq=False)
class GeometricMedian(RobustStrategy):
    """Geometric median by the smoothed Weiszfeld algorithm (RFA, Pillutla et al., 2022).

    While the attacker has less than half of the clients, the median is within 2 (n - m) / (n - 2
    m) times the honest updates' largest distance from any point, whatever the attacker's m of n
    clients send. The paper starts from the mean and takes a few steps; here steps start from the
    median of each value and continue until they are short, so that a single far update costs none.

    Parameters
    ----------
    smoothing : float
        Distances below it count as it is; in units of an update's norm.
    iterations : int
        Steps, at most.
    tolerance : float
        Steps end when one is shorter than this share of the median distance.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.strategies import GeometricMedian
    >>> updates = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e9, 1e9]])
    >>> GeometricMedian().combine(1, updates, range(1, 6)).round(3)
    array([0.789, 0.789])
    """

    smoothing: Positive = 1e-6
    iterations: Count = 100
    tolerance: Positive = 1e-7

    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Return the median of the updates."""
        return geometric_median(updates, self.smoothing, self.iterations, self.tolerance)


def geometric_median(
    points: Floats, smoothing: float = 1e-6, iterations: int = 100, tolerance: float = 1e-7
) -> Floats:
    """Return the point with the least (smoothed) sum of distances to ``points``, shape (n, d)."""
    centre: Floats = np.median(points, axis=0)
    for _ in range(iterations):
        distances = np.linalg.norm(points - centre, axis=1)
        weights = 1.0 / np.maximum(distances, smoothing)
        moved: Floats = weights @ points / weights.sum()
        step, centre = np.linalg.norm(moved - centre), moved
        if step <= tolerance * np.median(distances):
            break
    return centre
