"""Epsilon that a mechanism has spent, and the noise that a budget asks for.

What is claimed depends on how a round's participants are drawn:

``"poisson"``
    Each joins a round by itself with probability q. Neighbours differ by one participant who is
    there or not. Renyi accounting or the numerical composition of privacy loss distributions, both
    Opacus's.
``"fixed"``
    m of N are drawn without replacement. Neighbours differ by one participant who is exchanged for
    another, which moves a sum of clipped values by twice the norm. Renyi accounting of Wang, Balle
    and Kasiviswanathan ("Subsampled Renyi Differential Privacy", 2019, theorem 27), or no
    amplification, whichever is less.
``"epochs"``
    Rounds take the participants in a shuffled order, each once an epoch. Neighbours differ by one
    participant whose values are there or are zero. Nothing is claimed for the order; the Gaussian
    mechanism is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from atoll.extras import OptionalModule
from atoll.privacy.gaussian import exact_gaussian_epsilon
from atoll.privacy.kinds import Accountant, Sampling
from atoll.privacy.opacus_accountant import composed_epsilon

special = OptionalModule("scipy.special", "privacy accounting")

# Orders of Renyi differential privacy; the bound for cohorts of a fixed size is of whole ones.
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)
# Others take series, and so a hundred times as long; these are the best of large epsilons.
BETWEEN = (1.5, 2.5, 3.5, 4.5, 5.5)
LEAST_NOISE, MOST_NOISE = 1e-2, 1e6
# How close the noise comes to the least that keeps the budget, from above.
PRECISION = 1e-3
# Of the moments' integrals: standard deviations beyond the peak, and the grid's spacing.
TAIL, SPACING = 14.0, 0.05
# With less, the moments are no less than the plain bound, and the grid is long.
LEAST_NOISE_OF_MOMENTS = 0.25
# exp(x) - 1 is exp(x) to rounding from here on.
EXPM1_LIMIT = 50.0


@dataclass(frozen=True)
class Mechanism:
    """A Gaussian mechanism that is applied once a round.

    Attributes
    ----------
    noise_multiplier : float
        The noise's deviation by the clipping norm, > 0.
    sampling : "fixed", "poisson" or "epochs"
        How a round's participants are drawn.
    rate : float
        The share of the participants that a round has, in (0, 1].
    rounds_per_epoch : int
        Of "epochs", the rounds after which participants come again.
    tree : bool
        Whether the noise is that of a tree of sums, which starts again each epoch (Kairouz et al.,
        2021); it needs "epochs".
    accountant : "rdp" or "pld"
        Renyi differential privacy, or privacy loss distributions; of "poisson" below a rate of 1.
    """

    noise_multiplier: float
    sampling: Sampling
    rate: float
    rounds_per_epoch: int = 1
    tree: bool = False
    accountant: Accountant = "rdp"

    def epsilon(self, rounds: int, delta: float) -> float:
        """Return the epsilon that a number of rounds spend.

        Parameters
        ----------
        rounds : int
            At least 0.
        delta : float
            In (0, 1).

        Examples
        --------
        >>> everybody = Mechanism(noise_multiplier=1.0, sampling="poisson", rate=1.0)
        >>> a_tenth = Mechanism(noise_multiplier=1.0, sampling="poisson", rate=0.1)
        >>> round(everybody.epsilon(1, 1e-5), 3), a_tenth.epsilon(1, 1e-5) < 2.2
        (4.377, True)
        """
        return _epsilon(self, rounds, delta) if rounds else 0.0


@lru_cache(maxsize=65_536)
def _epsilon(mechanism: Mechanism, rounds: int, delta: float) -> float:
    noise = mechanism.noise_multiplier
    if mechanism.sampling == "epochs":
        uses = math.ceil(rounds / mechanism.rounds_per_epoch)
        # An update is in a node of each level.
        levels = mechanism.rounds_per_epoch.bit_length() if mechanism.tree else 1
        return exact_gaussian_epsilon(math.sqrt(uses * levels) / noise, delta)
    if mechanism.sampling == "fixed":
        exact = exact_gaussian_epsilon(2 * math.sqrt(rounds) / noise, delta)
        return min(exact, _fixed_epsilon(noise, mechanism.rate, rounds, delta))
    if mechanism.rate == 1.0:
        return exact_gaussian_epsilon(math.sqrt(rounds) / noise, delta)
    return _poisson_epsilon(mechanism, rounds, delta)


def _poisson_epsilon(mechanism: Mechanism, rounds: int, delta: float) -> float:
    kind, noise = mechanism.accountant, mechanism.noise_multiplier
    options = {"alphas": [*BETWEEN, *ORDERS]} if kind == "rdp" else {}
    return composed_epsilon(kind, noise, mechanism.rate, rounds, delta, **options)


def _fixed_epsilon(noise: float, rate: float, rounds: int, delta: float) -> float:
    """Return the best epsilon over the orders.

    From Renyi divergences as Canonne, Kamath and Steinke (2020, proposition 12) do.
    """
    found = math.inf
    for order in ORDERS:
        spent = rounds * _fixed_rdp(noise, rate, order)
        epsilon = spent + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        found = min(found, max(epsilon, 0.0))
    return found


@lru_cache(maxsize=65_536)
def _fixed_rdp(noise: float, rate: float, order: int) -> float:
    """Return the Renyi divergence of a round whose cohort is drawn without replacement.

    Wang, Balle and Kasiviswanathan (2019), theorem 27, for the Gaussian mechanism, whose Renyi
    divergence at order j is 2 j / noise^2 where one update is exchanged for another.
    """
    log_rate = math.log(rate)
    second = 4 / noise**2
    least = min(math.log(4) + _log_expm1(second), math.log(2) + second)
    terms = [0.0, 2 * log_rate + _log_binomial(order, 2) + least]
    for power in range(3, order + 1):
        plain = math.log(2) + (power - 1) * 2 * power / noise**2
        bound = plain
        if noise >= LEAST_NOISE_OF_MOMENTS:
            lower, upper = 2 * (power // 2), 2 * ((power + 1) // 2)
            moments = (_log_moment(2 / noise, lower) + _log_moment(2 / noise, upper)) / 2
            bound = min(plain, math.log(4) + moments)
        terms.append(power * log_rate + _log_binomial(order, power) + bound)
    amplified = float(special.logsumexp(terms)) / (order - 1)
    return min(amplified, 2 * order / noise**2)


@lru_cache(maxsize=65_536)
def _log_moment(mu: float, power: int) -> float:
    """Return the logarithm of E[(p / q - 1)^power] under q, for p = N(mu, 1) and q = N(0, 1).

    The power is even, so the integrand is nowhere negative; a sum over an even grid is then exact
    to rounding, as of any smooth function that falls off like a Gaussian.
    """
    grid = np.arange(-TAIL, power * mu + TAIL, SPACING)
    ratio = np.abs(np.expm1(np.minimum(mu * grid - mu**2 / 2, EXPM1_LIMIT)))
    with np.errstate(divide="ignore"):
        logs = np.where(mu * grid - mu**2 / 2 < EXPM1_LIMIT, np.log(ratio), mu * grid - mu**2 / 2)
    density = -(grid**2) / 2 - math.log(2 * math.pi) / 2 + math.log(SPACING)
    return float(special.logsumexp(power * logs + density))


def _log_expm1(value: float) -> float:
    return value + math.log1p(-math.exp(-value)) if value > 1.0 else math.log(math.expm1(value))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def noise_for(mechanism: Mechanism, rounds: int, epsilon: float, delta: float) -> float:
    """Return the least noise multiplier with which a number of rounds keeps a budget.

    Parameters
    ----------
    mechanism : Mechanism
        All but its noise.
    rounds : int
        At least 1.
    epsilon, delta : float
        The budget.

    Returns
    -------
    float
        At most a thousandth above the least; never below it.

    Raises
    ------
    ValueError
        If a noise multiplier of a million is too little.

    Examples
    --------
    >>> once = Mechanism(noise_multiplier=1.0, sampling="epochs", rate=0.1)
    >>> round(noise_for(once, 1, 4.377, 1e-5), 2)
    1.0
    """

    def spent(noise: float) -> float:
        return replace(mechanism, noise_multiplier=noise).epsilon(rounds, delta)

    return least_noise(spent, epsilon)


def least_noise(spent: Callable[[float], float], epsilon: float) -> float:
    """Return the least noise multiplier that spends at most ``epsilon``; see :func:`noise_for`.

    Parameters
    ----------
    spent : callable
        Returns the epsilon of a noise multiplier; the more noise, the less.
    epsilon : float
        The budget.
    """
    high = 1.0
    while spent(high) > epsilon:
        high *= 2
        if high > MOST_NOISE:
            raise ValueError(f"no noise multiplier up to {MOST_NOISE:g} keeps epsilon = {epsilon}")
    low = high / 2
    while low > LEAST_NOISE and spent(low) <= epsilon:
        low, high = low / 2, low
    while high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        if spent(middle) <= epsilon:
            high = middle
        else:
            low = middle
    return high
