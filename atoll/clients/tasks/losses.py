"""Classification loss of a model's output: one rule for training, evaluation and moments.

A model with one logit for two classes has a sigmoid head: the logit is that of class 1, and the
loss is binary cross-entropy. Every other output is one logit a class: softmax and cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def is_sigmoid(logits: Tensor) -> bool:
    """Tell whether ``logits``, of shape (..., outputs), come from a sigmoid head (one output)."""
    return logits.shape[-1] == 1


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's cross-entropy.

    Parameters
    ----------
    logits : Tensor
        Shape (n, classes), or (n, 1) for a sigmoid head.
    labels : Tensor
        int64, shape (n,); 0 or 1 for a sigmoid head.

    Returns
    -------
    Tensor
        Shape (n,), in nats.
    """
    if is_sigmoid(logits):
        wanted = labels.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), wanted, reduction="none")
    return F.cross_entropy(logits, labels, reduction="none")


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of :func:`losses_of`, a scalar."""
    if is_sigmoid(logits):
        return F.binary_cross_entropy_with_logits(logits.squeeze(-1), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def probabilities_of(logits: Tensor) -> Tensor:
    """Return the probabilities that go with the logits: shape (n, classes), or (n, 1)."""
    return torch.sigmoid(logits) if is_sigmoid(logits) else torch.softmax(logits, -1)


def targets_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels in the shape of the probabilities: one-hot, or (n, 1) for a sigmoid."""
    if is_sigmoid(logits):
        return labels.to(logits.dtype).unsqueeze(-1)
    return F.one_hot(labels, logits.shape[-1]).to(logits.dtype)


def predictions_of(logits: Tensor) -> Tensor:
    """Return the most probable class of each example: int64, shape (n,)."""
    return (logits.squeeze(-1) > 0).long() if is_sigmoid(logits) else logits.argmax(-1)
