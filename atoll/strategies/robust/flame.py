"""FLAME: clustering, clipping and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.clients.ranges import Weight
from atoll.extras import OptionalModule, require
from atoll.strategies.robust.norm_bound import gaussian
from atoll.strategies.robust.robust_strategy import Floats, RobustStrategy

WHAT = "the strategy FLAME"
cluster = OptionalModule("sklearn.cluster", WHAT)


@dataclass(kw_only=True, eq=False)
class FLAME(RobustStrategy):
    """Clustering by direction, clipping to the median norm, and noise (Nguyen et al., 2022).

    HDBSCAN on the cosine distances of updates looks for a cluster of more than half of the
    clients; the others are left out. The rest is clipped to the median norm of all clients and
    averaged, and noise is added in proportion to that norm. The paper clusters the clients'
    models; their updates are what differs. Where no cluster is found, every client is kept.

    Parameters
    ----------
    noise : float
        Deviation of the noise on each value, by the median norm (the paper's lambda).

    Examples
    --------
    >>> import numpy as np
    >>> from atoll.strategies import FLAME
    >>> updates = np.array([[1.0, 0.1], [1.0, 0.0], [1.0, -0.1], [1.0, 0.05], [-1.0, 0.0]])
    >>> strategy = FLAME(noise=0.0)
    >>> strategy.combine(1, updates, nodes=range(1, 6))[0] > 0.99
    np.True_
    >>> strategy.figures["kept-clients"]
    3.0
    """

    noise: Weight = 0.001

    def __post_init__(self) -> None:
        require("sklearn", what=WHAT)
        super().__post_init__()

    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Cluster, clip, average, add noise."""
        kept = largest_cluster(updates)
        self.figures["kept-clients"] = float(kept.sum())
        norms = np.linalg.norm(updates, axis=1)
        limit = float(np.median(norms))
        factors = np.minimum(1.0, limit / np.maximum(norms, np.finfo(np.float64).tiny))
        mean: Floats = factors[kept] @ updates[kept] / kept.sum()
        return mean + self.noise * limit * gaussian(len(mean)) if self.noise > 0.0 else mean


def largest_cluster(updates: Floats) -> NDArray[np.bool_]:
    """Return which updates are in a cluster of more than half of them, by direction."""
    count = len(updates)
    if count < 3:
        return np.ones(count, np.bool_)
    norms = np.maximum(np.linalg.norm(updates, axis=1), np.finfo(np.float64).tiny)
    directions = updates / norms[:, None]
    distances = np.clip(1.0 - directions @ directions.T, 0.0, 2.0)
    np.fill_diagonal(distances, 0.0)
    search = cluster.HDBSCAN(
        min_cluster_size=count // 2 + 1,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    labels = search.fit(distances).labels_
    kept: NDArray[np.bool_] = labels == 0
    return kept if kept.any() else np.ones(count, np.bool_)
