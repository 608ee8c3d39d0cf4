"""A user's own methods and statistics, right and wrong ones, in a module that clients import."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.clients.models.head import ModelSizes
from atoll.clients.models.head_outputs import HeadOutputs
from atoll.clients.moments.head_statistics import HeadGradient
from atoll.clients.moments.statistic import DomainContext, Statistic
from atoll.strategies.alignment.alignment_strategy import AlignmentStrategy
from atoll.strategies.alignment.moments.domain_moments import Domains


@dataclass(frozen=True)
class PoweredFeatures(Statistic):
    """Powers of the features, shifted."""

    powers: tuple[int, ...] = (3,)
    shift: float = 0.0

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        return (len(self.powers), sizes.features)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        z = outputs.features + self.shift
        return (torch.stack([(z**power).sum(0) for power in self.powers]) * cotangent).sum()


class BrokenStatistic(Statistic):
    """Fails on the clients."""

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        return cotangent * outputs.feature.sum()  # type: ignore[attr-defined, no-any-return]


@dataclass(frozen=True)
class UnsendableStatistic(PoweredFeatures):
    """Has a field that JSON does not have."""

    weights: object = object()


@dataclass(kw_only=True, eq=False)
class ThirdMoments(AlignmentStrategy):
    """Aligns third and first moments in a norm of its own."""

    def penalty(self, domains: Domains) -> Tensor:
        powers = domains.moment(PoweredFeatures((1, 3), 0.5))
        return (powers - domains.mean(powers)).abs().pow(1.5).sum()


class Typo(AlignmentStrategy):
    """Misspells a method, deep in its penalty."""

    def penalty(self, domains: Domains) -> Tensor:
        return self.halved(domains.moment(HeadGradient()))

    def halved(self, gradients: Tensor) -> Tensor:
        return gradients.sqare().sum() / 2  # type: ignore[attr-defined, no-any-return]


class _Exploding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        return values.sum()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        raise ZeroDivisionError("no gradient here")


class BrokenGradient(AlignmentStrategy):
    """Has a value, and no gradient."""

    def penalty(self, domains: Domains) -> Tensor:
        return _Exploding.apply(domains.moment(HeadGradient()))  # type: ignore[no-untyped-call, no-any-return]


class AsksBroken(AlignmentStrategy):
    """Asks for a statistic that fails on the clients."""

    def penalty(self, domains: Domains) -> Tensor:
        return domains.moment(BrokenStatistic()).sum()


class AsksUnsendable(AlignmentStrategy):
    """Asks for a statistic that no message can hold."""

    def penalty(self, domains: Domains) -> Tensor:
        return domains.moment(UnsendableStatistic()).sum()
