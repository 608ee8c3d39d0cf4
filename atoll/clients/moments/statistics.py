"""Statistics that a server can query, each linear in its cotangent.

A statistic is a function phi of an example; its moment over a domain is the mean of phi. Each
statistic here is written once, as the inner product <cotangent, sum of phi>: a client that trains
differentiates it by the parameters, and a client that reports the sum differentiates it by the
cotangent.
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
class Loss(Statistic):
    """The cross-entropy."""

    name: ClassVar[str] = "loss"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.losses.sum(dtype=torch.float64)


@dataclass(frozen=True)
class HeadGradient(Statistic):
    """The gradient of the loss by the head's parameters, g."""

    name: ClassVar[str] = "head-gradient"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return outputs.gradient_along(cotangent)


@dataclass(frozen=True)
class HessianProduct(Statistic):
    """The head's Hessian times given vectors: H v_1, ..., H v_k."""

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
        Of the probes.
    probes : int
        How many.
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
        Of the Rademacher probes (Bekas et al., 2007).
    of_domain : bool
        Whether every domain has probes of its own.
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
    """The diagonal of the head's Hessian: p(1 - p) (x) z^2."""

    name: ClassVar[str] = "hessian-diagonal"
    needs_linear_head: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        variances = outputs.probabilities * (1 - outputs.probabilities)
        return _squares_along(outputs, variances, cotangent)


@dataclass(frozen=True)
class SquaredHeadGradient(Statistic):
    """The squares of each example's head gradient: r^2 (x) z^2 (Fishr; Rame et al., 2022)."""

    name: ClassVar[str] = "squared-head-gradient"
    needs_linear_head: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter of the head."""
        return (sizes.head,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return _squares_along(outputs, outputs.residuals.square(), cotangent)


@dataclass(frozen=True)
class ScaleGradient(Statistic):
    """The loss's derivative by a factor on the logits, at 1 (IRM; Arjovsky et al., 2019)."""

    name: ClassVar[str] = "scale-gradient"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * _scale_gradients(outputs).sum(dtype=torch.float64)


@dataclass(frozen=True)
class ScaleGradientHalves(Statistic):
    """The scale gradient over the examples at even and at odd places, and the two halves' sizes.

    The moment is (even sum, odd sum, even examples, odd examples) / examples, so the halves' means
    are ratios of its parts.
    """

    name: ClassVar[str] = "scale-gradient-halves"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return four numbers."""
        return (4,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        gradients = _scale_gradients(outputs)
        odd = (outputs.positions % 2).to(gradients.dtype)
        parts = ((1 - odd) * gradients, odd * gradients, 1 - odd, odd)
        return cotangent @ torch.stack([part.sum() for part in parts])


@dataclass(frozen=True)
class FeatureMean(Statistic):
    """The features."""

    name: ClassVar[str] = "feature-mean"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a feature."""
        return (sizes.features,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return outputs.features.sum(0) @ cotangent


@dataclass(frozen=True)
class FeatureProducts(Statistic):
    """The products of features, z_i z_j for i <= j, row by row."""

    name: ClassVar[str] = "feature-products"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a pair: d (d + 1) / 2."""
        return (sizes.features * (sizes.features + 1) // 2,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        z = outputs.features
        rows, columns = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
        return (z.mT @ z)[rows, columns] @ cotangent


@dataclass(frozen=True)
class ExampleFeatures(Statistic):
    """Each example's features, at its place among the client's of the domain.

    Whoever has them can evaluate any function of pairs of examples, as a kernel is.
    """

    name: ClassVar[str] = "example-features"
    of_examples: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one row an example and one column a feature."""
        return (context.examples, sizes.features)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return (outputs.features * cotangent[outputs.positions]).sum()


@dataclass(frozen=True)
class SquaredLogits(Statistic):
    """The mean of the squared logits (spectral decoupling; Pezeshki et al., 2021)."""

    name: ClassVar[str] = "squared-logits"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.logits.square().mean(1).sum()


@dataclass(frozen=True)
class SquaredFeatures(Statistic):
    """The squared norm of the features (the L2R term of FedSR; Nguyen et al., 2022)."""

    name: ClassVar[str] = "squared-features"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.features.square().sum()


@dataclass(frozen=True)
class Gradient(Statistic):
    """The gradient of the loss by all trainable parameters, in the order of the model's."""

    name: ClassVar[str] = "gradient"
    needs_graph: ClassVar[bool] = True

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a parameter."""
        return (sizes.parameters,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return _gradient_of_loss(outputs, create_graph=True) @ cotangent

    def total(
        self,
        outputs: HeadOutputs,
        sizes: ModelSizes,
        context: DomainContext,
        *,
        create_graph: bool = False,
    ) -> Tensor:
        """See :class:`Statistic`; without a graph, one backward pass."""
        return _gradient_of_loss(outputs, create_graph=create_graph)


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


def _scale_gradients(outputs: HeadOutputs) -> Tensor:
    return (outputs.residuals * outputs.logits).sum(1)


def _gradient_of_loss(outputs: HeadOutputs, *, create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        outputs.losses.sum(),
        list(outputs.parameters),
        create_graph=create_graph,
        # Several domains of one batch share a graph.
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
