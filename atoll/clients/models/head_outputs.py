"""Inputs and outputs of a head on some examples, and its gradient and Hessian from them.

Notation (Hemati et al., "Understanding Hessian Alignment for Domain Generalization", ICCV 2023,
for a linear head with softmax or sigmoid cross-entropy): z is an example's features with a 1 for
the bias, p its probabilities, r = p - y. The gradient is r (x) z; the Hessian is A (x) z z^T with
A = diag(p) - p p^T (softmax) or p(1 - p) (sigmoid), and does not depend on y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from atoll.clients.tasks.losses import is_sigmoid, losses_of, probabilities_of, targets_of


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
        int64, shape (n,); a position is an example's place among the client's of its domain.
    head : nn.Module
        The head.
    parameters : Sequence[Tensor]
        The model's trainable parameters.

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

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, chosen: Tensor) -> HeadOutputs:
        """Return the outputs of some of the examples, by their indices."""
        return HeadOutputs(
            self.features[chosen],
            self.logits[chosen],
            self.labels[chosen],
            self.positions[chosen],
            self.head,
            self.parameters,
        )

    @cached_property
    def detached(self) -> HeadOutputs:
        """The same outputs, outside of any graph."""
        if not self.logits.requires_grad and not self.features.requires_grad:
            return self
        return HeadOutputs(
            self.features.detach(),
            self.logits.detach(),
            self.labels,
            self.positions,
            self.head,
            self.parameters,
        )

    @cached_property
    def losses(self) -> Tensor:
        """Each example's cross-entropy, shape (n,)."""
        return losses_of(self.logits, self.labels)

    @cached_property
    def probabilities(self) -> Tensor:
        """Shape (n, outputs)."""
        return probabilities_of(self.logits)

    @cached_property
    def residuals(self) -> Tensor:
        """Return r = p - y, the loss's gradient by the logits: shape (n, outputs)."""
        return self.probabilities - targets_of(self.logits, self.labels)

    @cached_property
    def inputs(self) -> Tensor:
        """The features with a column of ones where the head has a bias: shape (n, d [+ 1])."""
        if getattr(self.head, "bias", None) is None:
            return self.features
        return torch.cat([self.features, self.features.new_ones(len(self), 1)], 1)

    @property
    def has_linear_head(self) -> bool:
        """Whether the closed forms hold."""
        return isinstance(self.head, nn.Linear)

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
            return self._linear_curvature(self.project(left), self.project(right))
        gradient = self._differentiable_gradient()
        return torch.stack(
            [
                _flat_gradient(gradient @ v.detach(), self.head, create_graph=True) @ u
                for u, v in zip(left, right, strict=True)
            ]
        ).sum()

    def _linear_curvature(self, left: Tensor, right: Tensor) -> Tensor:
        p = self.probabilities
        if is_sigmoid(self.logits):
            return (p * (1 - p) * left * right).sum()
        p_right = p * right
        covariance = (p * left).sum(-1) * p_right.sum(-1)
        return (left * p_right).sum() - covariance.sum()

    def _differentiable_gradient(self) -> Tensor:
        with torch.enable_grad():
            loss = losses_of(self.head(self.features), self.labels).sum()
            return _flat_gradient(loss, self.head, create_graph=True)


def _flat_gradient(value: Tensor, head: nn.Module, *, create_graph: bool) -> Tensor:
    gradients = torch.autograd.grad(
        value, list(head.parameters()), create_graph=create_graph, materialize_grads=True
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
