"""Student's t distribution: the factor of an interval of a mean."""

from __future__ import annotations

import math

# Halvings of the interval that the solution is in: to the last bit of a float.
HALVINGS = 60


def t_factor(confidence: float, degrees: int) -> float:
    """Return t with P(-t < T < t) = ``confidence``.

    Parameters
    ----------
    confidence : float
        In (0, 1).
    degrees : int
        Degrees of freedom of T, at least 1.

    Notes
    -----
    For whole degrees of freedom n the probability is a finite sum in the angle atan(t / sqrt(n))
    (Abramowitz and Stegun, 26.7.3 and 26.7.4). It grows with the angle, which is found by halving.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _probability(angle: float, degrees: int) -> float:
    cosine = math.cos(angle)
    is_odd = degrees % 2
    term, total = cosine if is_odd else 1.0, 0.0
    for power in range(is_odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cosine**2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if is_odd else total
