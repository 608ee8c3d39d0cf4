"""Step rules: updates of an attack's candidates from their gradients.

A rule works on stacked variables: the first dimension of each tensor counts candidates, and no
candidate's step depends on another. Rules have a state, so each run makes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from atoll.clients.training.optimizers import Adam as LocalAdam

RuleName = Literal["adam", "signed-adam", "lbfgs"]
# torch.optim.LBFGS's: pairs with a smaller curvature are not remembered.
LEAST_CURVATURE = 1e-10


class StepRule(Protocol):
    """Rule that updates candidates in place."""

    def step(self, values: list[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
        """Take one step.

        Parameters
        ----------
        values : list[Tensor]
            Each (candidates, ...); changed in place.
        gradients : Sequence[Tensor]
            Gradients of the same shapes.
        factor : float
            The schedule's factor of the learning rate.
        """


class Adam:
    """Adam; elementwise, so candidates are independent.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Adam
    >>> values = [torch.zeros(2, 3)]  # two candidates
    >>> Adam(0.1).step(values, [torch.tensor([[1.0, -2.0, 0.0], [5.0, 5.0, 5.0]])], factor=1.0)
    >>> values[0].round(decimals=3)
    tensor([[-0.1000,  0.1000,  0.0000],
            [-0.1000, -0.1000, -0.1000]])
    """

    def __init__(self, learning_rate: float) -> None:
        self._rate = learning_rate
        self._adam = LocalAdam(learning_rate, 0.0)

    def step(self, values: list[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
        """Take one step."""
        self._adam.learning_rate = self._rate * factor
        self._adam.step(values, list(gradients))


class SignedAdam(Adam):
    """Adam on the sign of the gradient (Geiping et al., 2020, sec. 4).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import SignedAdam
    >>> values, rule = [torch.zeros(1, 2)], SignedAdam(0.1)
    >>> for size in (1.0, 100.0):
    ...     rule.step(values, [torch.tensor([[size, -size]])], factor=1.0)
    >>> values[0].round(decimals=3)  # the size of the gradient makes no difference
    tensor([[-0.2000,  0.2000]])
    """

    def step(self, values: list[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
        """Take one step."""
        super().step(values, [gradient.sign() for gradient in gradients], factor)


class Langevin:
    """Another rule, and Gaussian noise after each of its steps (GradInversion; Yin et al., 2021).

    Parameters
    ----------
    rule : StepRule
        The rule.
    scale : float
        The noise's standard deviation, as a share of the learning rate.
    learning_rate : float
        The rule's.
    generators : Sequence[torch.Generator]
        One a candidate.
    """

    def __init__(
        self,
        rule: StepRule,
        scale: float,
        learning_rate: float,
        generators: Sequence[torch.Generator],
    ) -> None:
        self._rule = rule
        self._scale = scale * learning_rate
        self._generators = generators

    def step(self, values: list[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
        """Take one step, and add noise."""
        self._rule.step(values, gradients, factor)
        for value in values:
            noise = torch.stack(
                [torch.randn(value.shape[1:], generator=g) for g in self._generators]
            )
            value.add_(noise.to(value), alpha=self._scale * factor)


class LBFGS:
    """Limited-memory BFGS without a line search, one a candidate, all at once.

    Each candidate moves as ``torch.optim.LBFGS`` with the same settings would move it; a candidate
    whose gradient is not finite stays where it is.

    Parameters
    ----------
    learning_rate : float
        The step's length along the quasi-Newton direction; the first step is at most as long as
        the inverse of the gradient's l1 norm.
    history : int
        Pairs of steps and gradient changes that are remembered.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import LBFGS, minimize
    >>> def objective(values):
    ...     costs = (torch.tensor([1.0, 50.0]) * (values[0] - 1).square()).sum(1)
    ...     return costs, costs
    >>> minimize(objective, [torch.zeros(1, 2)], LBFGS(), steps=20).values[0].round(decimals=3)
    tensor([[1., 1.]])
    """

    def __init__(self, learning_rate: float = 1.0, history: int = 100) -> None:
        self._rate = learning_rate
        self._history = history
        self._steps: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._inverse_curvatures: list[Tensor] = []
        self._scale: Tensor | None = None
        self._previous: Tensor | None = None
        self._moved: Tensor | None = None

    def step(self, values: list[Tensor], gradients: Sequence[Tensor], factor: float) -> None:
        """Take one step."""
        gradient = _flat(gradients)
        if self._previous is None or self._moved is None:
            self._scale = gradient.new_ones(len(gradient))
            direction = -gradient
            length = (1 / gradient.abs().sum(1)).clamp(max=1.0) * self._rate
        else:
            self._remember(self._moved, gradient - self._previous)
            direction = self._direction(gradient)
            length = gradient.new_full((len(gradient),), self._rate)
        moved = direction * (length * factor)[:, None]
        # A direction that is not finite would end the candidate; it waits in place instead.
        moved = torch.where(moved.isfinite().all(1, keepdim=True), moved, 0.0)
        self._previous, self._moved = gradient, moved
        start = 0
        for value in values:
            size = value[0].numel()
            value.add_(moved[:, start : start + size].view_as(value))
            start += size

    def _remember(self, step: Tensor, change: Tensor) -> None:
        curvature = (step * change).sum(1)
        kept = curvature > LEAST_CURVATURE
        assert self._scale is not None
        self._scale = torch.where(kept, curvature / change.square().sum(1), self._scale)
        # A candidate whose pair is not kept gets an empty one: of no effect in the recursion.
        self._steps.append(torch.where(kept[:, None], step, 0.0))
        self._changes.append(torch.where(kept[:, None], change, 0.0))
        self._inverse_curvatures.append(torch.where(kept, 1 / curvature, 0.0))
        if len(self._steps) > self._history:
            del self._steps[0], self._changes[0], self._inverse_curvatures[0]

    def _direction(self, gradient: Tensor) -> Tensor:
        """Return -H gradient by the two-loop recursion (Nocedal and Wright, algorithm 7.4)."""
        direction, coefficients = -gradient, list[Tensor]()
        remembered = list(zip(self._steps, self._changes, self._inverse_curvatures, strict=True))
        for step, change, inverse in reversed(remembered):
            coefficient = (step * direction).sum(1) * inverse
            coefficients.append(coefficient)
            direction = direction - coefficient[:, None] * change
        assert self._scale is not None
        direction = direction * self._scale[:, None]
        for (step, change, inverse), coefficient in zip(
            remembered, reversed(coefficients), strict=True
        ):
            correction = coefficient - (change * direction).sum(1) * inverse
            direction = direction + correction[:, None] * step
        return direction


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten(1) for tensor in tensors], 1)


def step_rule(name: RuleName, learning_rate: float) -> StepRule:
    """Return a new step rule."""
    if name == "lbfgs":
        return LBFGS(learning_rate)
    return SignedAdam(learning_rate) if name == "signed-adam" else Adam(learning_rate)
