"""Penalties on the spread of losses, gradients and features over domains.

Defaults are DomainBed's (Gulrajani and Lopez-Paz, 2021), which the released code of Hessian
Alignment shares; "the published loss" is the one there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from atoll.clients.moments.head_statistics import HeadGradient, SquaredHeadGradient
from atoll.clients.moments.statistics import (
    ExampleFeatures,
    FeatureMean,
    FeatureProducts,
    Gradient,
    Loss,
    ScaleGradient,
    ScaleGradientHalves,
)
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.methods.kernels import kernel_mean
from atoll.strategies.alignment.moments.domain_moments import Domains
from atoll.strategies.strategy_fields import NonNegative, NonNegativeCount, Positive

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
# The widths of DomainBed's Gaussian kernels.
GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(kw_only=True, eq=False)
class IRM(AlignmentStrategy):
    """Invariant risk minimisation (Arjovsky et al., 2019, IRMv1).

    The penalty is the mean over domains of the squared derivative of the loss by a factor on the
    logits.

    Parameters
    ----------
    as_released : bool
        DomainBed's estimate of the square: the product of the derivatives on the examples at even
        and at odd places, which can be negative.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, IRM
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> round(IRM().penalty(domains).item(), 4)
    0.3034
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 100.0
    anneal_rounds: NonNegativeCount = 500
    initial_penalty_weight: NonNegative = 1.0
    as_released: bool = False

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`IRM`."""
        if not self.as_released:
            return domains.mean(domains.moment(ScaleGradient()).square())
        halves = domains.moment(ScaleGradientHalves())
        sums, shares = halves[:, :2], halves[:, 2:].detach()
        return domains.mean((sums / shares.clamp_min(1e-12)).prod(1))


@dataclass(kw_only=True, eq=False)
class VREx(AlignmentStrategy):
    """Risk extrapolation (Krueger et al., 2021): the variance of the domains' losses.

    Parameters
    ----------
    over_pairs : bool
        Takes the mean over pairs of domains of (L_i - L_j)^2, as the Colored MNIST script: with n
        domains that count the same, 2 n / (n - 1) times the variance.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, VREx
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> round(VREx().penalty(domains).item(), 4)  # the losses are 0.3133 and 1.3133
    0.25
    """

    is_quadratic: ClassVar[bool] = True
    penalty_weight: NonNegative = 10.0
    anneal_rounds: NonNegativeCount = 500
    initial_penalty_weight: NonNegative = 1.0
    over_pairs: bool = False

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`VREx`."""
        n = len(domains)
        factor = 2 * n / (n - 1) if self.over_pairs else 1.0
        return factor * domains.spread(domains.moment(Loss()))


@dataclass(kw_only=True, eq=False)
class GradientAlignment(AlignmentStrategy):
    """The spread of the head's gradients alone: the second term of HGP and Hutchinson.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, GradientAlignment
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> round(GradientAlignment().penalty(domains).item(), 4)
    0.25
    """

    is_quadratic: ClassVar[bool] = True
    penalty_weight: NonNegative = 5e-3

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`GradientAlignment`."""
        return domains.spread(domains.moment(HeadGradient()))


@dataclass(kw_only=True, eq=False)
class GradientNorm(AlignmentStrategy):
    """The squared norm of the head's mean gradient: a control that aligns nothing.

    The mean of the domains' squared norms is this plus the spread that
    :class:`GradientAlignment` is. What a method gains over ERM and this control gains too comes
    from smaller gradients of the head, not from domains that agree.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HeadGradient
    >>> from atoll.strategies import Domains, GradientAlignment, GradientNorm
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> parts = [each.penalty(domains) for each in (GradientNorm(), GradientAlignment())]
    >>> mean_of_squares = domains.mean(domains.moment(HeadGradient()).square().sum(1))
    >>> [round(value.item(), 4) for value in (*parts, mean_of_squares)]
    [0.0534, 0.25, 0.3034]
    """

    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 5e-3

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`GradientNorm`."""
        return domains.mean(domains.moment(HeadGradient())).square().sum()


@dataclass(kw_only=True, eq=False)
class FedIIR(AlignmentStrategy):
    """Intra- and inter-domain gradient alignment to a moving average (Guo et al., ICML 2023).

    Parameters
    ----------
    decay : float
        Decay of the moving average of the mean gradient, in [0, 1).
    as_released : bool
        Leaves the average, which starts at 0, without correction of its bias, so that the first
        target is 0.05 of the mean gradient.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, FedIIR
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> strategies = FedIIR(), FedIIR(as_released=True)  # in a first round
    >>> [round(strategy.penalty(domains).item(), 4) for strategy in strategies]
    [0.25, 0.2982]
    """

    is_quadratic: ClassVar[bool] = True
    min_domains: ClassVar[int] = 1
    penalty_weight: NonNegative = 1e-3
    decay: Decay = 0.95
    as_released: bool = False

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`FedIIR`."""
        gradients = domains.moment(HeadGradient())
        mean = domains.mean(gradients).detach()
        average = self.decay * self.memory.get("average", 0 * mean) + (1 - self.decay) * mean
        share = self.decay * float(self.memory.get("share", 0.0)) + 1 - self.decay
        self.memory["average"] = average
        self.memory["share"] = torch.tensor(share, dtype=torch.float64)
        return domains.spread(gradients, average if self.as_released else average / share)


@dataclass(kw_only=True, eq=False)
class IGA(AlignmentStrategy):
    """Inter-environment gradient alignment (Koyama and Yamaguchi, 2020).

    The sum over domains of the squared distance of the gradient, by all parameters, to its mean.
    Uploads and cotangents are of the model's size.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, GradientAlignment, IGA
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> strategies = IGA(), GradientAlignment()  # a model that is all head
    >>> [round(strategy.penalty(domains).item(), 4) for strategy in strategies]
    [0.25, 0.25]
    """

    is_quadratic: ClassVar[bool] = True
    penalty_weight: NonNegative = 1000.0
    sum_over_domains: bool = True

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`IGA`."""
        return domains.spread(domains.moment(Gradient()))


@dataclass(kw_only=True, eq=False)
class Fishr(AlignmentStrategy):
    """The spread of the variances of head gradients (Rame et al., ICML 2022).

    Parameters
    ----------
    decay : float
        Decay of the moving average of each domain's variances, in [0, 1); 0 as in the Colored MNIST
        script.
    reduction : "mean" or "sum"
        Over the head's parameters: DomainBed's, or the Colored MNIST script's.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, Fishr
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> strategies = Fishr(decay=0.0), Fishr(decay=0.0, reduction="sum")  # over four parameters
    >>> [round(strategy.penalty(domains).item(), 5) for strategy in strategies]
    [0.00334, 0.01335]
    """

    always_measures: ClassVar[bool] = True
    penalty_weight: NonNegative = 1000.0
    anneal_rounds: NonNegativeCount = 1500
    decay: Decay = 0.95
    reduction: Literal["mean", "sum"] = "mean"

    @property
    def needs_linear_head(self) -> bool:
        """Gradients of single examples have a closed form for a linear head only."""
        return True

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`Fishr`."""
        gradients, squares = domains.moments(HeadGradient(), SquaredHeadGradient())
        variances = self._averaged(domains, squares - gradients.square())
        spread = domains.spread(variances)
        return spread / variances.shape[1] if self.reduction == "mean" else spread

    def _averaged(self, domains: Domains, variances: Tensor) -> Tensor:
        """Return (decay * previous + (1 - decay) * variances) / (1 - decay), as published."""
        if self.decay == 0.0:
            return variances
        rows = []
        for name, row in zip(domains.names, variances, strict=True):
            previous = self.memory.get(name, torch.zeros_like(row))
            average = self.decay * previous + (1 - self.decay) * row
            self.memory[name] = average.detach()
            rows.append(average / (1 - self.decay))
        return torch.stack(rows)


@dataclass(kw_only=True, eq=False)
class CORAL(AlignmentStrategy):
    """The distances of the domains' feature means and covariances (Sun and Saenko, 2016).

    As DomainBed: the mean over pairs of domains of mean((mu_i - mu_j)^2) + mean((C_i - C_j)^2).

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import CORAL, Domains
    >>> model, labels = torch.nn.Linear(2, 2), torch.tensor([0, 1])
    >>> moved = {"a": (torch.eye(2), labels), "b": (torch.eye(2) + 1, labels)}
    >>> scaled = {"a": (torch.eye(2), labels), "b": (2 * torch.eye(2), labels)}
    >>> [CORAL().penalty(Domains.of_model(model, each)).item() for each in (moved, scaled)]
    [1.0, 2.5]
    """

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`CORAL`."""
        means, products = domains.moments(FeatureMean(), FeatureProducts())
        d = means.shape[1]
        rows, columns = torch.triu_indices(d, d)
        counts = domains.counts[:, None]
        unbiased = counts / (counts - 1).clamp_min(1.0)
        covariances = unbiased * (products - means[:, rows] * means[:, columns])
        # An entry off the diagonal stands for two of the matrix.
        weights = torch.where(rows == columns, 1.0, 2.0).double() / d**2
        terms = [
            (means[i] - means[j]).square().mean()
            + weights @ (covariances[i] - covariances[j]).square()
            for i, j in _pairs(len(domains))
        ]
        return torch.stack(terms).mean()


@dataclass(kw_only=True, eq=False)
class MMD(AlignmentStrategy):
    """The maximum mean discrepancy of features (Li et al., 2018), exact.

    As DomainBed: the mean over pairs of domains of mean K_ii + mean K_jj - 2 mean K_ij, K being
    the sum of Gaussian kernels of seven widths. A kernel is a function of two examples, and no sum
    over a client's examples has its gradient: clients upload their examples' features, and get back
    the penalty's derivative by each. The server's time is quadratic in a round's examples.

    Parameters
    ----------
    gammas : Sequence[float]
        Gammas of the kernels exp(-gamma ||z - z'||^2), each above 0.

    Examples
    --------
    >>> import torch
    >>> from atoll.strategies import Domains, MMD
    >>> model, labels = torch.nn.Linear(2, 2), torch.tensor([0, 1])
    >>> images = torch.eye(2)
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images + 1, labels)})
    >>> strategy = MMD(gammas=[1.0])
    >>> round(strategy.penalty(domains).item(), 4), strategy.sums_suffice
    (0.9817, False)
    """

    sums_suffice: ClassVar[bool] = False
    gammas: Annotated[Sequence[Positive], Field(min_length=1)] = GAMMAS

    def penalty(self, domains: Domains) -> Tensor:
        """See :class:`MMD`."""
        z, n = domains.examples(ExampleFeatures()), len(domains)
        within = [kernel_mean(own, own, self.gammas) for own in z]
        across = [kernel_mean(z[i], z[j], self.gammas) for i, j in _pairs(n)]
        return 2 * (torch.stack(within).mean() - torch.stack(across).mean())


def _pairs(n: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(n) for j in range(i + 1, n))
