"""Clipping norm of central privacy: fixed, or following a quantile of the updates' norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from atoll.randomness import derive_seed


def noise_beside_counts(noise_multiplier: float, count_deviation: float) -> float:
    """Return the noise multiplier of the updates, where a noisy count is released as well.

    Both together spend what one mechanism of ``noise_multiplier`` does (Andrew et al.,
    "Differentially Private Learning with Adaptive Clipping", 2021, theorem 1).

    Parameters
    ----------
    noise_multiplier : float
        Of both together.
    count_deviation : float
        The deviation of the count's noise, more than half of ``noise_multiplier``.

    Raises
    ------
    ValueError
        If the count alone spends more.
    """
    left = noise_multiplier**-2 - (2 * count_deviation) ** -2
    if left <= 0.0:
        raise ValueError(
            f"a count with noise of deviation {count_deviation:.3g} spends more than the noise "
            f"multiplier {noise_multiplier:.3g} allows; expected a larger cohort or fixed clipping"
        )
    return float(left**-0.5)


def next_norm(
    norm: float,
    norms: Sequence[float],
    *,
    cohort: int,
    quantile: float,
    rate: float,
    count_deviation: float,
    server_round: int,
    seed: int,
) -> float:
    """Return the clipping norm of the next round (Andrew et al., 2021, algorithm 1).

    Parameters
    ----------
    norm : float
        The round's clipping norm.
    norms : Sequence[float]
        The updates' norms before clipping.
    cohort : int
        The expected number of updates, by which the noisy count is divided.
    quantile : float
        The share of updates that are to be below the norm.
    rate : float
        The step of the norm's logarithm.
    count_deviation : float
        The deviation of the noise on the count of updates below the norm.
    server_round, seed : int
        What the noise depends on.
    """
    generator = np.random.default_rng(derive_seed(seed, "clipping count", server_round))
    # Half is taken off each, so that one more or less moves the sum by half.
    count = sum((each <= norm) - 0.5 for each in norms)
    share = (count + count_deviation * generator.standard_normal()) / cohort + 0.5
    return float(norm * math.exp(-rate * (share - quantile)))
