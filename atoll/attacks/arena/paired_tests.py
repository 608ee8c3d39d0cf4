"""Statistics over victims: bootstrap intervals, and Wilcoxon tests of paired differences.

The unit is the victim, not the image: images of one batch share an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.extras import OptionalModule

statistics = OptionalModule("scipy.stats", "the comparison of an arena's conditions")

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes
    ----------
    mean : float
        Over victims.
    low, high : float
        The percentile interval at 95 %; NaN for fewer than two victims.
    count : int
        Victims.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Paired differences of two attacks on the same victims.

    Attributes
    ----------
    difference : Interval
        Of the victims' differences.
    p_value : float
        Of Wilcoxon's signed-rank test, two-sided; NaN where all differences are zero or there are
        fewer than two.
    """

    difference: Interval
    p_value: float


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean of ``values`` with its bootstrap interval (Efron, 1979; percentiles).

    Parameters
    ----------
    values : Sequence[float]
        One a victim, not empty.
    seed : int
        Of the resamples.
    """
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, math.nan, math.nan, len(array))
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    means = array[drawn].mean(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high), len(array))


def compare(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Comparison:
    """Compare paired values: first - second, victim by victim.

    Parameters
    ----------
    first, second : Sequence[float]
        In the same order of victims.
    """
    differences: NDArray[np.float64] = np.subtract(first, second, dtype=np.float64)
    p_value = math.nan
    if len(differences) > 1 and np.any(differences != 0.0):
        p_value = float(statistics.wilcoxon(differences).pvalue)
    return Comparison(bootstrap(differences.tolist(), seed), p_value)
