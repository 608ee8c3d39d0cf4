"""Exact epsilon and delta of Gaussian mechanisms (Balle and Wang, 2018, theorem 8).

Gaussian mechanisms compose to one of them: T mechanisms whose sensitivity by deviation is ``mu``
are one of ``sqrt(T) mu`` (Dong, Roth and Su, "Gaussian Differential Privacy", 2022, corollary 3.3).
"""

from __future__ import annotations

import math

from atoll.extras import OptionalModule

special = OptionalModule("scipy.special", "privacy accounting")

# Where the search begins; no budget is near.
HIGH_EPSILON = 700.0
HALVINGS = 100


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return the exact delta of a Gaussian mechanism at an epsilon.

    Parameters
    ----------
    mu : float
        The sensitivity by the noise's deviation, >= 0.
    epsilon : float
        At least 0.

    Examples
    --------
    >>> round(gaussian_delta(1.0, 1.0), 6)
    0.126937
    """
    if mu == 0.0:
        return 0.0
    first = special.log_ndtr(mu / 2 - epsilon / mu)
    second = epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)
    return max(math.exp(first) - math.exp(min(second, first)), 0.0)


def exact_gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of a Gaussian mechanism at a delta.

    Parameters
    ----------
    mu : float
        The sensitivity by the noise's deviation, >= 0.
    delta : float
        In (0, 1).

    Examples
    --------
    >>> round(exact_gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, HIGH_EPSILON
    if gaussian_delta(mu, high) > delta:
        # What zero-concentrated differential privacy bounds it by (Bun and Steinke, 2016).
        low, high = high, mu**2 / 2 + mu * math.sqrt(-2 * math.log(delta))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if gaussian_delta(mu, middle) > delta:
            low = middle
        else:
            high = middle
    return high
