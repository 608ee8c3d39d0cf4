"""Minimisation loop of attacks: a batch of candidates, of which the best states are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.attacks.optim.step_rules import StepRule
from atoll.attacks.optim.step_size_schedules import Schedule, constant

# Returns each candidate's cost with its priors, which is descended, and its matching cost alone.
Objective = Callable[[list[Tensor]], tuple[Tensor, Tensor]]
Projection = Callable[[list[Tensor]], None]
# Steps between looks at whether all candidates are done; each look waits for the device.
LOOK_EVERY = 10
# Points of a cost path that are kept.
PATH_POINTS = 200


@dataclass(frozen=True)
class NuisanceObjective:
    """Objective with nuisance variables of its own.

    Attributes
    ----------
    function : Objective
        Function of the variables, followed by the nuisance variables.
    nuisance : tuple[Tensor, ...]
        Initial values of these, each (candidates, ...); they are minimised as the others are.
    """

    function: Objective
    nuisance: tuple[Tensor, ...]

    def __call__(self, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the costs."""
        return self.function(values)


@dataclass(frozen=True)
class GradientRegularization:
    """Descent towards flat places: gradients are mixed with those a small step uphill.

    It is the derivative, by finite differences, of the cost plus a penalty on its gradient's norm
    (Zhao et al., 2022, eq. 8; for gradient inversion FedLeak, Fan et al., 2025). A step costs two
    gradients.

    Attributes
    ----------
    weight : float
        Share of the gradient uphill, in [0, 1]; 0 is plain descent.
    radius : float
        Length of the step uphill, of each candidate's variables together: the root mean square of
        their changes.
    """

    weight: float
    radius: float


@dataclass(frozen=True)
class Minimum:
    """Result of a minimisation.

    Attributes
    ----------
    values : list[Tensor]
        Each (candidates, ...): per candidate those of the lowest cost with priors that was seen.
    costs, matching : Tensor
        Shape (candidates,): that cost, and the matching cost at the same values.
    path : Tensor
        Shape (candidates, points): the matching cost, evenly over the steps.
    steps : int
        Number of steps taken.
    nuisance : tuple[Tensor, ...]
        The objective's own variables at the same place.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Adam, minimize
    >>> def objective(values):
    ...     costs = (values[0] - torch.tensor([[3.0], [-3.0]])).square().sum(1)
    ...     return costs, costs
    >>> found = minimize(objective, [torch.zeros(2, 1)], Adam(0.1), steps=200)
    >>> found.values[0].round().tolist(), bool((found.costs < 1e-2).all()), found.steps
    ([[3.0], [-3.0]], True, 200)
    """

    values: list[Tensor]
    costs: Tensor
    matching: Tensor
    path: Tensor
    steps: int
    nuisance: tuple[Tensor, ...] = ()


def minimize(
    objective: Objective,
    start: Sequence[Tensor],
    rule: StepRule,
    steps: int,
    *,
    schedule: Schedule = constant,
    project: Projection | None = None,
    regularization: GradientRegularization | None = None,
    tolerance: float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> Minimum:
    """Minimise a stack of candidates that do not depend on each other.

    Parameters
    ----------
    objective : Objective
        Objective of all candidates. A candidate's cost may depend on the values of others only as
        constants. A :class:`NuisanceObjective` is minimised by its own variables too.
    start : Sequence[Tensor]
        The variables, each (candidates, ...); they are copied.
    rule : StepRule
        Moves the candidates.
    steps : int
        Largest number of steps; the values after the last step are evaluated too.
    schedule : Schedule
        Factors of the learning rate.
    project : Projection, optional
        Puts values back where they may be, in place, after each step.
    regularization : GradientRegularization, optional
        By default none, as with one of weight 0.
    tolerance : float
        It ends when every candidate's matching cost is below.
    on_step : callable, optional
        Told how many steps are done.

    Returns
    -------
    Minimum
        The best of each candidate. Where a cost is not finite, what came before is kept.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Adam, minimize
    >>> def objective(values):
    ...     costs = (values[0] - 3).square().sum(1)
    ...     return costs, costs
    >>> found = minimize(objective, [torch.zeros(2, 1)], Adam(0.1), steps=200)
    >>> found.values[0].round(decimals=1)
    tensor([[3.],
            [3.]])
    """
    nuisance = objective.nuisance if isinstance(objective, NuisanceObjective) else ()
    values = [value.detach().clone().requires_grad_() for value in (*start, *nuisance)]
    wanted = values[: len(start)]
    best = [value.detach().clone() for value in values]
    costs = torch.full((len(start[0]),), torch.inf, device=start[0].device)
    matching, path = costs.clone(), list[Tensor]()
    every = max(1, steps // PATH_POINTS)
    done = 0
    for step in range(steps + 1):
        total, fit = objective(values)
        with torch.no_grad():
            better = total < costs
            costs = torch.where(better, total, costs)
            matching = torch.where(better, fit, matching)
            for kept, value in zip(best, values, strict=True):
                torch.where(_like(better, value), value, kept, out=kept)
        if step % every == 0:
            path.append(fit.detach())
        if step == steps or (tolerance and step % LOOK_EVERY == 0 and _all_below(fit, tolerance)):
            break
        gradients = torch.autograd.grad(total, values, torch.ones_like(total))
        if regularization is not None and regularization.weight:
            gradients = _regularized(objective, values, gradients, regularization)
        with torch.no_grad():
            rule.step(values, gradients, schedule(step, steps))
            if project is not None:
                project(wanted)
        done = step + 1
        if on_step is not None:
            on_step(done)
    return Minimum(
        best[: len(start)],
        costs.detach(),
        matching.detach(),
        torch.stack(path, 1),
        done,
        tuple(best[len(start) :]),
    )


def _regularized(
    objective: Objective,
    values: Sequence[Tensor],
    gradients: Sequence[Tensor],
    regularization: GradientRegularization,
) -> tuple[Tensor, ...]:
    """Return gradients mixed with those a step uphill."""
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    count = sum(gradient[0].numel() for gradient in gradients)
    length = regularization.radius * count**0.5
    size = length / squares.sqrt().clamp_min(torch.finfo(squares.dtype).tiny)
    moved = [
        (value.detach() + _like(size, gradient) * gradient).requires_grad_()
        for value, gradient in zip(values, gradients, strict=True)
    ]
    total, _ = objective(moved)
    uphill = torch.autograd.grad(total, moved, torch.ones_like(total))
    weight = regularization.weight
    return tuple(
        (1 - weight) * here + weight * there for here, there in zip(gradients, uphill, strict=True)
    )


def _like(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (value.dim() - 1))


def _all_below(costs: Tensor, tolerance: float) -> bool:
    return bool((costs < tolerance).all())
