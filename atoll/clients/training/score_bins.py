"""Bins of examples' scores: what a federation counts to find a quantile without seeing a score."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atoll.clients.settings import SelectionSettings

BINS = 1024
# The norm of a gradient has no bound, so its bins are equal on a logarithmic scale.
LEAST_NORM, MOST_NORM = 1e-6, 1e6


def bins_of(scores: Tensor, settings: SelectionSettings) -> Tensor:
    """Return the bin of each score: int64, shape (n,), from 0 to :data:`BINS` - 1.

    Parameters
    ----------
    scores : Tensor
        Shape (n,), at least 0.
    settings : SelectionSettings
        Whose ``score`` it is.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients.settings import SelectionSettings
    >>> bins_of(torch.tensor([0.0, 0.5, 1.0]), SelectionSettings(score="random", drop=0.1))
    tensor([   0,  512, 1023])
    """
    values = scores.double()
    if settings.score == "grand":
        lowest, highest = math.log(LEAST_NORM), math.log(MOST_NORM)
        shares = (values.clamp_min(LEAST_NORM).log() - lowest) / (highest - lowest)
    else:
        shares = values / _highest(settings)
    return (shares * BINS).floor().clamp(0, BINS - 1).long()


def lowest_bin(counts: Tensor, drop: float) -> int:
    """Return the highest bin below which lies at most a share of all scores; 0 if there are none.

    Parameters
    ----------
    counts : Tensor
        How many scores are in each bin, shape (:data:`BINS`,).
    drop : float
        The share, in [0, 1).

    Examples
    --------
    >>> import torch
    >>> lowest_bin(torch.tensor([2.0, 1.0, 3.0]), drop=0.4)  # two of six are below the second bin
    1
    """
    below = counts.cumsum(0) - counts
    found = torch.nonzero(below <= drop * counts.sum())
    return int(found[-1]) if bool(counts.any()) else 0


def _highest(settings: SelectionSettings) -> float:
    # EL2N: all probability on one wrong class.
    return math.sqrt(2.0) if settings.score == "el2n" else 1.0
