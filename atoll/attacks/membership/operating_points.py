"""How well scores tell members from others, at low false-positive rates and in all.

The rate of members that are found while hardly anybody is accused wrongly is what counts; an
average over all thresholds hides it (Carlini et al., "Membership Inference Attacks From First
Principles", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll.extras import OptionalModule

statistics = OptionalModule("scipy.stats", "membership inference")

Scores = Sequence[float] | NDArray[np.float64]
# The normal distribution's, of an interval of 95 %.
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def roc(members: Scores, others: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the false- and true-positive rates of every threshold, from (0, 0) to (1, 1).

    Parameters
    ----------
    members, others : array
        Scores, the larger the more likely a member: shapes (n,) and (m,). Ties are one threshold.

    Examples
    --------
    >>> false, true = roc([0.9, 0.4], [0.5, 0.1])
    >>> false.tolist(), true.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    inside, outside = np.sort(np.asarray(members)), np.sort(np.asarray(others))
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    true = (len(inside) - np.searchsorted(inside, thresholds)) / len(inside)
    false = (len(outside) - np.searchsorted(outside, thresholds)) / len(outside)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def steps(
    false: NDArray[np.float64], true: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rates of :func:`roc` as a curve of what is reached at each false-positive rate.

    Between two thresholds it stays at the lower true-positive rate: a straight line would split the
    ties of the next one.

    Examples
    --------
    >>> false, true = steps(*roc([1.0, 1.0], [1.0, 0.0]))
    >>> false.tolist(), true.tolist()
    ([0.0, 0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0])
    """
    return np.repeat(false, 2)[1:], np.repeat(true, 2)[:-1]


def auroc(members: Scores, others: Scores) -> Interval:
    """Return the area under the ROC curve, with Hanley and McNeil's interval (1982).

    Examples
    --------
    >>> auroc([0.9, 0.4], [0.5, 0.1]).value
    0.75
    """
    n, m = len(members), len(others)
    ranks = statistics.rankdata(np.concatenate([np.asarray(members), np.asarray(others)]))
    area = float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    of_members, of_others = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n - 1) * (of_members - area**2)
    variance = (variance + (m - 1) * (of_others - area**2)) / (n * m)
    half = NORMAL_95 * math.sqrt(max(variance, 0.0))
    return Interval(area, max(area - half, 0.0), min(area + half, 1.0))


def found_at(members: Scores, others: Scores, false_rate: float) -> Interval:
    """Return the share of members found at a false-positive rate, with its exact interval.

    The interval is Clopper and Pearson's. The threshold is the least at which no larger share of
    the others is taken for members. With fewer than ``1 / false_rate`` others it is above all of
    them. A threshold does not split a tie: where more others than are allowed share a score, the
    members with that score are not found either. Scores with few values, RMIA's with a small
    population say, may so find nobody at a low rate.

    Parameters
    ----------
    members, others : array
        As of :func:`roc`.
    false_rate : float
        In [0, 1).

    Examples
    --------
    >>> found = found_at([3.0, 2.0, 0.0], [1.0] * 99 + [2.5], false_rate=0.01)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.667, 0.094, 0.992)
    >>> found_at([1.0] * 50 + [0.5] * 50, [1.0] * 2 + [0.0] * 98, false_rate=0.01).value
    0.0
    """
    highest = np.sort(np.asarray(others, np.float64))[::-1]
    allowed = math.floor(false_rate * len(highest) + 1e-9)
    threshold = highest[allowed]
    count, n = int((np.asarray(members) > threshold).sum()), len(members)
    low = float(statistics.beta.ppf(0.025, count, n - count + 1)) if count else 0.0
    high = float(statistics.beta.ppf(0.975, count + 1, n - count)) if count < n else 1.0
    return Interval(count / n, low, high)
