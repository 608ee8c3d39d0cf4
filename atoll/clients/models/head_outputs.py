"""Inputs and outputs of a head on some examples, and its gradient and Hessian from them.

Notation (Hemati et al., "Understanding Hessian Alignment for Domain Generalization", ICCV 2023,
for a linear head): z is an example's features with a 1 for the bias, r and A are the gradient and
the Hessian of its loss by the outputs (:mod:`~atoll.clients.tasks.output_loss`). The gradient by
the head is r (x) z; the Hessian is A (x) z z^T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from atoll.clients.tasks.output_loss import CROSS_ENTROPY, OutputLoss


@dataclass(frozen=True)
class HeadOutputs:
    """A head's inputs and outputs on n examples, in the graph of the model's parameters or not.

    Attributes
    ----------
    features : Tensor
        Shape (n, d), what goes into the head.
    logits : Tensor
        Shape (n, outputs).
    labels, positions : Tensor
        Shape (n, ...) and int64, shape (n,); a position is an example's place among the client's
        of its domain.
    head : nn.Module
        The head.
    parameters : Sequence[Tensor]
        The model's trainable parameters.
    loss : OutputLoss
        What is minimised, as a function of the logits.

    Examples
    --------
    >>> import torch
    >>> from atoll.clients import SplitModel
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(model.weight)
    >>> outputs = SplitModel(model)(torch.eye(2), torch.tensor([0, 0]), torch.arange(2))
    >>> outputs.losses.detach().round(decimals=3), outputs.residuals.detach().round(decimals=3)
    (tensor([0.3130, 1.3130]), tensor([[-0.2690,  0.2690],
            [-0.7310,  0.7310]]))
    """

    features: Tensor
    logits: Tensor
    labels: Tensor
    positions: Tensor
    head: nn.Module
    parameters: Sequence[Tensor]
    loss: OutputLoss = CROSS_ENTROPY

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Tensor) -> HeadOutputs:
        """Return the outputs of some of the examples, by their indices."""
        return replace(
            self,
            features=self.features[chosen],
            logits=self.logits[chosen],
            labels=self.labels[chosen],
            positions=self.positions[chosen],
        )

    @cached_property
    def detached(self) -> HeadOutputs:
        """The same outputs, outside of any graph."""
        if not self.logits.requires_grad and not self.features.requires_grad:
            return self
        return replace(self, features=self.features.detach(), logits=self.logits.detach())

    @cached_property
    def losses(self) -> Tensor:
        """Each example's loss, shape (n,)."""
        return self.loss.losses(self.logits, self.labels)

    @cached_property
    def residuals(self) -> Tensor:
        """Return r, the loss's gradient by the logits: shape (n, outputs)."""
        return self.loss.residuals(self.logits, self.labels)

    @cached_property
    def curvatures(self) -> Tensor:
        """Return the diagonal of A, the loss's Hessian by the logits: shape (n, outputs)."""
        return self.loss.curvatures(self.logits, self.labels)

    @cached_property
    def inputs(self) -> Tensor:
        """The features with a column of ones where the head has a bias: shape (n, d [+ 1])."""
        if getattr(self.head, "bias", None) is None:
            return self.features
        return torch.cat([self.features, self.features.new_ones(len(self), 1)], 1)

    @property
    def has_linear_head(self) -> bool:
        """Whether the closed forms hold."""
        return isinstance(self.head, nn.Linear) and not parametrize.is_parametrized(self.head)

    def as_matrices(self, vectors: Tensor) -> Tensor:
        """Return vectors of the head's parameters, (..., h), as (..., outputs, d [+ 1])."""
        return vectors.reshape(*vectors.shape[:-1], self.logits.shape[1], self.inputs.shape[1])

    def project(self, vectors: Tensor) -> Tensor:
        """Return V z for each vector V, (k, h), and each example: shape (k, n, outputs)."""
        return self.inputs @ self.as_matrices(vectors).mT

    def gradient_along(self, vector: Tensor) -> Tensor:
        """Return <vector, sum over the examples of the head's gradient>, a scalar.

        Parameters
        ----------
        vector : Tensor
            Shape (h,): the head's parameters, each output's weights and then its bias where the
            head is linear, else in the order of ``head.parameters()``.
        """
        if self.has_linear_head:
            return (self.residuals * self.project(vector[None])[0]).sum()
        return self._differentiable_gradient() @ vector

    def curvature_along(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the sum over k of <left_k, H right_k>, H being the sum of the head's Hessians.

        Parameters
        ----------
        left, right : Tensor
            Shape (k, h), laid out as in :meth:`gradient_along`.
        """
        if self.has_linear_head:
            return self.loss.curvature_along(
                self.logits, self.labels, self.project(left), self.project(right)
            )
        gradient = self._differentiable_gradient()
        return torch.stack(
            [
                _flat_gradient(gradient @ v.detach(), self.head, create_graph=True) @ u
                for u, v in zip(left, right, strict=True)
            ]
        ).sum()

    def _differentiable_gradient(self) -> Tensor:
        with torch.enable_grad():
            loss = self.loss.losses(self.head(self.features), self.labels).sum()
            return _flat_gradient(loss, self.head, create_graph=True)


def _flat_gradient(value: Tensor, head: nn.Module, *, create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        value, list(head.parameters()), create_graph=create_graph, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
