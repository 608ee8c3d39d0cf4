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
from atoll.clients.moments.statistic import DomainContext, Statistic


@dataclass(frozen=True)
class Loss(Statistic):
    """The cross-entropy.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Loss
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(Loss()).round(decimals=4).tolist()
    [0.3133]
    """

    name: ClassVar[str] = "loss"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.losses.sum(dtype=torch.float64)


@dataclass(frozen=True)
class ScaleGradient(Statistic):
    """The loss's derivative by a factor on the logits, at 1 (IRM; Arjovsky et al., 2019).

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ScaleGradient
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> images, labels = torch.eye(2), torch.tensor([0, 1])
    >>> domains = Domains.of_model(model, {"a": (images, labels), "b": (images, 1 - labels)})
    >>> domains.moment(ScaleGradient()).round(decimals=4).tolist()  # below 0: larger logits help
    [-0.2689, 0.7311]
    """

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

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ScaleGradientHalves
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (torch.eye(2), torch.tensor([0, 0]))})
    >>> domains.moment(ScaleGradientHalves()).round(decimals=4).tolist()
    [[-0.1345, 0.3655, 0.5, 0.5]]
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
    """The features.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import FeatureMean
    >>> from atoll.strategies import Domains
    >>> images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> domains = Domains.of_model(torch.nn.Linear(2, 2), {"a": (images, labels)})
    >>> domains.moment(FeatureMean()).tolist()
    [[2.0, 1.0]]
    """

    name: ClassVar[str] = "feature-mean"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return one number a feature."""
        return (sizes.features,)

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return outputs.features.sum(0) @ cotangent


@dataclass(frozen=True)
class FeatureProducts(Statistic):
    """The products of features, z_i z_j for i <= j, row by row.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import FeatureProducts
    >>> from atoll.strategies import Domains
    >>> images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> domains = Domains.of_model(torch.nn.Linear(2, 2), {"a": (images, labels)})
    >>> domains.moment(FeatureProducts()).tolist()  # the means of z_0 z_0, z_0 z_1, z_1 z_1
    [[5.0, 1.0, 2.0]]
    """

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

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import ExampleFeatures
    >>> from atoll.strategies import Domains
    >>> images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> domains = Domains.of_model(torch.nn.Linear(2, 2), {"a": (images, labels)})
    >>> [features.tolist() for features in domains.examples(ExampleFeatures())]
    [[[1.0, 2.0], [3.0, 0.0]]]
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
    """The mean of the squared logits (spectral decoupling; Pezeshki et al., 2021).

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import SquaredLogits
    >>> from atoll.strategies import Domains
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> domains = Domains.of_model(model, {"a": (2 * torch.eye(2), torch.tensor([0, 1]))})
    >>> domains.moment(SquaredLogits()).tolist()  # the mean of 4 and 0
    [2.0]
    """

    name: ClassVar[str] = "squared-logits"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.logits.square().mean(1).sum()


@dataclass(frozen=True)
class SquaredFeatures(Statistic):
    """The squared norm of the features (the L2R term of FedSR; Nguyen et al., 2022).

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import SquaredFeatures
    >>> from atoll.strategies import Domains
    >>> images, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1])
    >>> domains = Domains.of_model(torch.nn.Linear(2, 2), {"a": (images, labels)})
    >>> domains.moment(SquaredFeatures()).tolist()  # the mean of 5 and 9
    [7.0]
    """

    name: ClassVar[str] = "squared-features"

    def shape(self, sizes: ModelSizes, context: DomainContext) -> tuple[int, ...]:
        """Return (): a scalar."""
        return ()

    def inner(self, outputs: HeadOutputs, cotangent: Tensor, context: DomainContext) -> Tensor:
        """See :class:`Statistic`."""
        return cotangent * outputs.features.square().sum()


@dataclass(frozen=True)
class Gradient(Statistic):
    """The gradient of the loss by all trainable parameters, in the order of the model's.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import Gradient, ModelSettings, build_model
    >>> from atoll.strategies import Domains
    >>> model = build_model(ModelSettings(name="mlp"), (1, 8, 8), 10, seed=0)
    >>> domains = Domains.of_model(model, {"a": (torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))})
    >>> parameters = sum(parameter.numel() for parameter in model.parameters())
    >>> domains.moment(Gradient()).shape == (1, parameters)
    True
    """

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
