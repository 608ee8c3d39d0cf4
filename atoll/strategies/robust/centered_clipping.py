"""Centred clipping of the clients' updates (Karimireddy et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from atoll.clients.ranges import Decay, Norm
from atoll.strategies.robust.robust_strategy import Floats, RobustStrategy
from atoll.strategies.strategy_fields import Count


@dataclass(kw_only=True, eq=False)
class CenteredClipping(RobustStrategy):
    """Mean of updates that are clipped around the last round's (Karimireddy et al., 2021, eq. 5).

    From a centre v each step goes to v + mean of (x_i - v) min(1, radius / ||x_i - v||), so that m
    of n clients move it by at most m / n times the radius. The centre of a round is the update of
    the one before, at first zero.

    Parameters
    ----------
    radius : float, optional
        The largest distance from the centre that counts whole; by default the median of the
        distances.
    steps : int
        Steps a round.
    momentum : float
        Of each client's updates, which the server keeps for it: m = momentum m + (1 - momentum)
        x is what is clipped. The paper's clients keep it themselves and send m.

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.strategies import CenteredClipping
    >>> strategy = CenteredClipping(radius=1.0)
    >>> strategy.combine(1, np.array([[0.5], [0.5], [0.5], [100.0]]), nodes=[1, 2, 3, 4])
    array([0.625])
    """

    radius: Norm | None = None
    steps: Count = 1
    momentum: Decay = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.centre: Floats | None = None
        self.momenta: dict[int, Floats] = {}

    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Clip around the centre, and keep the result as the next one."""
        if self.momentum > 0.0:
            updates = self._with_momentum(updates, nodes)
        centre = np.zeros(updates.shape[1]) if self.centre is None else self.centre
        for _ in range(self.steps):
            centre = clipped_mean(updates, centre, self.radius)
        self.centre = centre
        return centre

    def _with_momentum(self, updates: Floats, nodes: Sequence[int]) -> Floats:
        for node, update in zip(nodes, updates, strict=True):
            earlier = self.momenta.get(node)
            share = 1.0 - self.momentum
            # A client's first update is its momentum: zeros would stand for a client that stays.
            self.momenta[node] = (
                update if earlier is None else self.momentum * earlier + share * update
            )
        return np.stack([self.momenta[node] for node in nodes])


def clipped_mean(points: Floats, centre: Floats, radius: float | None) -> Floats:
    """Return ``centre`` plus the mean of the points' differences, clipped to ``radius``."""
    differences = points - centre
    norms = np.linalg.norm(differences, axis=1)
    limit = float(np.median(norms)) if radius is None else radius
    factors = np.minimum(1.0, limit / np.maximum(norms, np.finfo(np.float64).tiny))
    moved: Floats = centre + factors @ differences / len(points)
    return moved
