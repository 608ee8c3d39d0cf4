"""A lower bound on epsilon from one run with randomised canaries.

Each of m canaries is in the run or not, by a fair coin of its own. An auditor guesses some of the
coins from what the run released. Under (epsilon, delta) differential privacy too many right guesses
are improbable, however the canaries depend on each other (Steinke, Nasr and Jagielski, "Privacy
Auditing with One (1) Training Run", 2023, theorem 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.extras import OptionalModule

statistics = OptionalModule("scipy.stats", "an audit of privacy")

# Shares of the canaries that are guessed; the best counts, at a fair price (Bonferroni).
SHARES = (0.1, 0.25, 0.5, 1.0)
MAX_EPSILON = 100.0
HALVINGS = 50


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the largest probability of so many right guesses under differential privacy.

    Parameters
    ----------
    canaries : int
        Each in the run with probability 1/2.
    guesses : int
        How many of the coins were guessed; the auditor abstains from the others.
    right : int
        How many of the guesses are right, from 0 to ``guesses``.
    epsilon : float
        At least 0.
    delta : float
        In [0, 1].

    Examples
    --------
    >>> p_value(10, 10, 10, epsilon=0.0, delta=0.0) == 0.5**10
    True
    """
    chance = 1 / (1 + math.exp(-epsilon))
    counts = np.arange(guesses + 1)
    probabilities = statistics.binom.pmf(counts, guesses, chance)
    beta = float(probabilities[right:].sum())
    # P[right - i <= correct < right] / i, the most that a delta of 1 / i can move.
    below = np.cumsum(probabilities[:right][::-1])
    alpha = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(beta + 2 * canaries * delta * alpha, 1.0)


def epsilon_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float
) -> float:
    """Return the largest epsilon that so many right guesses refute, or 0.

    Parameters
    ----------
    canaries, guesses, right, delta
        As of :func:`p_value`.
    confidence : float
        With which epsilon is larger than what is returned, in (0, 1).

    Examples
    --------
    >>> epsilon_bound(100, 100, 50, delta=0.0, confidence=0.95)
    0.0
    >>> round(epsilon_bound(100, 100, 100, delta=0.0, confidence=0.95), 2)
    3.49
    """
    level = 1 - confidence
    if p_value(canaries, guesses, right, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, MAX_EPSILON
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, right, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class OneRunBound:
    """A lower bound on epsilon.

    Attributes
    ----------
    epsilon : float
        The bound; 0 where nothing is refuted.
    guesses, right : int
        Of the share of canaries that gave it.
    """

    epsilon: float
    guesses: int
    right: int


def audit_scores(
    scores: Sequence[float] | NDArray[np.float64],
    included: Sequence[bool] | NDArray[np.bool_],
    delta: float,
    confidence: float,
) -> OneRunBound:
    """Return the bound from a score of each canary; the highest are guessed in, the lowest out.

    Parameters
    ----------
    scores : array
        The larger, the more the canary seems to be in the run: shape (canaries,).
    included : array
        The coins, bool, shape (canaries,).
    delta, confidence : float
        As of :func:`epsilon_bound`. The bound is the best over several numbers of guesses, each at
        a share of the error.

    Examples
    --------
    >>> coins = np.arange(200) % 2 == 0
    >>> round(audit_scores(coins * 1.0, coins, delta=1e-5, confidence=0.95).epsilon, 2)
    3.8
    >>> audit_scores(np.arange(200.0), coins, delta=1e-5, confidence=0.95).epsilon
    0.0
    """
    values, coins = np.asarray(scores, np.float64), np.asarray(included, bool)
    canaries = len(values)
    order = np.argsort(values, kind="stable")
    each = 1 - (1 - confidence) / len(SHARES)
    found = OneRunBound(0.0, 0, 0)
    for share in SHARES:
        half = max(math.floor(share * canaries / 2), 1)
        right = int(coins[order[-half:]].sum() + (~coins[order[:half]]).sum())
        epsilon = epsilon_bound(canaries, 2 * half, right, delta, each)
        if epsilon > found.epsilon or not found.guesses:
            found = OneRunBound(epsilon, 2 * half, right)
    return found
