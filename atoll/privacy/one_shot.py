"""An estimate of epsilon from the cosines of random canaries with what a run released.

In many dimensions the cosine of a random direction with anything that does not depend on it is
N(0, 1 / d). The canaries' cosines are taken for a normal distribution, too; the epsilon of telling
the two apart is the estimate (Andrew et al., "One-shot Empirical Privacy Estimation for Federated
Learning", 2024, algorithm 1). It is no bound: :mod:`atoll.privacy.one_run` has one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atoll.extras import OptionalModule

special = OptionalModule("scipy.special", "an audit of privacy")

Normal = tuple[float, float]
MAX_EPSILON = 200.0
HALVINGS = 60


def one_shot_epsilon(
    cosines: Sequence[float] | NDArray[np.float64], dimensions: int, delta: float
) -> float:
    """Return the estimate.

    Parameters
    ----------
    cosines : array
        Of the canaries that were in the run with the change of the model: shape (n,), n > 1.
    dimensions : int
        The number of parameters.
    delta : float
        In (0, 1).

    Examples
    --------
    >>> independent = np.random.default_rng(0).normal(0.0, 0.01, 1000)
    >>> one_shot_epsilon(independent, dimensions=10_000, delta=1e-2) < 0.5
    True
    >>> one_shot_epsilon(independent + 0.03, dimensions=10_000, delta=1e-2) > 5.0
    True
    """
    values = np.asarray(cosines, np.float64)
    there = float(values.mean()), float(values.std(ddof=1))
    return epsilon_between(there, (0.0, dimensions**-0.5), delta)


def epsilon_between(first: Normal, second: Normal, delta: float) -> float:
    """Return the epsilon of telling two normal distributions apart, in either direction.

    Parameters
    ----------
    first, second : tuple[float, float]
        Mean and deviation.
    delta : float
        In (0, 1).

    Examples
    --------
    >>> round(epsilon_between((1.0, 1.0), (0.0, 1.0), 1e-5), 3)  # the Gaussian mechanism's
    4.377
    """
    low, high = 0.0, MAX_EPSILON
    if _larger_delta(first, second, low) <= delta:
        return 0.0
    if _larger_delta(first, second, high) > delta:
        return math.inf
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _larger_delta(first, second, middle) > delta:
            low = middle
        else:
            high = middle
    return high


def _larger_delta(first: Normal, second: Normal, epsilon: float) -> float:
    return max(_delta(first, second, epsilon), _delta(second, first, epsilon))


def _delta(p: Normal, q: Normal, epsilon: float) -> float:
    """Return the integral of max(p - e^epsilon q, 0)."""
    (mean, deviation), (other, spread) = p, q
    # log p - log q - epsilon, as a x^2 + b x + c.
    a = (spread**-2 - deviation**-2) / 2
    b = mean / deviation**2 - other / spread**2
    c = (other / spread) ** 2 / 2 - (mean / deviation) ** 2 / 2
    c += math.log(spread / deviation) - epsilon
    total = 0.0
    for low, high in _positive(a, b, c):
        total += _mass(p, low, high) - math.exp(min(epsilon, 700.0)) * _mass(q, low, high)
    return max(total, 0.0)


def _positive(a: float, b: float, c: float) -> list[tuple[float, float]]:
    """Return the intervals on which a x^2 + b x + c is positive."""
    if abs(a) < 1e-12 * max(abs(b), 1.0):
        if b == 0.0:
            return [(-math.inf, math.inf)] if c > 0 else []
        root = -c / b
        return [(root, math.inf)] if b > 0 else [(-math.inf, root)]
    inside = b * b - 4 * a * c
    if inside <= 0:
        return [(-math.inf, math.inf)] if a > 0 else []
    width = math.sqrt(inside)
    left, right = sorted(((-b - width) / (2 * a), (-b + width) / (2 * a)))
    return [(-math.inf, left), (right, math.inf)] if a > 0 else [(left, right)]


def _mass(normal: Normal, low: float, high: float) -> float:
    mean, deviation = normal
    ends = (low - mean) / deviation, (high - mean) / deviation
    if ends[0] > 0:
        # The upper tail, where differences of the distribution function would be rounded off.
        return float(special.ndtr(-ends[0]) - special.ndtr(-ends[1]))
    return float(special.ndtr(ends[1]) - special.ndtr(ends[0]))
