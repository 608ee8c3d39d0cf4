"""Orthogonal gradients: a step that lowers the loss, orthogonal to the gradient.

Zhang et al., "CENSOR: Defense Against Gradient Inversion via Orthogonal Subspace Bayesian
Sampling", NDSS 2025. Random directions r become n = r - <r, g> / ||g||^2 g in each tensor, scaled
to ||g||; the one after which the client's loss is least is sent. (The published implementation
divides by ||g|| and is orthogonal for gradients of norm 1 only.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from atoll.attacks.defenses.base.defense import Compute, Defense, Estimate, Task
from atoll.attacks.defenses.base.tensors import gaussian
from atoll.clients.ranges import Rate, Repetitions, Rounds
from atoll.clients.training.step_mods import LocalStep


class OrthogonalGradient(Defense):
    """Best of some directions orthogonal to the gradient, sent on each step.

    A tensor of one value has no direction orthogonal to its own, and is zero.

    Attributes
    ----------
    trials : int
        Directions that are tried.
    learning_rate : float
        The length of the trial step.
    rounds : int or None
        It acts in so many first rounds (the paper: early gradients tell most); None for all.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import OrthogonalGradient
    >>> sent = [torch.tensor([0.0, 2.0])]
    >>> estimate = OrthogonalGradient.estimate(sent, torch.nn.Identity())
    >>> OrthogonalGradient.mimic([torch.tensor([3.0, 0.0])], estimate)  # orthogonal to it
    [tensor([0., 2.])]
    """

    name: ClassVar[str] = "orthogonal"
    is_mimicked: ClassVar[bool] = True

    acts_on: Literal["step"] = "step"
    trials: Repetitions = 20
    learning_rate: Rate = 1e-4
    rounds: Rounds | None = 10

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Replace the gradient."""
        gradient = compute(task)
        if self.rounds is not None and task.server_round > self.rounds:
            return gradient
        step = task.step
        assert step is not None
        trials = [
            orthogonal_to(gradient, gaussian(gradient, task.generator)) for _ in range(self.trials)
        ]
        losses = [_loss_after(step, trial, self.learning_rate) for trial in trials]
        return trials[int(torch.stack(losses).argmin())]

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Return the sent direction: the gradient is known to be orthogonal to it."""
        return Estimate(tensors=[values.detach() for values in observed])

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Return the sent direction plus the gradient's component along it.

        That equals what was sent exactly where the gradient is orthogonal to it in every tensor,
        which is all that is known.
        """
        return [
            sent + along(values, sent)
            for values, sent in zip(gradient, estimate.tensors, strict=True)
        ]


def along(values: Tensor, direction: Tensor) -> Tensor:
    """Return the orthogonal projection of ``values`` on ``direction``; 0 if that is 0."""
    square = direction.square().sum().clamp_min(torch.finfo(direction.dtype).tiny)
    return (values * direction).sum() / square * direction


def orthogonal_to(gradient: Sequence[Tensor], directions: Sequence[Tensor]) -> list[Tensor]:
    """Return each direction without its part along the gradient, scaled to the gradient's norm."""
    results = []
    for values, direction in zip(gradient, directions, strict=True):
        if values.numel() == 1:
            results.append(torch.zeros_like(values))
            continue
        # Twice: rounding leaves some of the gradient where the direction was nearly along it.
        rest = direction - along(direction, values)
        rest = rest - along(rest, values)
        norm = rest.norm().clamp_min(torch.finfo(rest.dtype).tiny)
        results.append(rest * (values.norm() / norm))
    return results


@torch.no_grad()
def _loss_after(step: LocalStep, direction: Sequence[Tensor], learning_rate: float) -> Tensor:
    """Return the batch's loss after a trial step; the model is as it was afterwards."""
    before = [parameter.clone() for parameter in step.parameters]
    was_training = step.model.training
    step.model.eval()
    torch._foreach_add_(list(step.parameters), list(direction), alpha=-learning_rate)
    try:
        return step.objective()[0]
    finally:
        torch._foreach_copy_(list(step.parameters), before)
        step.model.train(was_training)
