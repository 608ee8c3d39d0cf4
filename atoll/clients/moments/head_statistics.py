"""Statistics of the head's gradient and Hessian, each linear in its cotangent.

See :mod:`~atoll.clients.moments.statistics` for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.statistic import DomainContext, Statistic, vectors_of
from atoll.randomness import derive_seed

# Probes evaluated at a time: (probes, examples, outputs) numbers are held at once.
PROBE_BLOCK = 16


@dataclass(frozen=True)
class HeadGradient(Statistic):
    """The gradient of the loss by the head's parameters, g.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HeadGradient
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(HeadGradient()).round(decimals=4).tolist()  # each output's weights
    [[-0.1345, 0.1345, 0.1345, -0.1345]]
    """

    name: ClassVar[str] = "head-gradient"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return outputs.gradient_along(cotangent)


@dataclass(frozen=True)
class HessianProduct(Statistic):
    """The head's Hessian times given vectors: H v_1, ..., H v_k.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HeadGradient
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> gradients = domains.moment(HeadGradient())
    >>> domains.hessian_products(gradients[:, None]).shape  # (domains, vectors, head parameters)
    torch.Size([1, 1, 4])
    """

    name: ClassVar[str] = "hessian-product"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return the vectors' own shape, (k, h)."""
        return tuple(vectors_of(context).shape)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return outputs.curvature_along(cotangent, vectors_of(context).to(cotangent))


@dataclass(frozen=True)
class HessianProbes(Statistic):
    """The head's Hessian times seeded Rademacher probes, the same for every domain.

    With zeta of independent signs, the mean of ||(H - K) zeta||^2 is ||H - K||_F^2.

    Attributes
    ----------
    seed : int
        Seed of the probes.
    probes : int
        Number of probes, at least 1.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HessianProbes
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(HessianProbes(seed=0, probes=3)).shape  # (domains, probes, head parameters)
    torch.Size([1, 3, 4])
    """

    seed: int
    probes: int = 1
    name: ClassVar[str] = "hessian-probes"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a probe and parameter of the head."""
        return (self.probes, sizes.head)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        probes = rademacher(self.seed, tuple(cotangent.shape)).to(cotangent)
        return _curvature_in_blocks(outputs, cotangent, probes)


@dataclass(frozen=True)
class ProbedDiagonal(Statistic):
    """Hutchinson's estimate of the head's Hessian diagonal: the mean of zeta * (H zeta).

    Attributes
    ----------
    seed, probes : int
        Seed and number of the Rademacher probes (Bekas et al., 2007).
    of_domain : bool
        Whether every domain has probes of its own.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HessianDiagonal, ProbedDiagonal
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> exact, estimate = domains.moments(HessianDiagonal(), ProbedDiagonal(seed=0, probes=2000))
    >>> exact.shape, bool((exact - estimate).abs().max() < 0.02)
    (torch.Size([1, 4]), True)
    """

    seed: int
    probes: int
    of_domain: bool = True
    name: ClassVar[str] = "probed-diagonal"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        seed = derive_seed(self.seed, context.domain) if self.of_domain else self.seed
        probes = rademacher(seed, (self.probes, len(cotangent))).to(cotangent)
        return _curvature_in_blocks(outputs, cotangent * probes, probes) / self.probes


@dataclass(frozen=True)
class HessianDiagonal(Statistic):
    """The diagonal of the head's Hessian: diag(A) (x) z^2; A is p(1 - p) of cross-entropy.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import HessianDiagonal
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(HessianDiagonal()).round(decimals=4).tolist()
    [[0.0983, 0.0983, 0.0983, 0.0983]]
    """

    name: ClassVar[str] = "hessian-diagonal"
    needs_linear_head: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return _squares_along(outputs, outputs.curvatures, cotangent)


@dataclass(frozen=True)
class SquaredHeadGradient(Statistic):
    """The squares of each example's head gradient: r^2 (x) z^2 (Fishr; Rame et al., 2022).

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import SquaredHeadGradient
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(SquaredHeadGradient()).round(decimals=4).tolist()
    [[0.0362, 0.0362, 0.0362, 0.0362]]
    """

    name: ClassVar[str] = "squared-head-gradient"
    needs_linear_head: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return _squares_along(outputs, outputs.residuals.square(), cotangent)


def rademacher(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return independent signs: +1 or -1 with equal probability, the same on every machine."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.int8) * 2 - 1


def _squares_along(outputs: HeadOutputs, weights: Tensor, cotangent: Tensor) -> Tensor:
    """Return the sum over examples and outputs of weights * (z^2 K^T), K being the cotangent."""
    return (weights * (outputs.inputs.square() @ outputs.as_matrices(cotangent).mT)).sum()


def _curvature_in_blocks(outputs: HeadOutputs, left: Tensor, right: Tensor) -> Tensor:
    blocks = zip(torch.split(left, PROBE_BLOCK), torch.split(right, PROBE_BLOCK), strict=True)
    return torch.stack([outputs.curvature_along(a, b) for a, b in blocks]).sum()
