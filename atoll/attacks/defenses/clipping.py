"""Clipping by the norm of all values, as Flower's ``fixedclipping_mod`` clips an update.

Attacks that match directions (cosine) are not hindered by it at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from atoll.attacks.defenses.defense import Compute, Defense, Estimate, Task
from atoll.attacks.defenses.tensors import joint_norm


class Clipping(Defense):
    """Scales to norm ``bound`` what is longer.

    Attributes
    ----------
    bound : float
        The largest L2 norm, over all parameters together.
    """

    name: ClassVar[str] = "clipping"
    is_mimicked: ClassVar[bool] = True

    bound: Annotated[float, Field(gt=0.0)] = 1.0

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Clip."""
        return clipped(compute(task), torch.tensor(self.bound))

    @classmethod
    def estimate(cls, observed: Sequence[Tensor], model: nn.Module) -> Estimate:
        """Take the observed norm for the bound: exact wherever it was clipped."""
        bound = joint_norm(observed).detach()
        return Estimate({"bound": float(bound)}, [bound])

    @classmethod
    def mimic(cls, gradient: Sequence[Tensor], estimate: Estimate) -> list[Tensor]:
        """Clip, the factor being held constant."""
        return clipped(gradient, estimate.tensors[0])


def clipped(gradient: Sequence[Tensor], bound: Tensor) -> list[Tensor]:
    """Return ``gradient`` scaled to norm ``bound`` if it is longer; the factor has no graph."""
    norm = joint_norm([values.detach() for values in gradient])
    factor = torch.clamp(bound.to(norm) / norm.clamp_min(torch.finfo(norm.dtype).tiny), max=1.0)
    return [values * factor for values in gradient]
