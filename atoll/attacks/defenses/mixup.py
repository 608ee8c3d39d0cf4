"""MixUp as a defense: the gradient of mixed images in place of the client's own.

Zhang et al., 2018; as a defense in Huang et al., "Evaluating Gradient Inversion Attacks and
Defenses in Federated Learning", 2021.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from atoll.attacks.defenses.base.defense import Compute, Defense, Task
from atoll.clients.training.mixup_objective import mixup_objective


class MixUp(Defense):
    """Mixup of each image of a batch with another of it, on each step.

    It replaces the step's loss by the mixed cross-entropy. A batch of one image has no other to mix
    with, and stays as it is.

    Attributes
    ----------
    alpha : float
        Parameter of the Beta(alpha, alpha) distribution of the batch's coefficient.

    Examples
    --------
    >>> from atoll.attacks import MixUp
    >>> MixUp(alpha=1.0).acts_on  # Beta(1, 1) is uniform
    'step'
    """

    name: ClassVar[str] = "mixup"

    acts_on: Literal["step"] = "step"
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Compute the gradient of the mixed batch."""
        step = task.step
        assert step is not None
        seed = int(torch.randint(2**62, (), generator=task.generator))
        ones = torch.ones(len(step.labels), device=step.images.device)
        mixed = mixup_objective(
            step.model, step.images, step.labels, self.alpha, seed, ones, step.losses_of
        )
        objective = partial(mixed, torch.arange(len(step.labels)))
        return compute(replace(task, step=replace(step, objective=objective)))
