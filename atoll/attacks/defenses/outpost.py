"""Outpost: pruning, and noise where the Fisher information is largest, by each layer's risk.

Wang, Hugh and Li, "More than Enough is Too Much: Adaptive Defenses against Gradient Leakage in
Production Federated Learning", INFOCOM 2023. A layer's risk is the variance of its weights, at
most 1. (The implementation that is published computes the perturbed gradient and returns the
other.)
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.defenses.base.defense import Compute, Task
from atoll.attacks.defenses.base.observed import MaskedDefense
from atoll.attacks.defenses.base.tensors import gaussian, largest
from atoll.attacks.defenses.pruning import kept
from atoll.clients.ranges import Share, Weight


class Outpost(MaskedDefense):
    """Pruning of each tensor, and N(0, (noise * risk)^2) where the squared gradient is large.

    Attributes
    ----------
    noise : float
        The deviation of the noise for a layer of risk 1.
    fisher : float
        The share of all values that get noise, in (0, 1]: those of the largest squares.
    pruned : float
        The share of each tensor's values that is set to zero first, in (0, 1).
    decay : float
        In round t, it acts with probability 1 / (1 + decay * t).

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Outpost, Task
    >>> update = [torch.tensor([5.0, 1.0, 2.0, 3.0])]
    >>> defense = Outpost(pruned=0.5, noise=0.0, decay=0.0)
    >>> defense.apply(Task(update), lambda task: list(update))
    [tensor([5., 0., 0., 3.])]
    """

    name: ClassVar[str] = "outpost"

    noise: Weight = 0.8
    fisher: Annotated[float, Field(ge=1e-9, le=1.0)] = 0.4
    pruned: Share = 0.8
    decay: Weight = 0.125

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Perturb, or in later rounds perhaps not."""
        gradient = compute(task)
        drawn = float(torch.rand((), generator=task.generator))
        if drawn >= 1.0 / (1.0 + self.decay * task.server_round):
            return gradient
        squares = torch.cat([values.flatten() for values in gradient]).square()
        noisy = largest(squares, round(self.fisher * len(squares)))
        noisy_parts = torch.split(noisy, [values.numel() for values in gradient])
        noises = gaussian(gradient, task.generator)
        return [
            values * kept(values, self.pruned)
            + part.view(values.shape) * noise * (self.noise * risk_of(parameter))
            for values, part, noise, parameter in zip(
                gradient, noisy_parts, noises, task.parameters, strict=True
            )
        ]


def risk_of(parameter: Tensor) -> Tensor:
    """Return a layer's risk: the variance of its values, at most 1; a single value has none."""
    values = parameter.detach()
    if values.numel() < 2:
        return values.new_zeros(())
    return values.var().clamp(max=1.0)
