"""FLTrust: clients are trusted as far as their updates point where the server's own does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord

from atoll.strategies.robust.robust_strategy import Floats, RobustStrategy, flat_update
from atoll.strategies.strategy_fields import Count


@dataclass(kw_only=True, eq=False)
class FLTrust(RobustStrategy):
    """Mean of updates by their cosine with the server's own (FLTrust, Cao et al., 2021).

    The server trains on a small clean set, the root data. A client's weight is the cosine of its
    update with the server's, or 0 if that is negative, and its update is scaled to the server's
    norm; so no update moves the model farther than that norm. Without a client of positive weight
    the model stays.

    A run of Atoll draws the root data from the training split and trains on them as a client
    does. On stock Flower, set ``train_on_root`` to a function that takes the round and the
    model's arrays and returns the trained ones.

    Parameters
    ----------
    root_examples : int
        Examples of the root data.

    Examples
    --------
    >>> from atoll.strategies import FLTrust
    >>> FLTrust().root_examples
    100
    """

    root_examples: Count = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self.train_on_root: Callable[[int, ArrayRecord], ArrayRecord] | None = None
        self._own: Floats | None = None

    def before_combining(self, server_round: int, sent: ArrayRecord) -> None:
        """Train on the root data."""
        if self.train_on_root is None:
            raise ValueError("FLTrust has no root data; expected train_on_root to be set")
        self._own = flat_update(self.train_on_root(server_round, sent), sent)

    def combine(self, server_round: int, updates: Floats, nodes: Sequence[int]) -> Floats:
        """Weigh and scale the updates."""
        own, self._own = self._own, None
        assert own is not None
        return trusted_mean(updates, own)


def trusted_mean(updates: Floats, own: Floats) -> Floats:
    """Return FLTrust's mean of ``updates``, shape (n, d), given the server's own."""
    tiny = np.finfo(np.float64).tiny
    norms = np.maximum(np.linalg.norm(updates, axis=1), tiny)
    size = float(np.linalg.norm(own))
    trust = np.maximum(0.0, updates @ own / (norms * max(size, tiny)))
    total = float(trust.sum())
    if total <= 0.0:
        return np.zeros_like(own)
    mean: Floats = (trust / norms) @ updates * (size / total)
    return mean
