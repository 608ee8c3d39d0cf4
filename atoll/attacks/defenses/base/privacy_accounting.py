"""Privacy accounting of composed Gaussian mechanisms, with a count kept by each client.

No amplification is claimed: neither by the sampling of clients (a client's own messages are what
is accounted for), nor by that of examples (our batches are shuffled passes, to which the accounting
of Poisson sampling does not apply: Chua et al., "How Private are DP-SGD Implementations?", 2024).
Each use of the data is one Gaussian mechanism; uses compose.
"""

from __future__ import annotations

import math
from functools import lru_cache

from flwr.app import ConfigRecord, Context

from atoll.privacy.gaussian import exact_gaussian_epsilon


@lru_cache(maxsize=1024)
def gaussian_epsilon(noise_multiplier: float, uses: int, delta: float) -> float:
    """Return the exact epsilon of ``uses`` composed Gaussian mechanisms (Balle and Wang, 2018).

    Parameters
    ----------
    noise_multiplier : float
        The noise's deviation by the sensitivity, > 0.
    uses : int
        How many mechanisms compose, >= 0.
    delta : float
        In (0, 1).
    """
    return exact_gaussian_epsilon(math.sqrt(uses) / noise_multiplier, delta)


def count_uses(context: Context, name: str, more: int) -> int:
    """Add ``more`` uses of a client's data to its count, and return all so far.

    Parameters
    ----------
    context : Context
        The client's; its state keeps the count from round to round.
    name : str
        The mechanism.
    """
    record = context.state.config_records.setdefault("privacy", ConfigRecord())
    earlier = record.get(name, 0)
    assert isinstance(earlier, int)
    record[name] = earlier + more
    return earlier + more
