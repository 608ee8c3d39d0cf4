"""Epsilon of composed Gaussian mechanisms by Opacus's accountants."""

from __future__ import annotations

import warnings
from typing import Any

from atoll.extras import OptionalModule
from atoll.privacy.kinds import Accountant

accountants = OptionalModule("opacus.accountants", "privacy accounting")


def composed_epsilon(
    accountant: Accountant,
    noise_multiplier: float,
    rate: float,
    uses: int,
    delta: float,
    **options: Any,
) -> float:
    """Return the epsilon of uses of a Gaussian mechanism under Poisson sampling.

    Parameters
    ----------
    accountant : "rdp" or "pld"
        Renyi differential privacy, or the composition of privacy loss distributions.
    noise_multiplier : float
        The noise's deviation by the sensitivity, > 0.
    rate : float
        The probability that a participant is in a use, in (0, 1].
    uses : int
        How many mechanisms compose, >= 1.
    delta : float
        In (0, 1).
    **options
        Of the accountant's ``get_epsilon``.
    """
    is_rdp = accountant == "rdp"
    counted = accountants.RDPAccountant() if is_rdp else accountants.PRVAccountant()
    counted.history = [(noise_multiplier, rate, uses)]
    with warnings.catch_warnings():
        # A bound at the end of the accountant's orders is one all the same.
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(counted.get_epsilon(delta, **options))
