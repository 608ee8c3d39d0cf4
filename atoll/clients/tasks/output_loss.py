"""Loss as a function of a model's outputs: its values, gradient and curvature in closed form.

For a linear head W with inputs z, an example's gradient by W is r (x) z and its Hessian
A (x) z z^T, where r and A are the loss's gradient and Hessian by the outputs. Softmax and sigmoid
cross-entropy: r = p - y, and A = diag(p) - p p^T or p(1 - p) (Hemati et al., 2023). Half a squared
error: r = o - t, A = 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from atoll.clients.tasks.losses import (
    is_sigmoid,
    losses_of,
    mean_loss,
    probabilities_of,
    targets_of,
)


class OutputLoss(ABC):
    """Base of losses of outputs, shape (n, outputs), and targets, shape (n, ...)."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return each example's loss, shape (n,)."""

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of :meth:`losses`, a scalar."""
        return self.losses(outputs, targets).mean()

    @abstractmethod
    def residuals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return r, the loss's gradient by the outputs: shape (n, outputs)."""

    @abstractmethod
    def curvatures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the diagonal of A, the loss's Hessian by the outputs: shape (n, outputs)."""

    def curvature_along(
        self, outputs: Tensor, targets: Tensor, left: Tensor, right: Tensor
    ) -> Tensor:
        """Return the sum over vectors and examples of <left, A right>, a scalar.

        Parameters
        ----------
        left, right : Tensor
            Shape (k, n, outputs).
        """
        return (self.curvatures(outputs, targets) * left * right).sum()


class CrossEntropy(OutputLoss):
    """Softmax cross-entropy, or that of a sigmoid where there is one output."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`OutputLoss`."""
        return losses_of(outputs, targets)

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`OutputLoss`."""
        return mean_loss(outputs, targets)

    def residuals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return p - y."""
        return probabilities_of(outputs) - targets_of(outputs, targets)

    def curvatures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return p(1 - p)."""
        p = probabilities_of(outputs)
        return p * (1 - p)

    def curvature_along(
        self, outputs: Tensor, targets: Tensor, left: Tensor, right: Tensor
    ) -> Tensor:
        """See :class:`OutputLoss`; the outputs of a softmax curve together."""
        p = probabilities_of(outputs)
        if is_sigmoid(outputs):
            return (p * (1 - p) * left * right).sum()
        p_right = p * right
        covariance = (p * left).sum(-1) * p_right.sum(-1)
        return (left * p_right).sum() - covariance.sum()


CROSS_ENTROPY = CrossEntropy()
