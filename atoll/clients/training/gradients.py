"""Gradients of a client's loss: of a batch, and over all examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

# Takes the indices of a batch's examples; returns the loss to descend and the task's mean loss.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
# The same two of a batch, and its number of examples.
BatchLoss = tuple[Tensor, Tensor, int]


def losses_in_batches(objective: Objective, examples: int, batch_size: int) -> Iterator[BatchLoss]:
    """Yield an objective on all examples, ``batch_size`` at a time, for :func:`full_gradient`."""
    for chosen in torch.split(torch.arange(examples), batch_size):
        if len(chosen):
            yield *objective(chosen), len(chosen)


def full_gradient(
    losses: Iterable[BatchLoss], parameters: Sequence[Tensor], examples: int
) -> tuple[list[Tensor], float]:
    """Return an objective's gradient over all examples, and the mean cross-entropy.

    Parameters
    ----------
    losses : Iterable[BatchLoss]
        The objective on the batches that the examples are cut into; the loss over all is their
        weighted mean. How they are cut changes nothing but the order of additions.
    parameters : Sequence[Tensor]
        What to differentiate by.
    examples : int
        How many there are; with none, the gradient is zero.
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    mean: Tensor | float = 0.0
    for loss, cross_entropy, count in losses:
        share = count / examples
        torch._foreach_add_(total, gradients_of(loss, parameters), alpha=share)
        mean = mean + cross_entropy.detach().double() * share
    return total, float(mean)


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of ``loss`` by each parameter; zero where it does not depend on it."""
    return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
