"""Terms that lead to flat minima: a second gradient, at parameters uphill of the step's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from atoll.clients.ranges import Positive
from atoll.clients.settings import ClientSettings
from atoll.clients.tasks.regression import Regression
from atoll.clients.tasks.task import Task
from atoll.clients.training.gradients import gradients_of
from atoll.clients.training.objective.term import (
    GradientAt,
    ObjectiveTerm,
    TermBatch,
    TermContext,
    TermRun,
)

# As in the released codes of SAM and of gradient-norm penalties.
EPSILON = 1e-12


class SharpnessAware(ObjectiveTerm):
    """FedSAM's local step: the gradient at w + rho g/||g||, in place of g (Qu et al., 2022).

    With a weight below 1 the step's gradient is (1 - weight) g + weight g(w + rho g/||g||).

    Attributes
    ----------
    weight : float
        The share of the gradient at the perturbed parameters.
    rho : float
        How far uphill the second gradient is taken.
    """

    asks_for_second_gradient: ClassVar[bool] = True

    rho: Positive = 0.05

    def begin(self, context: TermContext) -> TermRun:
        """Return the second gradient as the step's."""

        def gradient(first: list[Tensor], at: GradientAt) -> list[Tensor]:
            return _mixed(first, at(uphill(first, self.rho)), self.weight)

        return TermRun(gradient=gradient)


class GradientNormPenalty(ObjectiveTerm):
    """Penalty weight ||grad L|| of a gradient's norm, by a finite difference along it.

    Its gradient is weight H g/||g||, which is (g(w + r g/||g||) - g)/r for a small r: one more
    gradient a step (Zhao et al., 2022, "Penalizing Gradient Norm", eq. 8), and two more where the
    gradient is not the loss's.

    Attributes
    ----------
    weight : float
        What the norm is multiplied by.
    radius : float
        r: how far the second gradient is from the first.
    of : str
        Whose gradient by the parameters: the "loss", or the mean "output" of a regression (IGNITE;
        Dao et al., 2024).
    """

    asks_for_second_gradient: ClassVar[bool] = True

    radius: Positive = 0.01
    of: Literal["loss", "output"] = "loss"

    def check(self, task: Task, settings: ClientSettings) -> None:
        """Refuse a mean output that means nothing."""
        if self.of == "output" and not isinstance(task, Regression):
            raise ValueError(
                f"of = 'output': the mean output of a {task.kind} is no prediction; expected a "
                "regression, or 'loss'"
            )

    def begin(self, context: TermContext) -> TermRun:
        """Return the step's gradient and the penalty's."""
        if self.of == "output":
            return self._of_output(context)

        def gradient(first: list[Tensor], at: GradientAt) -> list[Tensor]:
            second = at(uphill(first, self.radius))
            return _mixed(first, second, self.weight / self.radius)

        return TermRun(gradient=gradient)

    def _of_output(self, context: TermContext) -> TermRun:
        by_name = dict(context.model.named_parameters())
        parameters: list[Tensor] = [by_name[name] for name in context.names]
        seen: list[Tensor] = []

        def loss(batch: TermBatch) -> Tensor:
            seen[:] = [batch.inputs]
            return batch.outputs.new_zeros(())

        def of_output() -> list[Tensor]:
            return list(gradients_of(context.model(seen[0]).mean(), parameters))

        def gradient(first: list[Tensor], at: GradientAt) -> list[Tensor]:
            here, kept = of_output(), [p.detach().clone() for p in parameters]
            with torch.no_grad():
                torch._foreach_add_(parameters, uphill(here, self.radius))
            there = of_output()
            with torch.no_grad():
                torch._foreach_copy_(parameters, kept)
            slope = torch._foreach_sub(there, here)
            return list(torch._foreach_add(first, slope, alpha=self.weight / self.radius))

        return TermRun(loss=loss, gradient=gradient)


def uphill(gradients: Sequence[Tensor], radius: float) -> list[Tensor]:
    """Return ``radius`` g/||g||, with the norm over all tensors."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))))
    return list(torch._foreach_mul(list(gradients), radius / (norm + EPSILON)))


def _mixed(first: Sequence[Tensor], second: Sequence[Tensor], share: float) -> list[Tensor]:
    if share == 1.0:
        return list(second)
    return list(torch._foreach_lerp(list(first), list(second), share))
