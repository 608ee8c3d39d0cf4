"""Ranking metrics of scores: the areas under the ROC curve and the precision-recall curve.

They are exact, of all scores: no sum over clients has them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def area_under_roc(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> float:
    """Return the probability that a positive example's score is the higher one; ties count half.

    0.5 where all examples are of one kind.
    """
    positive = int(is_positive.sum())
    negative = len(scores) - positive
    if not positive or not negative:
        return 0.5
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Examples with the same score share the mean of their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places][is_positive].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(scores: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> float:
    """Return the average precision: sum of precision times the gain of recall, by threshold.

    0 where no example is positive.
    """
    positive = int(is_positive.sum())
    if not positive:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_positive[order])
    # Examples with the same score pass a threshold together.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = hits[last] / (last + 1)
    gains = np.diff(hits[last], prepend=0) / positive
    return float((precision * gains).sum())
