"""Hessian alignment (Hemati, Zhang, Estiri and Chen, ICCV 2023): HGP, Hutchinson, and CMA.

Each aligns the head's gradients and its Hessians over domains: alpha * (spread of a function of the
Hessian) + beta * (spread of gradients). Spreads are means over domains of squared distances summed
over the head's parameters, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.clients.moments.head_statistics import (
    HeadGradient,
    HessianDiagonal,
    HessianProbes,
    ProbedDiagonal,
)
from atoll.clients.moments.statistic import Statistic
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.strategy_fields import Count, NonNegative

RELEASED_PROBES = 300


@dataclass(kw_only=True, eq=False)
class HGP(AlignmentStrategy):
    """Alignment of Hessian-gradient products H_e g_e, and of gradients.

    Parameters
    ----------
    alpha, beta : float
        The weights of the products' and of the gradients' spread.
    target : "detached", "mean" or "attached"
        Target of the products: the mean Hessian times the mean gradient as a constant (the
        released DomainBed port), the mean of the products (what the formula says), or the mean
        Hessian times the mean gradient, differentiated too (the released Colored MNIST script,
        with alpha = beta = 1, sum_over_domains and the weight in penalty_weight).

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, HGP
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (2 * images, labels)})
    >>> strategy = HGP(alpha=1.0, beta=0.0)  # the products alone
    >>> same = Domains.of_model(model, {"a": (images, labels), "b": (images, labels)})
    >>> [round(strategy.penalty(each).item(), 6) for each in (domains, same)]
    [0.000561, 0.0]
    """

    alpha: NonNegative = 1e-4
    beta: NonNegative = 5e-3
    target: Literal["detached", "mean", "attached"] = "detached"

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`HGP`."""
        gradients = domains.moment(HeadGradient())
        vectors, target = gradients[:, None], None
        if self.target != "mean":
            mean = domains.mean(gradients).expand_as(gradients)
            vectors = torch.stack([gradients, mean], 1)
        products = domains.hessian_products(vectors)
        if self.target != "mean":
            target = domains.mean(products[:, 1])
        if target is not None and self.target == "detached":
            target = target.detach()
        aligned = domains.spread(products[:, 0], target)
        return self.alpha * aligned + self.beta * domains.spread(gradients)


@dataclass(kw_only=True, eq=False)
class Hutchinson(AlignmentStrategy):
    """Alignment of the Hessians themselves, and of gradients.

    Parameters
    ----------
    alpha, beta : float
        The weights of the Hessians' and of the gradients' spread.
    estimator : "diagonal", "shared-probes" or "independent-probes"
        The exact diagonal of the Hessian (no probes, no variance); H_e zeta with the same probes
        for all domains, an unbiased estimate of the spread of whole Hessians in the Frobenius
        norm; or the released estimate of the diagonal with probes of their own for each domain and
        for the mean, whose spread is mostly the probes' own variance.
    probes : int, optional
        Rademacher probes, new in every round; by default 1 shared or 300 independent.
    attached_target : bool
        Whether the mean's estimate is differentiated too with independent probes (the released
        Colored MNIST script) or constant (the DomainBed port).
    as_released : bool
        The same as ``estimator = "independent-probes"``.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, Hutchinson
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (2 * images, labels)})
    >>> exact = Hutchinson(alpha=1.0, beta=0.0)
    >>> probed = Hutchinson(alpha=1.0, beta=0.0, estimator="shared-probes", probes=4)
    >>> round(exact.penalty(domains).item(), 4), probed.penalty(domains).item() > 0
    (0.0125, True)
    """

    is_quadratic: ClassVar[bool] = True
    alpha: NonNegative = 1e-3
    beta: NonNegative = 5e-3
    estimator: Literal["diagonal", "shared-probes", "independent-probes"] = "diagonal"
    probes: Count | None = None
    attached_target: bool = False
    as_released: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.as_released:
            self.estimator = "independent-probes"

    @property
    def needs_linear_head(self) -> bool:
        """The exact diagonal has a closed form for a linear head only."""
        return self.estimator == "diagonal"

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`Hutchinson`."""
        statistics = self._statistics()
        gradients, hessians, *rest = domains.moments(HeadGradient(), *statistics)
        target = None
        if rest:
            mean = domains.mean(rest[0])
            target = mean if self.attached_target else mean.detach()
        spread = domains.spread(hessians, target)
        if isinstance(statistics[0], HessianProbes):
            spread = spread / statistics[0].probes
        return self.alpha * spread + self.beta * domains.spread(gradients)

    def _statistics(self) -> tuple[Statistic, ...]:
        """Return the statistic that is aligned, and that of its target where it is another."""
        if self.estimator == "diagonal":
            return (HessianDiagonal(),)
        if self.estimator == "shared-probes":
            return (HessianProbes(self.probe_seed(), self.probes or 1),)
        count = self.probes or RELEASED_PROBES
        return (
            ProbedDiagonal(self.probe_seed(), count),
            ProbedDiagonal(self.probe_seed(), count, of_domain=False),
        )


@dataclass(kw_only=True, eq=False)
class CMA(AlignmentStrategy):
    """Closed-form moment alignment (Chen et al., UAI 2025), as released: the Hessians' diagonals.

    Parameters
    ----------
    alpha, beta : float
        The weights of the gradients' spread, over C, and of the diagonals' spread, over C^2; C is
        the number of classes.
    classes : int
        C.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import CMA, Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> gradients, hessians = CMA(alpha=1.0, beta=0.0), CMA(alpha=0.0, beta=1.0)
    >>> [round(each.penalty(domains).item(), 4) for each in (gradients, hessians)]
    [0.125, 0.0]
    """

    is_quadratic: ClassVar[bool] = True
    alpha: NonNegative = 5000.0
    beta: NonNegative = 1000.0
    classes: Count = 2

    @property
    def needs_linear_head(self) -> bool:
        """The exact diagonal has a closed form for a linear head only."""
        return True

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`CMA`."""
        gradients, diagonals = domains.moments(HeadGradient(), HessianDiagonal())
        aligned = self.alpha / self.classes * domains.spread(gradients)
        return aligned + self.beta / self.classes**2 * domains.spread(diagonals)
