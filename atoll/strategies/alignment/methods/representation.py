"""Methods that regularise each client's representation by terms of its own loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from atoll.clients.moments.latent_statistics import ConditionalInformation, LatentNorm, LatentSquare
from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import SquaredFeatures
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.strategy_fields import NonNegative


@dataclass(kw_only=True, eq=False)
class FedL2R(AlignmentStrategy):
    """The squared norm of features: FedSR's L2R term alone (Nguyen et al., NeurIPS 2022).

    Parameters
    ----------
    weight : float
        Weight of the squared norm of the features in each client's loss, at least 0.

    Examples
    --------
    >>> from atoll.strategies import FedL2R
    >>> [(statistic.name, weight) for statistic, weight in FedL2R(weight=0.01).local_terms()]
    [('squared-features', 0.01)]
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    weight: NonNegative = 0.01

    def local_terms(self) -> list[tuple[Statistic, float]]:
        """See :class:`FedL2R`."""
        return [(SquaredFeatures(), self.weight)]


@dataclass(kw_only=True, eq=False)
class FedSR(AlignmentStrategy):
    """Simple representations (Nguyen, Torr and Lim, NeurIPS 2022).

    The loss is the cross-entropy of a draw z ~ p(z | x), plus two terms: L2R, the expectation of
    ||z||^2; and CMI, KL(p(C z | x) || r(z | y)), whose mean over a client is an upper bound of the
    information that z has of x beyond y, and draws every client's p(z | y) to the same r(z | y). It
    takes a model with a Gaussian representation, which has r and C among its parameters.

    Each client draws noise of its own, so a round is that of the centralised objective given the
    noise. The server averages r and C as it does the rest of the model, so that they are the same
    for all; the released code trains them but leaves each client its own.

    Parameters
    ----------
    l2r_weight, cmi_weight : float
        Weights of the two terms, at least 0.
    as_released : bool
        Takes the norm of a draw in the place of the expected squared norm in L2R. The draw is
        another one than that of the cross-entropy.

    Examples
    --------
    >>> from atoll.strategies import FedSR
    >>> strategy = FedSR(l2r_weight=0.01, cmi_weight=0.0005)
    >>> [(statistic.name, weight) for statistic, weight in strategy.local_terms()]
    [('latent-square', 0.01), ('conditional-information', 0.0005)]
    >>> strategy.needs_gaussian_head
    True
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    l2r_weight: NonNegative = 1e-2
    cmi_weight: NonNegative = 5e-4
    as_released: bool = False

    @property
    def needs_gaussian_head(self) -> bool:
        """Both terms are of a distribution of z."""
        return True

    def local_terms(self) -> list[tuple[Statistic, float]]:
        """See :class:`FedSR`."""
        norm = LatentNorm() if self.as_released else LatentSquare()
        terms = [(norm, self.l2r_weight), (ConditionalInformation(), self.cmi_weight)]
        return [(statistic, weight) for statistic, weight in terms if weight]
