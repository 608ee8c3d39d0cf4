"""Clipping of an update by its norm, as Flower's ``fixedclipping_mod``.

Attacks that match directions (cosine) are not hindered by it at all.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from atoll.attacks.defenses.base.defense import Compute, Task
from atoll.attacks.defenses.base.observed import BoundedDefense, clipped
from atoll.clients.ranges import Norm


class Clipping(BoundedDefense):
    """Clipping of an update to norm ``bound``.

    Attributes
    ----------
    bound : float
        The largest L2 norm, over all parameters together.

    Examples
    --------
    >>> import torch
    >>> from atoll.attacks import Clipping, Task
    >>> update = [torch.tensor([3.0, 4.0])]
    >>> Clipping(bound=1.0).apply(Task(update), lambda task: update)
    [tensor([0.6000, 0.8000])]
    """

    name: ClassVar[str] = "clipping"

    bound: Norm = 1.0

    def apply(self, task: Task, compute: Compute) -> list[Tensor]:
        """Clip."""
        return clipped(compute(task), torch.tensor(self.bound))
