"""Statistics of a Gaussian representation z ~ N(mu(x), diag(sigma(x)^2)).

Those of FedSR (Nguyen et al., NeurIPS 2022); the model's head must be a
:class:`~atoll.clients.models.images.gaussian_model.GaussianHead`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.models.images.gaussian_model import GaussianHead
from atoll.clients.moments.statistic import DomainContext, Statistic


@dataclass(frozen=True)
class LatentSquare(Statistic):
    """The expectation of ||z||^2 given x: ||mu||^2 + ||sigma||^2."""

    name: ClassVar[str] = "latent-square"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        mean, scale = _head(outputs).distribution(outputs.features)
        return cotangent * (mean.square().sum() + scale.square().sum())


@dataclass(frozen=True)
class LatentNorm(Statistic):
    """The norm ||z|| of one draw."""

    name: ClassVar[str] = "latent-norm"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        norms: Tensor = torch.linalg.vector_norm(_head(outputs).draw(outputs.features), dim=1)
        return cotangent * norms.sum()


@dataclass(frozen=True)
class ConditionalInformation(Statistic):
    """KL(p(z | x) || r(z | y)), whose mean bounds the mutual information of x and z given y."""

    name: ClassVar[str] = "conditional-information"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * _head(outputs).divergences(outputs.features, outputs.labels).sum()


def _head(outputs: HeadOutputs) -> GaussianHead:
    if not isinstance(outputs.head, GaussianHead):
        raise ValueError(
            f"the model's head is a {type(outputs.head).__name__}, not one that draws from a "
            "Gaussian representation"
        )
    return outputs.head
