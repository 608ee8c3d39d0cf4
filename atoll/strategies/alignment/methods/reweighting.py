"""Methods that weigh the domains' losses; their only statistic is the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.moments.statistic import Statistic
from atoll.clients.moments.statistics import Loss, SquaredLogits
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.strategy_fields import Fraction, NonNegative, NonNegativeCount, Positive

BISECTIONS = 60
# As many as the released code of EQRM takes.
RELEASED_BISECTIONS = 32


@dataclass(kw_only=True, eq=False)
class ERM(AlignmentStrategy):
    """The mean of the domains' losses: FedAvg with domain weights (Vapnik, 1998).

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Loss
    >>> from atoll.strategies import ERM, Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> domains.moment(Loss()).round(decimals=4).tolist(), ERM().penalty(domains).item()
    ([0.3133, 1.3133], 0.0)
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0


@dataclass(kw_only=True, eq=False)
class GroupDRO(AlignmentStrategy):
    """Group distributionally robust optimisation (Sagawa et al., 2020).

    The loss is the sum of q_e L_e; in every round q_e is multiplied by exp(eta L_e).

    Parameters
    ----------
    eta : float
        Step size of q, at least 0.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, GroupDRO
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> strategy = GroupDRO(eta=1.0)
    >>> _ = strategy.penalty(domains)  # the losses are 0.3133 and 1.3133
    >>> {name: round(weight.item() / 2, 4) for name, weight in strategy.memory.items()}
    {'a': 0.2689, 'b': 0.7311}
    """

    eta: NonNegative = 1e-2

    def penalty(self, domains: Domains) -> Tensor:
        """Return the difference of the weighted loss to the mean loss."""
        losses = domains.moment(Loss())
        # Weights are relative to those of domains that are not here, which keep theirs.
        new = torch.ones((), dtype=torch.float64)
        known = torch.stack([self.memory.get(name, new) for name in domains.names])
        weights = self._updated(known / known.sum(), losses.detach())
        for name, weight in zip(domains.names, weights, strict=True):
            self.memory[name] = weight * known.sum()
        return (weights - domains.weights) @ losses

    def _updated(self, weights: Tensor, losses: Tensor) -> Tensor:
        scaled = weights * torch.exp(self.eta * losses)
        return scaled / scaled.sum()


@dataclass(kw_only=True, eq=False)
class AFL(GroupDRO):
    """Agnostic federated learning (Mohri et al., 2019): projected ascent on the weights.

    Parameters
    ----------
    eta : float
        Step size of the weights, at least 0.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import AFL, Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> strategy = AFL(eta=0.5)
    >>> _ = strategy.penalty(domains)  # the losses are 0.3133 and 1.3133
    >>> {name: round(weight.item() / 2, 4) for name, weight in strategy.memory.items()}
    {'a': 0.25, 'b': 0.75}
    """

    def _updated(self, weights: Tensor, losses: Tensor) -> Tensor:
        return project_to_simplex(weights + self.eta * losses)


@dataclass(kw_only=True, eq=False)
class EQRM(AlignmentStrategy):
    """The alpha-quantile of the domains' losses (Eastwood et al., 2022), after a burn-in of ERM.

    The quantile is that of a Gaussian kernel density estimate with the bandwidth
    1.06 std n^(-1/5), and its gradient is the quantile's own (by the implicit function theorem).
    The released code differentiates its bisection instead: see :func:`bisected_quantile`.

    Parameters
    ----------
    quantile : float
        Alpha, in [0, 1].
    quantile_learning_rate : float, optional
        Learning rate of the server's optimiser after the burn-in; None keeps the server's own.
    as_released : bool
        Takes the released code's gradient: its sum over domains is 1 too, but it is not the
        quantile's own.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, EQRM
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> [round(EQRM(quantile=alpha).penalty(domains).item(), 3) for alpha in (0.25, 0.5, 0.75)]
    [-0.58, 0.0, 0.58]
    """

    anneal_rounds: NonNegativeCount = 2500
    quantile: Fraction = 0.75
    quantile_learning_rate: Positive | None = 1e-6
    as_released: bool = False

    def server_learning_rate_at(self, server_round: int) -> float:
        """See :class:`EQRM`."""
        own = self.quantile_learning_rate
        if own is None or self.server_optimizer == "average" or server_round <= self.anneal_rounds:
            return super().server_learning_rate_at(server_round)
        return own

    def penalty(self, domains: Domains) -> Tensor:
        """Return the difference of the quantile to the mean loss."""
        losses = domains.moment(Loss())
        quantile_of = bisected_quantile if self.as_released else kernel_quantile
        return quantile_of(losses, self.quantile) - domains.mean(losses)


@dataclass(kw_only=True, eq=False)
class SD(AlignmentStrategy):
    """Spectral decoupling (Pezeshki et al., 2021): the mean squared logit, within each client.

    Parameters
    ----------
    weight : float
        Weight of the mean squared logit in each client's loss, at least 0.

    Examples
    --------
    >>> from atoll.strategies import SD
    >>> [(statistic.name, weight) for statistic, weight in SD(weight=0.1).local_terms()]
    [('squared-logits', 0.1)]
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    weight: NonNegative = 0.1

    def local_terms(self) -> list[tuple[Statistic, float]]:
        """See :class:`SD`."""
        return [(SquaredLogits(), self.weight)]


@dataclass(kw_only=True, eq=False)
class Mixup(AlignmentStrategy):
    """Mixup of each client's own examples (Zhang et al., 2018).

    Inexact: DomainBed mixes examples of different domains, which clients of one domain cannot.

    Parameters
    ----------
    alpha : float
        Parameter of the Beta(alpha, alpha) distribution of the mixing coefficients, above 0.

    Examples
    --------
    >>> from atoll.strategies import Mixup
    >>> strategy = Mixup(alpha=0.2)
    >>> strategy.mixup_alpha, strategy.has_penalty
    (0.2, False)
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 0.0
    alpha: Positive = 0.2

    @property
    def mixup_alpha(self) -> float:
        """See :class:`Mixup`."""
        return self.alpha


def project_to_simplex(values: Tensor) -> Tensor:
    """Return the nearest point with non-negative coordinates that sum to 1 (Duchi et al., 2008)."""
    ordered = torch.sort(values, descending=True).values
    places = torch.arange(1, len(values) + 1, dtype=values.dtype)
    shifts = (ordered.cumsum(0) - 1) / places
    last = int(torch.nonzero(ordered > shifts)[-1])
    return (values - shifts[last]).clamp_min(0.0)


def kernel_quantile(values: Tensor, quantile: float) -> Tensor:
    """Return the quantile of a Gaussian kernel density estimate of ``values``, differentiable.

    Parameters
    ----------
    values : Tensor
        Shape (n,), n >= 2.
    quantile : float
        In (0, 1); the nearest inside at 0 and 1.
    """
    wanted, bandwidth = _inside(quantile), _bandwidth(values)
    root = _root(values.detach(), float(bandwidth.detach()), wanted)
    standard = (root - values) / bandwidth
    cumulative = (0.5 * (1 + torch.erf(standard / math.sqrt(2)))).mean()
    density = (torch.exp(-standard.square() / 2) / math.sqrt(2 * math.pi) / bandwidth).mean()
    # At the root a Newton step moves nothing, and its gradient is the quantile's.
    step: Tensor = (cumulative - wanted) / density.detach().clamp_min(1e-12)
    return root - step


def bisected_quantile(values: Tensor, quantile: float) -> Tensor:
    """Return the same quantile with the gradient that EQRM's released code gives it.

    That code bisects between the quantiles of the least and of the largest value's own kernel, and
    differentiates through the bisection's ends: the result is w times the one plus 1 - w times the
    other, w being held fixed. So the values between the ends get a gradient by the bandwidth only,
    and the sum over the values is 1, as it is for the quantile's own.

    Parameters
    ----------
    values, quantile
        As for :func:`kernel_quantile`.
    """
    wanted, bandwidth = _inside(quantile), _bandwidth(values)
    reach = bandwidth * NormalDist().inv_cdf(wanted)
    low, high = values.min() + reach, values.max() + reach
    for _ in range(RELEASED_BISECTIONS):
        middle = (low + high) / 2
        standard = (middle - values) / bandwidth
        below = bool((0.5 * (1 + torch.erf(standard / math.sqrt(2)))).mean() <= wanted)
        low, high = (middle, high) if below else (low, middle)
    found: Tensor = (low + high) / 2
    return found


def _inside(quantile: float) -> float:
    return min(max(quantile, 1e-6), 1 - 1e-6)


def _bandwidth(values: Tensor) -> Tensor:
    # Of the variance, whose gradient exists where all values are the same.
    scale = 1.06 * len(values) ** -0.2
    bandwidth: Tensor = (scale**2 * values.var()).clamp_min(1e-18).sqrt()
    return bandwidth


def _root(values: Tensor, bandwidth: float, wanted: float) -> float:
    low = float(values.min()) - 10 * bandwidth
    high = float(values.max()) + 10 * bandwidth
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        standard = (middle - values) / bandwidth
        below = float((0.5 * (1 + torch.erf(standard / math.sqrt(2)))).mean()) < wanted
        low, high = (middle, high) if below else (low, middle)
    return (low + high) / 2
