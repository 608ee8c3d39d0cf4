"""Draw of a round's clients, as the accountant takes it to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atoll.privacy.kinds import Sampling
from atoll.randomness import derive_seed


def draw_cohort(
    nodes: Sequence[int], sampling: Sampling, cohort: int, server_round: int, seed: int
) -> list[int]:
    """Return the clients of a round; the draw depends on the round and the seed alone.

    Parameters
    ----------
    nodes : Sequence[int]
        All node ids.
    sampling : "fixed", "poisson" or "epochs"
        Without replacement; each by itself with probability ``cohort / len(nodes)``; in a shuffled
        order, each once an epoch of ``len(nodes) // cohort`` rounds.
    cohort : int
        The (expected) number of clients, from 1 to ``len(nodes)``.
    server_round : int
        From 1.
    seed : int
        The run's.
    """
    if sampling == "poisson":
        generator = _generator(seed, "poisson", server_round)
        chosen = np.flatnonzero(generator.random(len(nodes)) < cohort / len(nodes))
    elif sampling == "fixed":
        generator = _generator(seed, "fixed", server_round)
        chosen = np.sort(generator.choice(len(nodes), cohort, replace=False))
    else:
        epoch, place = divmod(server_round - 1, len(nodes) // cohort)
        order = _generator(seed, "epoch", epoch).permutation(len(nodes))
        chosen = np.sort(order[place * cohort : (place + 1) * cohort])
    return [nodes[index] for index in chosen.tolist()]


def _generator(seed: int, kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "private cohort", kind, number))
