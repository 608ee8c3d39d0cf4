"""Scores that need shadow models: LiRA, online and offline, and RMIA.

Shadow models are trained as the target was, half of them with a candidate and half without. The
likelihood-ratio attack asks how probable the target's confidence is among the one and the other
(Carlini et al., "Membership Inference Attacks From First Principles", 2022, algorithm 1). RMIA asks
how often a candidate is more probable under the target than other examples are, each compared with
what it is in general (Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", 2024).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Included = NDArray[np.bool_]
Variance = Literal["auto", "example", "fixed"]
# With fewer shadow models on a side, one variance is estimated for all candidates.
ENOUGH = 32
# A loss below it is taken for it: its confidence is 1 in float64.
LEAST_LOSS = 1e-15
LEAST_DEVIATION = 1e-12


def confidence(losses: Values) -> Values:
    """Return the logit of the probability of the label, log(p / (1 - p)) with p = exp(-loss).

    Parameters
    ----------
    losses : NDArray[float64]
        At least 0: a cross-entropy, or another negative logarithm. Any shape.

    Returns
    -------
    NDArray[float64]
        In the same shape; at most 34.6.

    Examples
    --------
    >>> import numpy as np
    >>> confidence(np.array([np.log(2.0), np.log(4.0)])).round(4).tolist()
    [0.0, -1.0986]
    """
    losses = np.maximum(losses, LEAST_LOSS)
    found: Values = -losses - np.log(-np.expm1(-losses))
    return found


def likelihood_ratio(
    target: Values, shadows: Values, included: Included, variance: Variance = "auto"
) -> Values:
    """Return log N(target; in) - log N(target; out) of each candidate: online LiRA.

    The two normal distributions of a candidate are fitted to its confidences in the shadow models
    with and without it. With a fixed variance only their means are its own.

    Parameters
    ----------
    target : NDArray[float64]
        Confidences in the target model, shape (n,).
    shadows : NDArray[float64]
        In the shadow models, shape (shadows, n).
    included : NDArray[bool]
        Which shadow model was trained with which candidate, shape (shadows, n).
    variance : "auto", "example" or "fixed"
        "auto" is fixed below 32 shadow models with or without a candidate (64 in all, as the paper
        has it).

    Returns
    -------
    NDArray[float64]
        Shape (n,), the larger the more likely a member.

    Raises
    ------
    ValueError
        If a candidate is in fewer than two shadow models, or in all but fewer than two.

    Examples
    --------
    >>> import numpy as np
    >>> shadows = np.array([[4.0], [6.0], [0.0], [2.0]])
    >>> included = np.array([[True], [True], [False], [False]])
    >>> likelihood_ratio(np.array([5.0]), shadows, included).round(6).tolist()
    [4.0]
    """
    inside = _normal(shadows, included, variance)
    outside = _normal(shadows, ~included, variance)
    found: Values = _log_density(target, *inside) - _log_density(target, *outside)
    return found


def offline_likelihood_ratio(
    target: Values, shadows: Values, included: Included, variance: Variance = "auto"
) -> Values:
    """Return by how many deviations the target is above models without the candidate.

    Offline LiRA's score is the probability that such a model is less confident, which this orders
    candidates by: it is the normal distribution function of it, without its rounding to 1.

    Parameters
    ----------
    target, shadows, included, variance
        As of :func:`likelihood_ratio`; shadow models with a candidate are not used for it.

    Raises
    ------
    ValueError
        If a candidate is in all shadow models but fewer than two.

    Examples
    --------
    >>> import numpy as np
    >>> shadows, nowhere = np.array([[0.0], [1.0], [2.0]]), np.zeros((3, 1), bool)
    >>> offline_likelihood_ratio(np.array([5.0]), shadows, nowhere).tolist()
    [4.0]
    """
    mean, deviation = _normal(shadows, ~included, variance)
    found: Values = (target - mean) / deviation
    return found


def relative_membership(
    target: Values,
    shadows: Values,
    included: Included,
    population: Values,
    population_shadows: Values,
    *,
    a: float = 0.3,
    gamma: float = 1.0,
) -> Values:
    """Return the share of the population that a candidate is ``gamma`` times as likely as: RMIA.

    An example's likelihood is its probability under the target, over what it is in general. The
    offline form takes the latter from models without the example: ((1 + a) p_out + 1 - a) / 2.

    Parameters
    ----------
    target : NDArray[float64]
        Probabilities of the candidates' labels under the target model, shape (n,).
    shadows : NDArray[float64]
        Under the shadow models, shape (shadows, n).
    included : NDArray[bool]
        Which shadow model was trained with which candidate, shape (shadows, n).
    population, population_shadows : NDArray[float64]
        The same of examples that no model was trained with: shapes (m,) and (shadows, m).
    a : float
        In [0, 1]: how far models with and without an example agree on it; 1 says that p_out is
        the probability in general. The paper has 0.3 for CIFAR-10.
    gamma : float
        At least 1.

    Returns
    -------
    NDArray[float64]
        Shape (n,), in [0, 1].

    Raises
    ------
    ValueError
        If a candidate is in all shadow models.

    Examples
    --------
    >>> import numpy as np
    >>> shadows, nowhere = np.array([[0.5, 0.5]]), np.zeros((1, 2), bool)
    >>> target, others = np.array([0.9, 0.4]), np.array([0.5, 0.6])
    >>> relative_membership(target, shadows, nowhere, others, np.array([[0.5, 0.5]])).tolist()
    [1.0, 0.0]
    """
    without = ~included
    counts = without.sum(0)
    if not counts.all():
        raise ValueError("a candidate is in all shadow models; expected some without it")
    of_candidates = np.where(without, shadows, 0.0).sum(0) / counts
    ratios = target / _in_general(of_candidates, a)
    others = population / _in_general(population_shadows.mean(0), a)
    threshold = np.sort(gamma * others)
    found: Values = np.searchsorted(threshold, ratios, side="left") / len(threshold)
    return found


def _in_general(without: Values, a: float) -> Values:
    general: Values = ((1 + a) * without + 1 - a) / 2
    # With a = 1 a probability may be 0.
    return np.maximum(general, 1e-300)


def _normal(shadows: Values, chosen: Included, variance: Variance) -> tuple[Values, Values]:
    """Return mean and deviation of each candidate's chosen values."""
    counts = chosen.sum(0)
    if counts.min() < 2:
        raise ValueError(
            f"a candidate has {counts.min()} shadow models of one kind; expected at least 2"
        )
    mean = np.where(chosen, shadows, 0.0).sum(0) / counts
    squares = np.where(chosen, (shadows - mean) ** 2, 0.0).sum(0)
    if variance == "fixed" or (variance == "auto" and counts.min() < ENOUGH):
        # About each candidate's own mean, of which one degree of freedom is used up.
        degrees = (counts - 1).sum()
        deviation = np.full_like(mean, np.sqrt(squares.sum() / degrees))
    else:
        deviation = np.sqrt(squares / counts)
    return mean, np.maximum(deviation, LEAST_DEVIATION)


def _log_density(values: Values, mean: Values, deviation: Values) -> Values:
    """Return the logarithm of normal densities, without their common constant."""
    density: Values = -np.log(deviation) - 0.5 * ((values - mean) / deviation) ** 2
    return density
